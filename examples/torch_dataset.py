"""The images, joints and targets of single rows, in any order:  python examples/torch_dataset.py data/NAME"""

import os
import sys
from functools import lru_cache
from pathlib import Path

import h5py
import torch
from torch.utils.data import DataLoader, Dataset

OPEN_FILES = 64
"""Files that each worker keeps open: a process may not have thousands, and opening one takes a millisecond."""


class Rows(Dataset):
    def __init__(self, dataset: str) -> None:
        folders = [folder for folder in sorted(Path(dataset).glob("episode_*")) if folder.name[8:].isdigit()]
        self.files = [folder / f"{folder.name}.h5" for folder in folders]
        self.rows: list[tuple[int, int]] = []
        for index, file in enumerate(self.files):
            with h5py.File(file, locking=False) as episode:
                self.rows += [(index, row) for row in range(episode.attrs["num_frames"])]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        file, row = self.rows[index]
        episode = opened(self.files[file])
        color = torch.from_numpy(episode["color"][row]).permute(0, 3, 1, 2).float() / 255  # (C, 3, H, W)
        numbers = {name: torch.from_numpy(episode[name][row]) for name in ("joint_pos", "joint_pos_target")}
        return {"color": color, **numbers}


@lru_cache(OPEN_FILES)  # a file is closed when it is dropped
def opened(file: Path) -> h5py.File:
    return h5py.File(file, locking=False)


os.register_at_fork(after_in_child=opened.cache_clear)  # each worker opens its own


if __name__ == "__main__":
    for batch in DataLoader(Rows(sys.argv[1]), batch_size=32, shuffle=True, num_workers=2):
        print({name: tuple(tensor.shape) for name, tensor in batch.items()})
        break
