"""An event of Isaac Lab's by which a round begins as it does in MuJoCo: the same joints, the same places of things.

    placement = Placement(cfg, load_task("Isaac-Open-Drawer-Franka-v0"), env_cfg.scene.robot.init_state.joint_pos)
    placement.add_to(env_cfg)                     # before the env is made
    placement.draw(seed=7)                        # what the next `env.reset` begins with

It comes after the task's own events, in every reset: what `draw` drew of things stays until the next call, and where
joints start holds for the reset that follows it; the automatic resets of `step` are Isaac Lab's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from simulators import SimulatorCfg
from simulators.model_fields import ModelFields
from simulators.scene import JOINT_NAMES, build_model
from simulators.starts import Starts
from simulators.tasks import Task


class Placement:
    """What `draw` drew last, for all envs."""

    def __init__(self, cfg: SimulatorCfg, task: Task, default_joint_pos: Mapping[str, float]) -> None:
        """`default_joint_pos`: the robot's in Isaac Lab, rad and m by patterns of joint names."""
        self._task, self._cfg = task, cfg
        defaults = [_value_of(default_joint_pos, name) for name in JOINT_NAMES]
        ours = task.initial_joint_pos(torch.zeros(1, len(JOINT_NAMES) + len(task.joints)))[0, : len(JOINT_NAMES)]
        self._offset = torch.tensor(defaults) - ours
        """0 in release 2's definition, whose defaults are the embedded task's."""
        model = build_model(task.things(), ())
        self._fields = ModelFields(model, 1, ("pose",), (), 1.0)
        self._qpos = [int(model.joint(name).qposadr[0]) for name in (*JOINT_NAMES, *task.joints)]
        self._starts = Starts(task, cfg, self._touches)
        self.info: list[dict[str, Any]] = [{} for _ in range(cfg.num_envs)]
        """See `CameraEnv.episode_info`."""
        self._joint_pos: torch.Tensor | None = None
        """Where the robot's joints are to start in the coming reset, (N, 9) rad and m; None: as Isaac Lab draws."""

    def add_to(self, env_cfg: Any) -> None:
        """Become the last of the events that a reset consists of."""
        from isaaclab.managers import EventTermCfg

        def place_as_drawn(env: Any, env_ids: torch.Tensor) -> None:
            self._place_things(env, env_ids)
            if self._joint_pos is not None:
                self._place_joints(env, env_ids, self._joint_pos)
                self._joint_pos = None

        env_cfg.events.place_as_drawn = EventTermCfg(func=place_as_drawn, mode="reset")

    def drawn(self, seed: int) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        """Where the robot's joints start in a round of seed `seed`, (N, 9), and what varies in it."""
        joint_pos = self._starts.joint_pos(seed)
        joint_pos[:, : len(JOINT_NAMES)] += self._offset.to(joint_pos.device)
        return joint_pos[:, : len(JOINT_NAMES)], self._starts.variation(seed, joint_pos)

    def draw(self, seed: int) -> None:
        """Draw what the coming reset begins with."""
        self._joint_pos, self.info = self.drawn(seed)

    def put(self, info: Sequence[Mapping[str, Any]]) -> None:
        """Take over what was drawn elsewhere.

        Raises:
            ValueError: there is a kind that the simulator was not built to vary.
        """
        kinds = self._cfg.variation.kinds
        if unknown := sorted({kind for drawn in info for kind in drawn} - set(kinds)):
            ours = ", ".join(kinds) or "nothing"
            raise ValueError(f"the variation has {', '.join(unknown)}, but the simulator was built to vary {ours}")
        self.info = [dict(drawn) for drawn in info]

    def _touches(self, drawn: Mapping[str, Any], joint_pos: np.ndarray) -> bool:
        return self._fields.touches(drawn, self._qpos, joint_pos)

    def _place_things(self, env: Any, env_ids: torch.Tensor) -> None:
        for name in self._task.movable:
            asset = env.scene[name]
            moved = torch.tensor([drawn.get("pose", {}).get(name, (0.0,) * 4) for drawn in self.info])
            pose = asset.data.default_root_pose.torch + 0.0
            pose[:, :3] += env.scene.env_origins + moved[:, :3].to(pose)
            pose[:, 3:] = _turned(pose[:, 3:], moved[:, 3].to(pose))
            asset.write_root_pose_to_sim_index(root_pose=pose[env_ids], env_ids=env_ids)

    def _place_joints(self, env: Any, env_ids: torch.Tensor, joint_pos: torch.Tensor) -> None:
        robot = env.scene["robot"]
        order = [JOINT_NAMES.index(name) for name in robot.joint_names]
        position = joint_pos[:, order].to(env.device)[env_ids]
        robot.write_joint_position_to_sim_index(position=position, env_ids=env_ids)


def _turned(quat_xyzw: torch.Tensor, yaw: torch.Tensor) -> torch.Tensor:
    """Quaternions (N, 4), turned about the world's z by `yaw` (N,) rad."""
    x, y, z, w = quat_xyzw.unbind(1)
    c, s = torch.cos(yaw / 2), torch.sin(yaw / 2)
    return torch.stack([c * x - s * y, c * y + s * x, c * z + s * w, c * w - s * z], dim=1)


def _value_of(by_pattern: Mapping[str, float], name: str) -> float:
    """Of the first pattern that a joint's name matches."""
    return next(value for pattern, value in by_pattern.items() if re.fullmatch(pattern, name))
