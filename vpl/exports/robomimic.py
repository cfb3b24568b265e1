"""robomimic's HDF5."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from vpl.exports import Export, copy_frames
from vpl.format import RULE_ATTRIBUTES
from vpl.stats import column_stats


def export_robomimic(export: Export, output: Path) -> None:
    """One HDF5: data/demo_i with actions, rewards, dones, states and obs/, and mask/train and mask/valid.

    robomimic's actors end in a tanh, so `actions` are in [-1, 1]: column = offset + scale * actions, with the
    attributes action_offset and action_scale of data/, from the smallest and largest values of the list train. Actions
    of other episodes may lie beyond; they are not clipped, since that would falsify what a policy is validated on.
    """
    stats = column_stats(export.scaled_by, [export.action])[export.action]
    low, high = np.array(stats["min"]), np.array(stats["max"])
    offset, half_range = (high + low) / 2, (high - low) / 2
    scale = np.where(half_range > 1e-6, half_range, 1)  # a column that never moves is only shifted
    beyond = 0
    with h5py.File(output, "w", rdcc_nbytes=0, locking=False) as file:
        data = file.create_group("data")
        for index, episode in export.episodes():
            demo = data.create_group(f"demo_{index}")
            actions = episode[export.action][:]
            scaled = ((actions - offset) / scale).astype(np.float32)
            demo["actions"] = scaled
            beyond += int((np.abs(scaled).max(axis=1) > 1).sum())
            demo["states"] = episode["sim_state"][:]
            demo["rewards"] = episode["reward"][:]
            demo["dones"] = np.arange(len(actions)) == len(actions) - 1
            for name in export.columns(episode):
                demo[f"obs/{name}"] = episode[name][:].reshape(len(actions), -1)
            for camera, camera_name in enumerate(episode.camera_names):
                for stream, suffix in export.images(episode).items():
                    copy_frames(episode[stream], camera, demo["obs"], f"{camera_name}_{suffix}")
                demo[f"camera_poses/{camera_name}"] = episode["extrinsics"][:, camera]
            demo.attrs.update(num_samples=len(actions), source=episode.folder.name)
            told = ("success", *RULE_ATTRIBUTES)
            demo.attrs.update({key: episode.attrs[key] for key in told if key in episode.attrs})
        for name, mask in (("train", "train"), ("val", "valid")):
            if name in export.lists:
                file[f"mask/{mask}"] = np.array([f"demo_{i}" for i in export.lists[name]], "S")
        # type 2: a gym environment, as Isaac Lab writes it
        about = export.about()
        data.attrs.update(
            total=sum(demo.attrs["num_samples"] for demo in data.values()),
            action_offset=offset,
            action_scale=scale,
            env_args=json.dumps({"env_name": about["task"], "type": 2, "env_kwargs": {}}),
            vpl=json.dumps(about),
        )
    if beyond:
        print(f"{beyond} rows have actions beyond -1 ... 1, which is the range of the list train; they are not clipped")
