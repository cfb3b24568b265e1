"""What drives the robot: an RSL-RL checkpoint, a visuomotor student, or anything that answers a sample with actions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch

from simulators import CameraEnv, Sample


class PolicyError(ValueError):
    """A policy cannot be loaded, or cannot drive this simulator; one line that names the remedy."""


class Policy(Protocol):
    """Answers each instant of all N envs with an action."""

    @property
    def needs(self) -> Collection[str]:
        """Streams that it looks at in its next `act`; () where its action can be computed while the image is drawn."""

    def bind(self, env: CameraEnv) -> Policy:
        """Make it ready to drive `env`, on the device of its observations; returns itself.

        Raises:
            PolicyError: it is made for another robot, task or set of cameras.
        """

    def reset(self, env_ids: torch.Tensor) -> None:
        """Episodes begin in the envs `env_ids` (n,) int64: forget what was remembered of them."""

    def act(self, sample: Sample | None, obs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Actions (N, A) float32.

        Args:
            sample: the instant with the images of `needs`; None where it needs none.
            obs: the simulator's observations, (N, O) under "policy".
        """

    def describe(self) -> dict[str, Any]:
        """What metadata.json says of it, beside its place; JSON types."""
