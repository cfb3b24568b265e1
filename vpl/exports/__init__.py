"""What every export has in common: the episodes, the columns that go along, and what a reader must know of them.

Example:
    for index, episode in export.episodes(): ...
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from tqdm import tqdm

from vpl.columns import Role
from vpl.format import IMAGES
from vpl.reader import Episode, load_episode


@dataclass(frozen=True)
class Export:
    """What to export, for every format."""

    name: str
    folders: list[Path]
    lists: dict[str, list[int]]
    """Numbers of the episodes of each list of splits.json, in the order of `folders`."""
    action: str
    """The column that becomes the action."""
    metadata: dict[str, Any]
    """The dataset's metadata.json."""
    scaled_by: list[Path]
    """The episodes whose range scales actions: the list train, also where another one is exported; else `folders`."""
    left_out: int
    """How many episodes of the dataset are not exported."""
    damaged: int
    """How many of these because they cannot be read."""
    privileged: bool
    """Whether what only a simulator knows goes along."""

    def columns(self, episode: Episode) -> list[str]:
        """What goes along besides images, calibration, the action and the reward, in the file's order."""
        known = episode.columns(Role.PRIVILEGED) if self.privileged else []
        return [*episode.columns(Role.STATE), *(name for name in known if name != "sim_state")]

    def images(self, episode: Episode) -> dict[str, str]:
        """The streams that go along, and what a camera's images of each are called after the camera's name."""
        streams = [name for name in episode.streams if self.privileged or IMAGES[name].role is Role.STATE]
        return {name: "image" if name == "color" else name for name in streams}

    def say_left_out(self) -> None:
        """Say which streams the format has no place for."""
        with load_episode(self.folders[0]) as first:
            if left_out := [name for name in self.images(first) if name != "color"]:
                print(f"{' and '.join(left_out)} left out: this format's policies take any image for one of colours")

    def about(self) -> dict[str, Any]:
        """What a reader must know of the numbers; JSON types."""
        with load_episode(self.folders[0]) as first:
            pose = first.declared["extrinsics"]
            columns: dict[str, Any] = {
                name: {
                    "role": first.declared[name].role.value,
                    "meaning": first.declared[name].meaning,
                    "unit": first.declared[name].unit,
                    "names": first.element_names(name),
                }
                for name in (self.action, *self.columns(first), "reward")
            }
            return {
                "dataset": self.name,
                "robot": self.metadata.get("arguments", {}).get("robot_name", "unknown"),
                "task": first.attrs["task"],
                "simulator": first.attrs["simulator"],
                "language_instruction": first.attrs["language_instruction"],
                "step_dt": first.attrs["step_dt"],
                "video_interval": first.attrs["video_interval"],
                "action": {"column": self.action, **columns.pop(self.action)},
                "columns": columns | {"extrinsics": {"role": Role.CALIBRATION.value, "meaning": pose.meaning}},
                "cameras": [
                    {"name": camera, "intrinsics": K.tolist()}
                    for camera, K in zip(first.camera_names, first["intrinsics"][:], strict=True)
                ],
                "streams": {
                    name: {"unit": IMAGES[name].unit, "meaning": IMAGES[name].meaning} for name in self.images(first)
                },
                **({"segmentation_ids": first.segment_ids} if "segmentation" in self.images(first) else {}),
                "conventions": self.metadata.get("conventions", {}),
                "episodes": [folder.name for folder in self.folders],
                "splits": self.lists,
            }

    def episodes(self) -> Any:
        """Each episode's number and file, with a progress bar."""
        for index, folder in enumerate(tqdm(self.folders, unit="episode", disable=not sys.stderr.isatty())):
            with load_episode(folder) as episode:
                yield index, episode


def copy_frames(images: h5py.Dataset, camera: int, group: h5py.Group, name: str) -> None:
    """A camera's frames as (T, H, W, channels), a frame a chunk: the stored chunks, neither inflated nor deflated."""
    frame = images.shape[2:] if images.ndim == 5 else (*images.shape[2:], 1)
    frames = group.create_dataset(
        name,
        (len(images), *frame),
        images.dtype,
        chunks=(1, *frame),
        compression=images.compression,
        compression_opts=images.compression_opts,
        shuffle=images.shuffle,
        fletcher32=images.fletcher32,
    )
    if images.chunks != (1, 1, *images.shape[2:]):  # another writer's
        frames[:] = images[:, camera].reshape(frames.shape)
        return
    for row in range(len(images)):
        mask, chunk = images.id.read_direct_chunk((row, camera, *(0,) * (images.ndim - 2)))
        frames.id.write_direct_chunk((row, 0, 0, 0), chunk, mask)
