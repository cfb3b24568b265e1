"""The fields of MuJoCo's model that differ between envs, and how an episode's variation sets them.

    fields = ModelFields(model, num_envs=20, kinds=("pose",))
    fields.put(env=3, drawn=episode_info[3])
    fields.values["body_pos"][3]                  # (nbody, 3)

Both engines read these arrays: `mujoco.batch` and MuJoCo Warp call the fields by the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import mujoco
import numpy as np

PHYSICS = ("body_pos", "body_quat")
"""Those that change motion."""
_OF_KIND: Mapping[str, tuple[str, ...]] = {"pose": PHYSICS}


class ModelFields:
    """Values of the model's fields for each env."""

    def __init__(self, model: mujoco.MjModel, num_envs: int, kinds: Sequence[str]) -> None:
        self._model = copy(model)
        self._data = mujoco.MjData(self._model)
        names = dict.fromkeys(name for kind in kinds for name in _OF_KIND[kind])
        self._scene = {name: getattr(model, name).copy() for name in names}
        self.values = {name: np.repeat(scene[None], num_envs, axis=0) for name, scene in self._scene.items()}
        """(N, *shape of the model's) each, of the fields that can differ."""

    def touches(self, env: int, joints: Sequence[int], joint_pos: np.ndarray) -> bool:
        """Whether the robot touches something in env `env` with joints at `joint_pos` (n,), rad and m."""
        for name in PHYSICS:
            getattr(self._model, name)[:] = self.values[name][env]
        self._data.qpos[joints] = joint_pos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        return self._data.ncon > 0

    def put(self, env: int, drawn: Mapping[str, Any]) -> None:
        """Make env `env` the scene in which `drawn` was drawn, JSON types as `variation.draw` returns them."""
        for name, scene in self._scene.items():
            self.values[name][env] = scene
        for body, (x, y, z, yaw) in drawn.get("pose", {}).items():
            index, turn = self._model.body(body).id, np.array([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
            self.values["body_pos"][env, index] += (x, y, z)
            mujoco.mju_mulQuat(self.values["body_quat"][env, index], turn, self._scene["body_quat"][index])
