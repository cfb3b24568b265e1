"""What drives the robot: an RSL-RL checkpoint, a visuomotor student, or anything that answers a sample with actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from simulators import Sample


class Policy(Protocol):
    """Answers each instant of all N envs with an action."""

    needs: tuple[str, ...]
    """Streams that it looks at; () where its action can be computed while the image is drawn."""

    def reset(self, env_ids: torch.Tensor) -> None:
        """Episodes begin in the envs `env_ids` (n,) int64: forget what was remembered of them."""

    def act(self, sample: Sample | None, obs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Actions (N, A) float32.

        Args:
            sample: the instant with the images of `needs`; None where it needs none.
            obs: the simulator's observations, (N, O) under "policy".
        """
