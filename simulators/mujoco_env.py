"""What the two MuJoCo engines share: a task's episodes, the columns, and where things are in MuJoCo's arrays.

An engine derives from `MujocoEnv` and adds physics and pictures through the abstract members. It knows no task: it is
handed one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import torch
from tensordict import TensorDict

from simulators import Sample, SimulatorCfg
from simulators.labels import segment
from simulators.model_fields import ModelFields
from simulators.recorded import recorded_columns
from simulators.scene import (
    ARM_JOINTS,
    EFFORT_LIMIT,
    JOINT_NAMES,
    KD,
    KP,
    PHYSICS_DT,
    build_model,
    scene_hash,
)
from simulators.seeds import episode_rng
from simulators.starts import Starts
from simulators.tasks import SceneState, Task, load_task
from simulators.variation import FLOOR
from vpl.columns import STREAMS, Stream

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
MAX_VALUE = 1e10
"""MuJoCo's mjMAXVAL: beyond it a position, velocity, acceleration or control is bad to MuJoCo, as NaN is."""
ARM_SITES = ("tcp", "leftfinger", "rightfinger")


class MujocoEnv(ABC):
    """The `CameraEnv` of the seam but for physics and pictures."""

    def __init__(self, cfg: SimulatorCfg, task: Task) -> None:
        self.cfg, self.task, self.cameras = cfg, task, cfg.cameras
        self.num_envs, self.num_actions = cfg.num_envs, task.num_actions
        self.max_episode_length, self.step_dt, self.obs_terms = task.max_episode_length, task.step_dt, task.obs_terms
        self.device = torch.device(cfg.device)
        self.episode_length_buf = torch.zeros(cfg.num_envs, dtype=torch.long, device=self.device)
        self._last_action = torch.zeros(cfg.num_envs, self.num_actions, device=self.device)
        self._drive_constants = torch.tensor([KP, KD, EFFORT_LIMIT], dtype=torch.float32, device=self.device)
        self._rng = torch.Generator(self.device)
        draws = [task.draw_friction(episode_rng(cfg.seed, i)) for i in range(cfg.num_envs)]
        self._frictions = torch.tensor(draws, dtype=torch.float64, device=self.device)
        kinds, surfaces = cfg.variation.kinds, (*task.surfaces, *FLOOR)
        self.model = build_model(
            task.things(), cfg.cameras, cfg.light, "looks" in kinds, surfaces if "distractors" in kinds else ()
        )
        self.scene = scene_hash(self.model)
        ids, self._label_of_geom = segment(self.model)
        self.streams: Mapping[str, Stream] = STREAMS | {"segmentation": replace(STREAMS["segmentation"], ids=ids)}
        self._fields = ModelFields(self.model, cfg.num_envs, kinds, cfg.cameras, cfg.light)
        self._starts = Starts(task, cfg, self._touches)
        self._info: list[Mapping[str, Any]] = [{} for _ in range(cfg.num_envs)]
        self._substeps = round(task.step_dt / PHYSICS_DT)
        task_state = [f"last_action[{self.num_actions}]", "episode_length", *task.frictions]
        self._state_size = mujoco.mj_stateSize(self.model, STATE)
        self.state_spec = ", ".join([f"mjSTATE_INTEGRATION[{self._state_size}]", *task_state])
        columns = recorded_columns(
            JOINT_NAMES,
            task.obs_terms,
            task.num_actions,
            len(cfg.cameras),
            self._state_size + self._task_state().shape[1],
            task.columns,
        )
        of_set = f"{columns['reward'].meaning}, of its set '{task.rewards}'"
        columns["reward"] = replace(columns["reward"], meaning=of_set)
        self.columns = {n: column for n, column in columns.items() if n != "success" or task.measures_success}

    @classmethod
    def make(cls, cfg: SimulatorCfg) -> MujocoEnv:
        """See `simulators.load`."""
        return cls(cfg, load_task(cfg.task, cfg.rewards))

    def _find_addresses(self) -> None:
        """Where in MuJoCo's arrays the robot, the task and the cameras are."""
        model, joints = self.model, (*JOINT_NAMES, *self.task.joints)
        self._model_qpos = [int(model.joint(name).qposadr[0]) for name in joints]
        self._joint_qpos = self._index(self._model_qpos)
        self._joint_qvel = self._index([model.joint(name).dofadr[0] for name in joints])
        self._arm_joints = self._index([model.joint(name).id for name in ARM_JOINTS])
        self._drives = self._index([model.actuator(name).id for name in JOINT_NAMES])
        self._camera_ids = self._index([model.camera(camera.name).id for camera in self.cameras])
        self._sites = {name: model.site(name).id for name in (*ARM_SITES, *self.task.sites)}
        self._friction_geoms = self._index([model.geom(name).id for name in self.task.frictions.values()])

    @abstractmethod
    def _index(self, numbers: list[int]) -> Any:
        """`numbers` as the engine's arrays want to be indexed with."""

    @abstractmethod
    def _take(self, name: str, index: Any) -> torch.Tensor:
        """A copy of `name[:, index]` of MuJoCo's data, float32."""

    @abstractmethod
    def _advance(self, target: torch.Tensor) -> torch.Tensor:
        """Simulate one control step under drive targets (N, 9) rad and m; returns which envs diverged, (N,) bool."""

    @abstractmethod
    def _reset_physics(self, env_ids: torch.Tensor, joint_pos: torch.Tensor) -> None:
        """Put envs `env_ids` (n,) to rest at `joint_pos` (n, 9 + K), drives holding the robot there."""

    @abstractmethod
    def _put_fields(self) -> None:
        """Make the engine's model that of `_fields`."""

    @abstractmethod
    def start_capture(self, streams: Collection[str] = ()) -> Callable[[], Sample]:
        """See `CameraEnv.start_capture`."""

    @abstractmethod
    def close(self) -> None:
        """Free what the simulator holds."""

    def __enter__(self) -> MujocoEnv:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def capture(self, streams: Collection[str] = ()) -> Sample:
        """See `CameraEnv.capture`."""
        return self.start_capture(streams)()

    def reset(self, seed: int) -> TensorDict:
        """See `CameraEnv.reset`; what varies stays in the automatic resets of `step`."""
        start = self._starts.joint_pos(seed)
        self._vary(self._starts.variation(seed, start))
        self._rng.manual_seed(seed % 2**63)
        self._reset_envs(torch.arange(self.num_envs, device=self.device), start)
        return self.get_observations()

    def get_observations(self) -> TensorDict:
        """See `CameraEnv.get_observations`."""
        return TensorDict({"policy": self._obs}, batch_size=[self.num_envs])

    def succeeded(self) -> torch.Tensor:
        """See `CameraEnv.succeeded`."""
        return self.task.succeeded(self._state)

    def action_for_target(self, joint_pos_target: torch.Tensor) -> torch.Tensor:
        """See `CameraEnv.action_for_target`."""
        return self.task.action_for_target(joint_pos_target)

    def joint_pos_target(self, actions: torch.Tensor) -> torch.Tensor:
        """See `CameraEnv.joint_pos_target`."""
        return self.task.joint_pos_target(actions)

    def episode_info(self) -> list[dict[str, Any]]:
        """See `CameraEnv.episode_info`."""
        return [dict(info) for info in self._info]

    def draw_variation(self, seed: int) -> list[dict[str, Any]]:
        """See `CameraEnv.draw_variation`."""
        return self._starts.variation(seed, self._starts.joint_pos(seed))

    def intrinsics(self) -> np.ndarray:
        """See `CameraEnv.intrinsics`."""
        return self._fields.intrinsics.copy()

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """See `CameraEnv.step`. extras["log"] holds "success_rate" of the episodes that ended in this step."""
        target = self.task.joint_pos_target(actions)
        diverged = self._advance(target) | ~(actions.abs() <= MAX_VALUE).all(dim=1)
        self.episode_length_buf += 1
        self._state = self._read_state()
        reward = self.task.reward(self._state, actions, self._last_action).masked_fill(diverged, 0.0)
        terminated = diverged | self.task.terminated(self._state)
        time_outs = ~terminated & (self.episode_length_buf >= self.max_episode_length)
        dones = terminated | time_outs
        extras: dict[str, Any] = {"time_outs": time_outs, "diverged": diverged, "joint_pos_target": target}
        self._last_action.copy_(actions)  # in place: a tensor born in inference mode could not be reset outside it
        if dones.any():
            env_ids = dones.nonzero()[:, 0]
            if self.task.measures_success:
                extras["log"] = {"success_rate": self.succeeded()[env_ids].float().mean().item()}
            shape = len(env_ids), self._starts.num_joints
            uniform = torch.rand(shape, generator=self._rng, device=self.device) * 2 - 1
            self._reset_envs(env_ids, self._starts.at(uniform))
        else:
            self._obs = self.task.observations(self._state, self._last_action)
        return self.get_observations(), reward, dones, extras

    def _vary(self, info: Sequence[Mapping[str, Any]]) -> None:
        """Make each env's scene the one in which its variation, N of them, was drawn."""
        if list(info) == self._info:
            return
        self._info = list(info)
        for env, drawn in enumerate(info):
            self._fields.put(env, drawn)
        self._put_fields()

    def _touches(self, drawn: Mapping[str, Any], joint_pos: np.ndarray) -> bool:
        return self._fields.touches(drawn, self._model_qpos, joint_pos)

    def _reset_envs(self, env_ids: torch.Tensor, joint_pos: torch.Tensor) -> None:
        self._reset_physics(env_ids, joint_pos)
        self.episode_length_buf[env_ids] = 0
        self._last_action[env_ids] = 0
        self._refresh()

    def _refresh(self) -> None:
        self._state = self._read_state()
        self._obs = self.task.observations(self._state, self._last_action)

    def _read_state(self) -> SceneState:
        """The present state; copies."""
        joint_pos, joint_vel = self._take("qpos", self._joint_qpos), self._take("qvel", self._joint_qvel)
        asked = self._take("ctrl", self._drives)
        site_pos = {name: self._take("site_xpos", index) for name, index in self._sites.items()}
        site_rot = {name: self._take("site_xmat", index).view(-1, 3, 3) for name, index in self._sites.items()}
        robot = len(JOINT_NAMES)
        return SceneState(
            joint_pos=joint_pos[:, :robot],
            joint_vel=joint_vel[:, :robot],
            joint_effort=self._drive_effort(asked, joint_pos[:, :robot], joint_vel[:, :robot]),
            tcp_pos=site_pos["tcp"],
            tcp_vel=self._tool_velocity(site_pos["tcp"], joint_vel),
            tcp_rot=site_rot["tcp"],
            left_finger_pos=site_pos["leftfinger"],
            right_finger_pos=site_pos["rightfinger"],
            task_joint_pos=joint_pos[:, robot:],
            task_joint_vel=joint_vel[:, robot:],
            site_pos=site_pos,
            site_rot=site_rot,
        )

    def _tool_velocity(self, tcp_pos: torch.Tensor, joint_vel: torch.Tensor) -> torch.Tensor:
        """(N, 3) m/s: each arm joint turns the tool about its axis."""
        arm = (self.num_envs, len(ARM_JOINTS), 3)
        axes, anchors = (self._take(name, self._arm_joints).view(arm) for name in ("xaxis", "xanchor"))
        turning = torch.linalg.cross(axes, tcp_pos[:, None] - anchors)
        return (turning * joint_vel[:, : len(ARM_JOINTS), None]).sum(dim=1)

    def _drive_effort(self, asked: torch.Tensor, joint_pos: torch.Tensor, joint_vel: torch.Tensor) -> torch.Tensor:
        """What position drives apply, (N, 9) N m, fingers N: MuJoCo's own formula, so that a state gives it anew."""
        stiffness, damping, limit = self._drive_constants
        return (stiffness * (asked - joint_pos) - damping * joint_vel).clamp(-limit, limit)

    def _rows(self) -> dict[str, torch.Tensor]:
        """The columns of a sample that do not come from the engine, by name."""
        state = self._state
        return {
            "proprio": self._obs,
            "joint_pos": state.joint_pos,
            "joint_vel": state.joint_vel,
            "joint_effort": state.joint_effort,
            "ee_position": state.tcp_pos,
            "ee_rotation": quat_xyzw(state.tcp_rot),
            **self.task.rows(state),
            **({"success": self.task.succeeded(state)} if self.task.measures_success else {}),
        }

    def _task_state(self) -> torch.Tensor:
        """What `state_spec` names after the physics' state, (N, A + 1 + number of frictions) float64."""
        return torch.cat(
            [self._last_action.double(), self.episode_length_buf[:, None].double(), self._frictions], dim=1
        )

    def _set_task_state(self, values: torch.Tensor) -> None:
        self._last_action.copy_(values[:, : self.num_actions])
        self.episode_length_buf.copy_(values[:, self.num_actions])
        self._frictions = values[:, self.num_actions + 1 :].clone()


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
        torch.stack([1 + x - y - z, xy, xz, wx], 1),
        torch.stack([xy, 1 - x + y - z, yz, wy], 1),
        torch.stack([xz, yz, 1 - x - y + z, wz], 1),
        torch.stack([wx, wy, wz, 1 + x + y + z], 1),
    ]
    products = torch.stack(rows, 1)
    largest = products.diagonal(dim1=1, dim2=2).argmax(1)
    quat = torch.nn.functional.normalize(products[torch.arange(len(m), device=m.device), largest], dim=1)
    return torch.where(quat[:, 3:] < 0, -quat, quat).float()
