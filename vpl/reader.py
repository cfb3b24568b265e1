"""Reads episodes, one at a time and lazily; `vpl_dataset.py` hands this on to programs that train.

Example:
    with load_episode("vpl_tiled/.../episode_000") as episode:
        image, action = episode["color"][t, 0], episode["action"][t]
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np

from vpl import deflate
from vpl.columns import Column, Role
from vpl.format import declared, stream_names
from vpl.listing import all_episode_folders

DEFLATE, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


@dataclass(frozen=True)
class Episode:
    """One episode, read lazily: `episode["color"][t, c]` reads one frame of one camera."""

    folder: Path
    h5: h5py.File

    def __getitem__(self, name: str) -> h5py.Dataset:
        """The dataset `name`, as vpl_saver.py describes it; slice it to get an array."""
        return self.h5[name]

    @property
    def attrs(self) -> dict[str, Any]:
        """The file's attributes, as Python values."""
        return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in self.h5.attrs.items()}

    @property
    def camera_names(self) -> list[str]:
        """In the order of the images' second axis."""
        return list(self.h5["color"].attrs["names"])

    @property
    def streams(self) -> list[str]:
        """The kinds of images that there are: `color`, and where they were asked for `depth` and `segmentation`."""
        return stream_names(self.h5)

    @property
    def segment_ids(self) -> list[str]:
        """What the numbers in `segmentation` stand for: id 3 is element 3."""
        return list(self.h5["segmentation"].attrs["ids"])

    def columns(self, *roles: Role) -> list[str]:
        """The columns of these roles, in the file's order."""
        return [name for name, column in self.declared.items() if column.role in roles]

    @cached_property
    def declared(self) -> dict[str, Column]:
        """What the file says of its columns."""
        return declared(self.h5)

    def element_names(self, name: str) -> list[str]:
        """What the numbers of a row of the column `name` are called: joints, observation terms, axes, or counted."""
        column = self.declared[name]
        width = math.prod(self.h5[name].shape[1:])
        return list(column.names) or ([name] if width == 1 else [f"{name}_{i}" for i in range(width)])

    def read_images(self, stream: str = "color") -> np.ndarray:
        """All images of a stream, (T, C, H, W, ...), several times as fast as `episode[stream][:]`.

        Deflated chunks are read from the file past HDF5, whose global lock threads would wait for, and inflated by a
        faster library. What another writer has stored otherwise is read by HDF5.
        """
        data = self.h5[stream]
        stored = data.id.get_create_plist()
        filters = [stored.get_filter(i)[0] for i in range(stored.get_nfilters())]
        if data.chunks != (1, 1, *data.shape[2:]) or filters not in ([DEFLATE], [SHUFFLE, DEFLATE]):
            whole: np.ndarray = data[:]
            return whole
        images = np.empty(data.shape, data.dtype)
        chunks: list[h5py.h5d.StoreInfo] = []
        data.id.chunk_iter(chunks.append)
        size = math.prod(data.shape[2:]) * data.dtype.itemsize
        if len(chunks) != math.prod(data.shape[:2]) or any(chunk.filter_mask for chunk in chunks):
            return data[:]
        with open(data.file.filename, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as stored_bytes:
            for chunk in chunks:
                start = chunk.byte_offset
                flat = np.frombuffer(deflate.decompress(stored_bytes[start : start + chunk.size], 15, size), np.uint8)
                if filters[0] == SHUFFLE:
                    flat = flat.reshape(data.dtype.itemsize, -1).T.reshape(-1)
                images[chunk.chunk_offset[:2]] = flat.view(data.dtype).reshape(data.shape[2:])
        return images

    def read_videos(self) -> np.ndarray:
        """All frames of the MP4s, (T, C, H, W, 3) uint8: `color` but for H.264's losses."""
        frames = []
        for camera in range(len(self.camera_names)):
            with av.open(str(self.video(camera).absolute())) as container:
                frames.append([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return np.stack([np.stack(of_camera) for of_camera in frames], axis=1)

    def video(self, camera: int) -> Path:
        """The MP4 of camera number `camera`."""
        return self.folder / f"camera_{camera}" / f"{self.folder.name}.mp4"

    def __enter__(self) -> Episode:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.h5.close()


def load_episode(folder: str | Path) -> Episode:
    """Open the episode in `folder` (`.../episode_007`).

    Raises:
        FileNotFoundError: there is no such episode.
        OSError: its file is damaged.
    """
    folder = Path(folder)
    path = folder / f"{folder.name}.h5"
    try:
        return Episode(folder, h5py.File(path, "r", locking=False))
    except OSError as error:
        if error.errno:
            raise
        raise OSError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def episode_folders(dataset: str | Path) -> list[Path]:
    """The whole episodes of a dataset by index, without those in failed/."""
    return [folder for folder in all_episode_folders(Path(dataset)) if folder.parent == Path(dataset)]


def iter_episodes(dataset: str | Path) -> Iterator[Episode]:
    """Open one episode after the other; each is closed when the next is taken, or the iterator is gone."""
    for folder in episode_folders(dataset):
        with load_episode(folder) as episode:
            yield episode
