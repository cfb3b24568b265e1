"""Isaac Lab: any registered manager-based task with a robot, filmed with its own cameras.

    with load("isaac", SimulatorCfg(task="Isaac-Open-Drawer-Franka-v0", num_envs=20, cameras=cameras)) as env: ...

This folder alone imports Isaac, and does so once the app runs: Kit must start before anything of it is imported. Here
is what is the same in all releases; `lab2.py` has the calls that differ. What comes out of here is the env's own frame
(origins subtracted), quaternions x, y, z, w, names instead of indices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from simulators import TASKS, CameraEnv, Sample, SimulatorCfg, SimulatorError, SuccessRule, TaskSpec
from simulators.isaac.lab2 import (
    IsaacOptions,
    agent_clip_actions,
    describe_app,
    launch,
    make_env,
    sensor_name,
    xyzw,
)
from simulators.recorded import recorded_columns
from simulators.tasks import Task, load_task
from vpl.columns import STREAMS, Column, Stream

WARM_UP_RENDERS = 10
"""Kit's first pictures can be black while shaders and textures load."""
TOOL_FRAMES = ("ee_tcp", "end_effector")
"""What Isaac Lab's manipulation tasks call the tool centre point in `scene.ee_frame`."""


@dataclass
class IsaacTask:
    """See `simulators.TaskSpec`."""

    name: str
    num_obs: int
    num_actions: int
    max_episode_length: int
    language_instruction: str
    success_rule: SuccessRule | None
    sign_actions: tuple[int, ...] = ()
    is_learned: bool = True


class IsaacEnv:
    """See `simulators.CameraEnv`."""

    Options = IsaacOptions
    streams: Mapping[str, Stream] = {"color": STREAMS["color"]}
    scene = ""

    def __init__(self, cfg: SimulatorCfg) -> None:
        self._options = cfg.options or IsaacOptions()
        launch(cfg, self._options)
        import isaaclab_tasks  # noqa: F401  registers the tasks

        self.cfg, self.cameras = cfg, cfg.cameras
        self._env = env = make_env(cfg, self._options)
        self.num_envs, self.step_dt, self.device = env.num_envs, env.step_dt, torch.device(env.device)
        self.max_episode_length = env.max_episode_length
        self._clip_actions = agent_clip_actions(cfg.task)
        self._find_robot()
        self._find_cameras()
        if not env.observation_manager.group_obs_concatenate["policy"]:
            raise SimulatorError(f"--task '{cfg.task}' gives its policy observations in parts; a vector is needed")
        names, widths = env.observation_manager.active_terms, env.observation_manager.group_obs_term_dim
        self.obs_terms: Mapping[str, int] = dict(zip(names["policy"], map(math.prod, widths["policy"]), strict=True))
        self.num_actions = env.action_manager.total_action_dim
        known = self._find_known_joints()
        self.task: TaskSpec = self._task_spec(known)
        self._stale = True
        """Whether the latest picture shows another state than the present one."""
        self._photographed = False
        """Whether the present state was captured already."""
        self.reset(cfg.seed)
        for _ in range(WARM_UP_RENDERS):
            env.sim.render()
        self._check_intrinsics()
        parts = self._state_parts()
        self.state_spec = ", ".join(f"{name}[{part.shape[1]}]" for name, part in parts)
        self.columns: Mapping[str, Column] = self._declare(known, sum(part.shape[1] for _, part in parts))

    def _find_robot(self) -> None:
        scene = self._env.scene
        self._robot = scene["robot"]
        self._hand = self._robot.body_names.index("panda_hand") if "panda_hand" in self._robot.body_names else None
        self._tool, self._tool_index = _tool_frame(scene)

    def _find_cameras(self) -> None:
        self._sensors = [self._env.scene[sensor_name(camera)] for camera in self.cameras]
        mounts = [camera.mount for camera in self.cameras]
        self._mounts = torch.as_tensor(np.array(mounts).reshape(-1, 4, 4), device=self.device)
        self._on_hand = [i for i, camera in enumerate(self.cameras) if camera.frame == "gripper"]

    def _find_known_joints(self) -> Task | None:
        """The embedded task whose columns are joints of this scene, if there is one; remembers these joints."""
        scene = self._env.scene
        self._task_joints: dict[str, tuple[Any, int]] = {}
        for task in map(load_task, TASKS):
            places = task.isaac_joints
            if places and all(a in scene.articulations and j in scene[a].joint_names for a, j in places.values()):
                self._task_joints = {
                    column: (scene[asset], scene[asset].joint_names.index(joint))
                    for column, (asset, joint) in places.items()
                }
                return task
        return None

    def _task_spec(self, known: Task | None) -> IsaacTask:
        return IsaacTask(
            name=self.cfg.task,
            num_obs=sum(self.obs_terms.values()),
            num_actions=self.num_actions,
            max_episode_length=self.max_episode_length,
            language_instruction=load_task(self.cfg.task).language_instruction if self.cfg.task in TASKS else "",
            success_rule=known.success_rule if known else None,
        )

    def _declare(self, known: Task | None, state_size: int) -> dict[str, Column]:
        """The columns; what this task has no such thing of is left out."""
        joints, cameras = self._robot.joint_names, len(self.cameras)
        of_task = {name: known.columns[name] for name in self._task_joints} if known else {}
        columns = recorded_columns(joints, self.obs_terms, self.num_actions, cameras, state_size, of_task)
        absent = {"ee_position", "ee_rotation"} if self._tool is None else set()
        absent |= {"success"} if self.task.success_rule is None else set()
        return {name: column for name, column in columns.items() if name not in absent}

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """See `CameraEnv`."""
        return self._env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, values: torch.Tensor) -> None:
        self._env.episode_length_buf = values

    @torch.inference_mode()  # here and below: the buffers that a step makes could not be reset outside of it
    def reset(self, seed: int) -> dict[str, torch.Tensor]:
        """Start a round. Isaac Lab draws all envs' states from one generator: they depend on `num_envs` too."""
        self._env.reset(seed=seed % 2**31)  # some of Isaac Sim's generators take an int32
        self._stale, self._photographed = True, False
        return self.get_observations()

    def get_observations(self) -> dict[str, torch.Tensor]:
        """See `CameraEnv.get_observations`: what the last step or reset computed, with its noise."""
        return {"policy": self._env.obs_buf["policy"]}

    @torch.inference_mode()
    def step(self, actions: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, dict[str, Any]]:
        """See `CameraEnv.step`. Actions are clipped as the task's registered agent configuration says."""
        limit = self._clip_actions
        applied = actions if limit is None else actions.clamp(-limit, limit)
        _, reward, terminated, time_outs, _ = self._env.step(applied)
        # an env that Isaac Lab has reset in this step shows it in its reward alone
        numbers = (actions, reward[:, None], self._env.obs_buf["policy"], self._state())
        diverged = ~torch.cat(numbers, dim=1).isfinite().all(dim=1)
        dones = terminated | time_outs | diverged
        joint_pos_target = self._robot.data.joint_pos_target.clone()
        left = diverged & ~terminated & ~time_outs
        if left.any():
            self._restart(left.nonzero()[:, 0])
        # an env that was reset inside step() shows the end of its old episode until something is rendered
        self._stale, self._photographed = self._stale or bool(dones.any()), False
        extras = {
            "time_outs": time_outs & ~diverged,
            "diverged": diverged,
            "joint_pos_target": joint_pos_target,
        }
        return self.get_observations(), reward.masked_fill(diverged, 0.0), dones, extras

    def _restart(self, env_ids: torch.Tensor) -> None:
        """Begin new episodes, as Isaac Lab's own `step` does where a task's terminations ask for it."""
        self._env._reset_idx(env_ids)
        self._env.scene.write_data_to_sim()
        self._env.sim.forward()
        self._env.obs_buf = self._env.observation_manager.compute()

    def succeeded(self) -> torch.Tensor:
        """See `CameraEnv.succeeded`."""
        rule = self.task.success_rule
        if rule is None:
            raise SimulatorError(f"--task {self.cfg.task} has no measure of success")
        asset, joint = self._task_joints[rule.column]
        return rule.holds(asset.data.joint_pos[:, joint])

    def action_for_target(self, joint_pos_target: torch.Tensor) -> torch.Tensor:
        """See `CameraEnv.action_for_target`: the inverse of Isaac Lab's joint position and binary gripper actions.

        Raises:
            SimulatorError: the task has actions of another kind.
        """
        manager, parts = self._env.action_manager, []
        for name in manager.active_terms:
            term = manager.get_term(name)
            kind = type(term).__name__
            if kind == "JointPositionAction":
                parts.append((joint_pos_target[:, term._joint_ids] - term._offset) / term._scale)
            elif kind == "BinaryJointPositionAction":
                middle = (term._open_command + term._close_command) / 2
                opens = joint_pos_target[:, term._joint_ids].mean(dim=1) >= middle.mean()
                parts.append(torch.where(opens, 1.0, -1.0)[:, None])
            else:
                raise SimulatorError(f"--task {self.cfg.task}: joint targets cannot be turned into its {kind}")
        return torch.cat(parts, dim=1)

    def joint_pos_target(self, actions: torch.Tensor) -> torch.Tensor:
        """Isaac Lab computes it in `step` only."""
        raise SimulatorError("Isaac Lab's actions become joint targets in a step only; leave --action_noise out")

    def episode_info(self) -> list[dict[str, Any]]:
        """See `CameraEnv.episode_info`: what Isaac Lab's events draw is in the state."""
        return [{} for _ in range(self.num_envs)]

    def draw_variation(self, seed: int) -> list[dict[str, Any]]:
        """See `CameraEnv.draw_variation`."""
        return self.episode_info()

    def intrinsics(self) -> np.ndarray:
        """See `CameraEnv.intrinsics`."""
        return np.tile([camera.intrinsics for camera in self.cameras], (self.num_envs, 1, 1, 1))

    @torch.inference_mode()
    def capture(self, streams: Collection[str] = ()) -> Sample:
        """See `CameraEnv.capture`."""
        if self._stale:
            self._env.sim.forward()  # 2.3 leaves the bodies where they were after its own resets
        images = {"color": self._pictures()} if "color" in streams else {}
        columns = self._rows()
        on_host = {name: _to_host(part) for name, part in {**columns, **images}.items()}
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # once, for all copies
        arrays = {name: part.numpy() for name, part in on_host.items()}
        return Sample({name: arrays[name] for name in columns}, {name: arrays[name] for name in images})

    def _rows(self) -> dict[str, torch.Tensor]:
        """The columns of the present instant, on the device."""
        robot = self._robot.data
        rows = {
            "proprio": self._env.obs_buf["policy"],
            "joint_pos": robot.joint_pos,
            "joint_vel": robot.joint_vel,
            # at an episode's start Isaac Lab still holds the last one's
            "joint_effort": robot.applied_torque.masked_fill((self.episode_length_buf == 0)[:, None], 0.0),
            "extrinsics": self._extrinsics(),
            "sim_state": self._state(),
        }
        if self._tool is not None:
            self._tool.update(0.0, force_recompute=True)  # lazy: it may hold what it read before a reset
            rows["ee_position"] = self._tool.data.target_pos_w[:, self._tool_index] - self._env.scene.env_origins
            rows["ee_rotation"] = xyzw(self._tool.data.target_quat_w[:, self._tool_index])
        for name, (asset, joint) in self._task_joints.items():
            rows[name] = asset.data.joint_pos[:, joint]
        if "success" in self.columns:
            rows["success"] = self.succeeded()
        return rows

    def _pictures(self) -> torch.Tensor:
        """(N, C, H, W, 3) uint8 on the device, of the present state."""
        # a second picture of a state is rendered too: were the renderer late, the two would differ (self_check.py)
        for _ in range(self._options.rerenders if self._stale else int(self._photographed)):
            self._env.sim.render()
        self._stale, self._photographed = False, True
        height, width = self.cameras[0].height, self.cameras[0].width
        shape = (self.num_envs, len(self.cameras), height, width, 3)
        color = torch.empty(shape, dtype=torch.uint8, device=self.device)
        for i, sensor in enumerate(self._sensors):
            sensor.update(0.0, force_recompute=True)  # rendering alone leaves the sensor's buffer as it was
            color[:, i] = sensor.data.output["rgb"][..., :3]  # a view that the next update writes into
        return color

    def _extrinsics(self) -> torch.Tensor:
        """`T_world_cam` (N, C, 4, 4) float64, from the hand's pose and the mount.

        Not from the sensors: in 2.2 their poses of moving cameras stay at rest (Isaac Sim reads them from USD, which
        physics does not write), in 2.3 they are fresh on CUDA only.
        """
        poses = self._mounts.repeat(self.num_envs, 1, 1, 1)
        if self._on_hand:
            poses[:, self._on_hand] = self._hand_poses()[:, None] @ self._mounts[self._on_hand]
        return poses

    def _hand_poses(self) -> torch.Tensor:
        """`T_world_hand` (N, 4, 4) float64, world = the env's own origin."""
        from isaaclab.utils.math import matrix_from_quat

        pose = self._robot.data.body_link_pose_w[:, self._hand].double()
        matrix = torch.eye(4, dtype=torch.float64, device=self.device).repeat(self.num_envs, 1, 1)
        matrix[:, :3, :3] = matrix_from_quat(pose[:, 3:])
        matrix[:, :3, 3] = pose[:, :3] - self._env.scene.env_origins
        return matrix

    def _state_parts(self) -> list[tuple[str, torch.Tensor]]:
        """Name and value (N, n) of each part of the state, in a fixed order."""
        scene = self._env.scene.get_state(is_relative=True)
        parts = [
            (f"{kind}/{entity}/{quantity}", value.reshape(self.num_envs, -1))
            for kind, entities in scene.items()
            for entity, quantities in entities.items()
            if isinstance(quantities, dict)  # a surface gripper's is a tensor, and not restored
            for quantity, value in quantities.items()
        ]
        length = self._env.episode_length_buf[:, None]
        return [*parts, ("last_action", self._env.action_manager.action), ("episode_length", length)]

    def _state(self) -> torch.Tensor:
        """(N, S) float64."""
        return torch.cat([part.double() for _, part in self._state_parts()], dim=1)

    def start_capture(self, streams: Collection[str] = ()) -> Callable[[], Sample]:
        """See `CameraEnv.start_capture`; the pictures are there at once."""
        sample = self.capture(streams)
        return lambda: sample

    @torch.inference_mode()
    def get_state(self) -> np.ndarray:
        """See `CameraEnv.get_state`."""
        return self._state().cpu().numpy()

    @torch.inference_mode()
    def set_state(self, state: np.ndarray, info: Sequence[Mapping[str, Any]] | None = None) -> None:
        """See `CameraEnv.set_state`, as far as PhysX allows: contacts and warm starts begin anew."""
        values = torch.as_tensor(state, device=self.device)
        scene = self._env.scene.get_state(is_relative=True)
        start = 0
        for name, part in self._state_parts():
            value = values[:, start : start + part.shape[1]].to(part.dtype)
            start += part.shape[1]
            if "/" in name:
                kind, entity, quantity = name.split("/")
                scene[kind][entity][quantity] = value.reshape(scene[kind][entity][quantity].shape)
            else:
                part.copy_(value)  # the manager's own buffer
        assets = self._env.scene.articulations.values()
        targets = [(a, a.data.joint_pos_target.clone(), a.data.joint_vel_target.clone()) for a in assets]
        self._env.scene.reset_to(scene, None, is_relative=True)
        for asset, position, velocity in targets:  # it aims all drives at the state, for good: also the cabinet's
            asset.set_joint_position_target(position)
            asset.set_joint_velocity_target(velocity)
        self._env.scene.write_data_to_sim()
        self._env.sim.forward()
        for sensor in self._env.scene.sensors.values():
            sensor.update(0.0)  # the frames that the observations use are lazy too
        self._env.obs_buf = self._env.observation_manager.compute()
        self._stale, self._photographed = True, False

    def describe(self) -> dict[str, Any]:
        """See `CameraEnv.describe`."""
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "none"
        return {"simulator": "isaac", "gpu": gpu, **describe_app(self._options)}

    @classmethod
    def make(cls, cfg: SimulatorCfg) -> CameraEnv:
        """See `simulators.load`."""
        return cls(cfg)

    def close(self) -> None:
        """Close the env. The app goes on until the process ends: closing it would end the process with 0."""
        self._env.close()

    def __enter__(self) -> IsaacEnv:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check_intrinsics(self) -> None:
        """Isaac's cameras have the focal lengths that the dataset says."""
        for camera, sensor in zip(self.cameras, self._sensors, strict=True):
            theirs = sensor.data.intrinsic_matrices[0].cpu().numpy()
            if not np.allclose(theirs, camera.intrinsics, rtol=1e-4, atol=1e-2):
                raise SimulatorError(f"camera '{camera.name}' came out with K = {theirs.tolist()}; report this, please")


def _tool_frame(scene: Any) -> tuple[Any, int]:
    """The frame sensor and the index of the tool centre point in it; (None, 0) where a task has none."""
    if "ee_frame" not in scene.sensors:
        return None, 0
    names = scene["ee_frame"].data.target_frame_names
    found = [names.index(name) for name in TOOL_FRAMES if name in names]
    return (scene["ee_frame"], found[0]) if found else (None, 0)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Begin a copy to the host; the caller synchronizes. torch recycles pinned memory when its arrays are gone."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)
