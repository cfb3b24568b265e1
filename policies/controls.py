"""Policies without learning: what success means is known only beside theirs."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from policies import Policy
from simulators import CameraEnv, Sample


class Random:
    """Actions uniform between -1 and 1, drawn in each control step; its first observation fixes a round's."""

    needs: Collection[str] = ()

    def bind(self, env: CameraEnv) -> Random:
        """See `policies.Policy`."""
        self._shape, self._device = (env.num_envs, env.num_actions), env.device
        self._rng: torch.Generator | None = None
        return self

    def reset(self, env_ids: torch.Tensor) -> None:
        """See `policies.Policy`."""
        self._rng = None

    def act(self, sample: Sample | None, obs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `policies.Policy`."""
        if self._rng is None:
            self._rng = torch.Generator().manual_seed(zlib.crc32(obs["policy"].cpu().numpy().tobytes()))
        return (torch.rand(self._shape, generator=self._rng) * 2 - 1).to(self._device)

    def describe(self) -> dict[str, Any]:
        """See `policies.Policy`."""
        return {"layout": "random", "sha256": ""}


class Blind:
    """A policy whose pictures are black: what is left is what it knows without them."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def needs(self) -> Collection[str]:
        """See `policies.Policy`."""
        return self._policy.needs

    def bind(self, env: CameraEnv) -> Blind:
        """See `policies.Policy`."""
        self._policy = self._policy.bind(env)
        return self

    def reset(self, env_ids: torch.Tensor) -> None:
        """See `policies.Policy`."""
        self._policy.reset(env_ids)

    def act(self, sample: Sample | None, obs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `policies.Policy`."""
        if sample is not None:
            sample = replace(sample, images={name: np.zeros_like(image) for name, image in sample.images.items()})
        return self._policy.act(sample, obs)

    def describe(self) -> dict[str, Any]:
        """See `policies.Policy`."""
        return {**self._policy.describe(), "blind": True}
