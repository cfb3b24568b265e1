"""Where the joints start in a round and what varies in it: the same draws on every engine.

starts = Starts(task, cfg, touches)
joint_pos = starts.joint_pos(seed=7)                   # (N, 9 + K)
info = starts.variation(7, joint_pos)                  # what each env's `episode_info` becomes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from simulators import SimulatorCfg
from simulators.scene import JOINT_NAMES, JOINT_RANGE
from simulators.seeds import episode_rng
from simulators.tasks import Task
from simulators.variation import FLOOR, Setting, draw


class Starts:
    """Draws for all envs of a simulator; env i's do not depend on how many there are."""

    def __init__(self, task: Task, cfg: SimulatorCfg, touches: Callable[[Mapping[str, Any], np.ndarray], bool]) -> None:
        """`touches`: whether the robot, its joints at (9 + K,), touches something in a scene with a drawn pose."""
        self._task, self._cfg, self._touches = task, cfg, touches
        self._setting = Setting(task.movable, (*task.surfaces, *FLOOR), cfg.cameras)
        self._range = torch.tensor(JOINT_RANGE, dtype=torch.float32, device=cfg.device)
        self.num_joints = len(JOINT_NAMES) + len(task.joints)

    def at(self, uniform: torch.Tensor) -> torch.Tensor:
        """Where joints start, (n, 9 + K) rad and m, from numbers in [-1, 1), (n, 9 + K)."""
        joint_pos = self._task.initial_joint_pos(uniform)
        joint_pos[:, : len(JOINT_NAMES)] = joint_pos[:, : len(JOINT_NAMES)].clamp(*self._range.T)
        return joint_pos

    def joint_pos(self, seed: int) -> torch.Tensor:
        """Where joints start in a round of seed `seed`, (N, 9 + K) rad and m."""
        rngs = [episode_rng(seed, env) for env in range(self._cfg.num_envs)]
        uniform = np.stack([rng.uniform(-1, 1, self.num_joints) for rng in rngs])
        return self.at(torch.as_tensor(uniform, dtype=torch.float32, device=self._cfg.device))

    def variation(self, seed: int, joint_pos: torch.Tensor) -> list[dict[str, Any]]:
        """Of each env, such that the robot, whose joints start at `joint_pos`, touches nothing."""

        def touches_nothing(positions: np.ndarray) -> Callable[[dict[str, Any]], bool]:
            return lambda drawn: not self._touches(drawn, positions)

        rows = joint_pos.cpu().numpy()
        return [
            draw(self._cfg.variation, self._setting, seed, env, touches_nothing(rows[env]))
            for env in range(self._cfg.num_envs)
        ]
