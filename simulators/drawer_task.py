"""The task `Isaac-Open-Drawer-Franka-v0` in torch, the same for every MuJoCo simulator.

A simulator derives from `DrawerTaskEnv` and adds physics and cameras; `observations` and `reward_terms` are plain
functions of a `DrawerState`. Numbers are Isaac Lab 2.2.0's: "cfg" below is isaaclab_tasks/manager_based/manipulation/
cabinet/cabinet_env_cfg.py, "mdp" its mdp/rewards.py. What differs is marked "Deviation" and listed in WHAT_IT_DOES.md.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from simulators import TASKS, Sample, SimulatorCfg, episode_rng

CONTROL_DT = 1 / 60  # cfg:269-275
MAX_VALUE = 1e10
"""MuJoCo's mjMAXVAL: beyond it a position, velocity, acceleration or control is bad to MuJoCo, as NaN is."""
DEFAULT_JOINT_POS = (0.0, -0.569, 0.0, -2.810, 0.0, 3.037, 0.741, 0.04, 0.04)  # isaaclab_assets/robots/franka.py:33-39
RESET_JOINT_OFFSET = 0.1  # cfg:187-196: all nine joints, uniform, then clamped to their range
GRIPPER_OPEN, GRIPPER_CLOSED = 0.04, 0.0  # config/franka/joint_pos_env_cfg.py:41-46
ROBOT_FRICTION = (0.8, 1.25)  # cfg:165-174
HANDLE_FRICTION = (1.0, 1.25)  # cfg:176-185, the static one
HANDLE_AXES = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
"""Rows: the handle's x, y and z axes in the env frame, for `align_ee_handle`. Deviation: with the rotation of cfg:99 on
the sektion's URDF axes, the term is 0 at the ideal grasp; with these it is 1 where the hand points at the front and the
fingers open up and down."""
OBS_TERMS = {  # cfg:140-152
    "joint_pos_rel": 9,
    "joint_vel_rel": 9,
    "cabinet_joint_pos_rel": 1,
    "cabinet_joint_vel_rel": 1,
    "rel_ee_drawer_distance": 3,
    "last_action": 8,
}
GRASP_WEIGHT = 20.0
"""Deviation from 0.5, with which the fingers stay open all the way; so they close on the way in (WHAT_IT_DOES.md)."""
REWARD_WEIGHTS = {  # cfg:202-242; each is multiplied by CONTROL_DT
    "approach_ee_handle": 2.0,
    "align_ee_handle": 0.5,
    "approach_gripper_handle": 5.0,
    "align_grasp_around_handle": 0.125,
    "grasp_handle": GRASP_WEIGHT,
    "open_drawer_bonus": 7.5,
    "multi_stage_open_drawer": 1.0,
    "action_rate_l2": -1e-2,
    "joint_vel_l2": -1e-4,
}
TASK_STATE_SPEC = "last_action[8], episode_length, handle_friction"
"""The columns after the physics' in `sim_state`."""


@functools.cache
def _constant(values: tuple, device: torch.device) -> torch.Tensor:
    """A float32 tensor that is made once: bringing it to a GPU would wait for all that the GPU has to do."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


@dataclass(frozen=True)
class DrawerState:
    """What observations and rewards are made of; float32 tensors, positions in the env frame."""

    joint_pos: torch.Tensor
    """(N, 9) rad, fingers m."""
    joint_vel: torch.Tensor
    """(N, 9) rad/s, fingers m/s."""
    drawer_pos: torch.Tensor
    """(N,) m."""
    drawer_vel: torch.Tensor
    """(N,) m/s."""
    tcp_pos: torch.Tensor
    """Tool centre point, (N, 3) m."""
    tcp_rot: torch.Tensor
    """(N, 3, 3), columns: the hand's axes."""
    handle_pos: torch.Tensor
    """(N, 3) m."""
    left_finger_pos: torch.Tensor
    """(N, 3) m."""
    right_finger_pos: torch.Tensor
    """(N, 3) m."""


def observations(state: DrawerState, last_action: torch.Tensor) -> torch.Tensor:
    """The policy's 31 observations, (N, 31) float32, in the order of OBS_TERMS."""
    default = _constant(DEFAULT_JOINT_POS, state.joint_pos.device)
    return torch.cat(
        [
            state.joint_pos - default,
            state.joint_vel,
            state.drawer_pos[:, None],
            state.drawer_vel[:, None],
            state.handle_pos - state.tcp_pos,
            last_action,
        ],
        dim=1,
    )


def reward_terms(state: DrawerState, action: torch.Tensor, last_action: torch.Tensor) -> dict[str, torch.Tensor]:
    """The nine unweighted reward terms (mdp), each (N,), of the state that `action` led to."""
    distance = (state.handle_pos - state.tcp_pos).norm(dim=1)
    handle_z = state.handle_pos[:, 2]
    left_z, right_z = state.left_finger_pos[:, 2], state.right_finger_pos[:, 2]
    graspable = ((right_z < handle_z) & (left_z > handle_z)).float()
    approach = (1 / (1 + distance**2)) ** 2
    handle_x, handle_y, _ = _constant(HANDLE_AXES, state.tcp_rot.device)
    align_z = state.tcp_rot[:, :, 2] @ -handle_x
    align_x = state.tcp_rot[:, :, 0] @ -handle_y
    drawer = state.drawer_pos
    return {
        "approach_ee_handle": torch.where(distance <= 0.2, 2 * approach, approach),
        "align_ee_handle": 0.5 * (align_z * align_z.abs() + align_x * align_x.abs()),
        "approach_gripper_handle": graspable * (0.08 - (left_z - handle_z).abs() - (right_z - handle_z).abs()),
        "align_grasp_around_handle": graspable,
        "grasp_handle": (distance <= 0.03) * (GRIPPER_OPEN - state.joint_pos[:, 7:]).sum(dim=1),
        "open_drawer_bonus": (1 + graspable) * drawer,
        "multi_stage_open_drawer": 0.5 * (drawer > 0.01) + graspable * (drawer > 0.2) + graspable * (drawer > 0.3),
        "action_rate_l2": (action - last_action).square().sum(dim=1),
        "joint_vel_l2": state.joint_vel.square().sum(dim=1),
    }


def joint_pos_target(action: torch.Tensor) -> torch.Tensor:
    """What raw actions (N, 8) ask of the drives, (N, 9) rad and m: default + arm action; the gripper by its sign."""
    default = _constant(DEFAULT_JOINT_POS, action.device)
    gripper = torch.where(action[:, 7:8] < 0, GRIPPER_CLOSED, GRIPPER_OPEN)
    return torch.cat([default[:7] + action[:, :7], gripper, gripper], dim=1)


class DrawerTaskEnv(ABC):
    """The `DrawerEnv` of the seam but for physics and cameras, which a simulator adds through the abstract members."""

    step_dt = CONTROL_DT
    obs_terms = OBS_TERMS

    def __init__(self, cfg: SimulatorCfg, joint_range: np.ndarray) -> None:
        self.task = task = TASKS[cfg.task]
        self.cfg = cfg
        self.num_envs, self.num_actions = cfg.num_envs, task.num_actions
        self.max_episode_length = task.max_episode_length
        self.success_threshold = task.success_threshold
        self.device = torch.device(cfg.device)
        self.cameras = cfg.cameras
        self.episode_length_buf = torch.zeros(cfg.num_envs, dtype=torch.long, device=self.device)
        self._last_action = torch.zeros(cfg.num_envs, self.num_actions, device=self.device)
        self._joint_range = torch.tensor(joint_range, dtype=torch.float32, device=self.device)
        self._rng = torch.Generator(self.device)
        friction = [_handle_friction(cfg.seed, i) for i in range(cfg.num_envs)]
        self.handle_friction = torch.tensor(friction, dtype=torch.float64, device=self.device)

    @abstractmethod
    def capture(self, render: bool = True) -> Sample:
        """See `DrawerEnv.capture`."""

    @abstractmethod
    def close(self) -> None:
        """Free what the simulator holds."""

    def __enter__(self) -> DrawerTaskEnv:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start_capture(self, render: bool = True) -> Callable[[], Sample]:
        """See `DrawerEnv.start_capture`."""
        sample = self.capture(render)
        return lambda: sample

    @abstractmethod
    def _advance(self, target: torch.Tensor) -> torch.Tensor:
        """Simulate one control step under drive targets (N, 9) rad and m; returns which envs diverged, (N,) bool."""

    @abstractmethod
    def _read_state(self) -> DrawerState:
        """The present state; copies."""

    @abstractmethod
    def _reset_physics(self, env_ids: torch.Tensor, joint_pos: torch.Tensor) -> None:
        """Put envs `env_ids` (n,) to rest at `joint_pos` (n, 9), drives holding them there, the cabinet shut."""

    def reset(self, seed: int) -> TensorDict:
        """See `DrawerEnv.reset`."""
        low, high = -RESET_JOINT_OFFSET, RESET_JOINT_OFFSET
        offset = np.stack([episode_rng(seed, i).uniform(low, high, 9) for i in range(self.num_envs)])
        self._rng.manual_seed(seed % 2**63)
        self._reset_envs(torch.arange(self.num_envs, device=self.device), torch.as_tensor(offset, dtype=torch.float32))
        return self.get_observations()

    def get_observations(self) -> TensorDict:
        """See `DrawerEnv.get_observations`."""
        return TensorDict({"policy": self._obs}, batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """See `DrawerEnv.step`. extras["log"] holds "success_rate" of the episodes that ended in this step."""
        target = joint_pos_target(actions)
        diverged = self._advance(target) | ~(actions.abs() <= MAX_VALUE).all(dim=1)
        self.episode_length_buf += 1
        self._state = self._read_state()
        terms = reward_terms(self._state, actions, self._last_action)
        reward = CONTROL_DT * torch.stack([REWARD_WEIGHTS[name] * value for name, value in terms.items()]).sum(dim=0)
        reward = reward.masked_fill(diverged, 0.0)
        dones = diverged | (self.episode_length_buf >= self.max_episode_length)
        extras: dict[str, Any] = {"time_outs": dones & ~diverged, "diverged": diverged, "joint_pos_target": target}
        self._last_action.copy_(actions)  # in place: a tensor born in inference mode could not be reset outside it
        if dones.any():
            env_ids = dones.nonzero()[:, 0]
            success = self._state.drawer_pos[env_ids] >= self.success_threshold
            extras["log"] = {"success_rate": success.float().mean().item()}
            offset = torch.rand(len(env_ids), 9, generator=self._rng, device=self.device) * 2 - 1
            self._reset_envs(env_ids, RESET_JOINT_OFFSET * offset)
        else:
            self._obs = observations(self._state, self._last_action)
        return self.get_observations(), reward, dones, extras

    def _reset_envs(self, env_ids: torch.Tensor, offset: torch.Tensor) -> None:
        low, high = self._joint_range.T
        joint_pos = (_constant(DEFAULT_JOINT_POS, self.device) + offset.to(self.device)).clamp(low, high)
        self._reset_physics(env_ids, joint_pos)
        self.episode_length_buf[env_ids] = 0
        self._last_action[env_ids] = 0
        self._refresh()

    def _refresh(self) -> None:
        self._state = self._read_state()
        self._obs = observations(self._state, self._last_action)

    def _sample_tensors(self) -> dict[str, torch.Tensor]:
        """What a `Sample` has of observation and state, by its names."""
        state = self._state
        return {
            "proprio": self._obs, "joint_pos": state.joint_pos, "joint_vel": state.joint_vel,
            "ee_position": state.tcp_pos, "ee_rotation": quat_xyzw(state.tcp_rot), "drawer_pos": state.drawer_pos,
        }  # fmt: skip

    def _task_state(self) -> torch.Tensor:
        """What the task adds to the physics state, (N, 10) float64; TASK_STATE_SPEC says what."""
        length, friction = self.episode_length_buf[:, None], self.handle_friction[:, None]
        return torch.cat([self._last_action.double(), length.double(), friction], dim=1)

    def _set_task_state(self, values: torch.Tensor) -> None:
        self._last_action.copy_(values[:, : self.num_actions])
        self.episode_length_buf.copy_(values[:, self.num_actions])
        self.handle_friction = values[:, -1].clone()


def _handle_friction(seed: int, env_index: int) -> float:
    """PhysX's average of the robot's and the handle's coefficients, drawn once an env as Isaac Lab does at start-up."""
    rng = episode_rng(seed, env_index)
    return (rng.uniform(*ROBOT_FRICTION) + rng.uniform(*HANDLE_FRICTION)) / 2


def quat_xyzw(rotation: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (N, 3, 3) as unit quaternions x, y, z, w with w >= 0, (N, 4) float32.

    Shepperd's method (1978): 4 q_i q_j of all pairs are sums of the matrix' elements; the row of the largest q_i^2 is
    the quaternion but for its length.
    """
    m = rotation.double()
    xy, xz, yz = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    wx, wy, wz = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    x, y, z = m.diagonal(dim1=1, dim2=2).unbind(1)
    rows = [
        torch.stack([1 + x - y - z, xy, xz, wx], 1), torch.stack([xy, 1 - x + y - z, yz, wy], 1),
        torch.stack([xz, yz, 1 - x - y + z, wz], 1), torch.stack([wx, wy, wz, 1 + x + y + z], 1),
    ]  # fmt: skip
    products = torch.stack(rows, 1)
    largest = products.diagonal(dim1=1, dim2=2).argmax(1)
    quat = torch.nn.functional.normalize(products[torch.arange(len(m), device=m.device), largest], dim=1)
    return torch.where(quat[:, 3:] < 0, -quat, quat).float()
