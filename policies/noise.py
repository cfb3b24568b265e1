"""Noise that is executed and not taught: the robot strays from its path, and the policy's answer shows the way back.

    noise = ActionNoise(largest=0.4, signs=(7,), num_envs=20, num_actions=8)
    noise.begin(seed=7, steps=80)
    executed = noise.add(policy.act(sample, obs), step)

After DART (Laskey et al., 2017, arXiv:1703.09327): a student that has seen an expert come back from its own mistakes'
neighbourhood does the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from simulators.seeds import noise_rng


class ActionNoise:
    """Gaussian noise on actions, of a scale that each episode draws."""

    def __init__(self, largest: float, signs: Sequence[int], num_envs: int, num_actions: int) -> None:
        """Noise of at most this scale for all envs.

        Args:
            largest: an episode's scale is uniform from 0 to this, in the action's unit.
            signs: actions that are signs, not quantities; they stay as they are.
            num_envs: N.
            num_actions: A.
        """
        self.is_on = largest > 0
        self._largest, self._shape = largest, (num_envs, num_actions)
        self._quantities = np.array([i not in signs for i in range(num_actions)], np.float32)
        self._drawn = torch.zeros(0)

    def begin(self, seed: int, steps: int) -> None:
        """Draw what is added in the `steps` control steps of the round of `seed`."""
        if not self.is_on:
            return
        drawn = []
        for env in range(self._shape[0]):
            rng = noise_rng(seed, env)
            scale = rng.uniform(0, self._largest)
            drawn.append(scale * rng.standard_normal((steps, self._shape[1])) * self._quantities)
        self._drawn = torch.as_tensor(np.stack(drawn, axis=1), dtype=torch.float32)

    def add(self, action: torch.Tensor, step: int) -> torch.Tensor:
        """What is executed in control step `step` in the place of `action`, (N, A)."""
        if not self.is_on:
            return action
        return action + self._drawn[step].to(action.device)
