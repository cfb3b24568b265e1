"""The folder of HDF5s that ACT trains on."""

from __future__ import annotations

import json
from pathlib import Path

import h5py

from vpl.exports import Export, copy_frames


def export_act(export: Export, output: Path) -> None:
    """A folder of HDF5s: action, observations/qpos, observations/qvel and observations/images/<camera>."""
    output.mkdir()
    export.say_left_out()
    of_all = ("episodes", "splits")  # not in each file; `source` says which episode it is
    about = json.dumps({key: value for key, value in export.about().items() if key not in of_all})
    lengths = set()
    for index, episode in export.episodes():
        with h5py.File(output / f"episode_{index}.hdf5", "w", rdcc_nbytes=0, locking=False) as file:
            file["action"] = episode[export.action][:]
            file["observations/qpos"], file["observations/qvel"] = episode["joint_pos"][:], episode["joint_vel"][:]
            images = file.create_group("observations/images")
            for camera, name in enumerate(episode.camera_names):
                copy_frames(episode["color"], camera, images, name)
            # sim: an action belongs to the observation of its own row, not to the one before
            file.attrs.update(sim=True, compress=False, source=episode.folder.name, vpl=about)
            lengths.add(len(file["action"]))
    if len(export.lists) > 1:
        print("ACT's own loader knows no lists and would also train on val; --split train leaves it out")
    if len(lengths) > 1:
        print(f"episodes have {min(lengths)} to {max(lengths)} rows; ACT's own loader wants one length for all")
