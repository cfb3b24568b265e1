"""What the reader scripts compare with: the recorded rows, read with h5py alone. Each script runs in an environment of
its library: `python tests/readers/<library>.py DATASET EXPORT`, and prints a line of JSON.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

torch.manual_seed(0)  # weights, batches and dropout: the same in every run


def arguments() -> tuple[Path, Path]:
    """The dataset and what was exported from it."""
    return Path(sys.argv[1]), Path(sys.argv[2])


def read(dataset: Path, episode: str, column: str) -> np.ndarray:
    """A column of one recorded episode."""
    with h5py.File(dataset / episode / f"{episode}.h5") as h5:
        return h5[column][:]


def psnr_db(image: np.ndarray, recorded: np.ndarray) -> float:
    """Peak signal-to-noise ratio of images in 0..255."""
    return float(10 * np.log10(255**2 / np.mean((image.astype(float) - recorded.astype(float)) ** 2)))


def define_torchvision_ops() -> None:
    """Let torchvision's PyPI wheel, built for CUDA, be imported beside a CPU build of torch: its kernels stay away."""
    if "+cpu" not in version("torch"):  # PyPI's torch goes with PyPI's torchvision
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_library"] = library  # it lives as long as this


class SmallPolicy(torch.nn.Module):
    """A convolution over the cameras and a line for the numbers: what one optimiser step needs."""

    def __init__(self, state: int, outputs: int) -> None:
        super().__init__()
        self.images = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4))
        self.head = torch.nn.LazyLinear(outputs)
        self.state = torch.nn.Linear(state, 32)

    def forward(self, images: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Images (B, C, 3, H, W) in 0..1 and state (B, S) to outputs (B, A)."""
        features = torch.stack([self.images(camera).flatten(1) for camera in images.unbind(1)], 1).flatten(1)
        return self.head(torch.cat([features, self.state(state)], dim=1))


def losses_around_a_step(
    policy: torch.nn.Module, inputs: tuple[torch.Tensor, ...], target: torch.Tensor
) -> list[float]:
    """The mean squared error before and after one step of AdamW on a batch."""
    policy(*inputs)  # makes the lazy layers
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    before = torch.nn.functional.mse_loss(policy(*inputs), target)
    before.backward()
    optimizer.step()
    return [before.item(), torch.nn.functional.mse_loss(policy(*inputs), target).item()]


def report(**results: Any) -> None:
    print(json.dumps(results))
