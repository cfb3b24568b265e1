"""The images, joints and targets of single rows, in any order:  python examples/torch_dataset.py data/NAME"""

import sys
from pathlib import Path

import h5py
import torch
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset):
    def __init__(self, dataset: str) -> None:
        self.files = sorted(Path(dataset).glob("episode_*/episode_*.h5"))
        lengths = [int(h5py.File(file, locking=False).attrs["num_frames"]) for file in self.files]
        self.rows = [(file, row) for file, length in enumerate(lengths) for row in range(length)]
        self.opened: dict[int, h5py.File] = {}  # in each worker of a DataLoader its own

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        file, row = self.rows[index]
        if file not in self.opened:
            self.opened[file] = h5py.File(self.files[file], locking=False)
        episode = self.opened[file]
        color = torch.from_numpy(episode["color"][row]).permute(0, 3, 1, 2).float() / 255  # (C, 3, H, W)
        numbers = {name: torch.from_numpy(episode[name][row]) for name in ("joint_pos", "joint_pos_target")}
        return {"color": color, **numbers}


if __name__ == "__main__":
    for batch in DataLoader(Rows(sys.argv[1]), batch_size=32, shuffle=True, num_workers=2):
        print({name: tuple(tensor.shape) for name, tensor in batch.items()})
        break
