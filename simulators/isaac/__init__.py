"""Isaac Lab: any registered manager-based task with a robot, filmed with its own cameras.

    with load("isaac", SimulatorCfg(task="Isaac-Open-Drawer-Franka-v0", num_envs=20, cameras=cameras)) as env: ...

This folder alone imports Isaac, and only once what runs it has started. Here is what is the same in all releases;
`lab2.py` and `lab3.py` have the calls that differ, of which the installed release decides. What comes out of here is
the env's own frame (origins subtracted), quaternions x, y, z, w, names instead of indices.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from simulators import TASKS, CameraEnv, Sample, SimulatorCfg, SimulatorError, SuccessRule, TaskSpec
from simulators.isaac.actions import action_for_target, joint_pos_target
from simulators.isaac.configure import agent_clip_actions, sensor_name
from simulators.isaac.options import IsaacOptions, embedded_name, release
from simulators.isaac.state import restore_state, state_parts
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
    scene = ""

    def __init__(self, cfg: SimulatorCfg) -> None:
        self._options = cfg.options or IsaacOptions()
        # the release is imported now: what runs on 2 cannot be imported on 3
        self._release = importlib.import_module(f"simulators.isaac.lab{release()}")
        self._lab = self._release.Lab(cfg, self._options)
        self.cfg, self.cameras = cfg, cfg.cameras
        self.streams: Mapping[str, Stream] = {name: STREAMS[name] for name in self._lab.streams}
        self._env = env = self._lab.env
        self.num_envs, self.step_dt, self.device = env.num_envs, env.step_dt, torch.device(env.device)
        self.max_episode_length = env.max_episode_length
        self._clip_actions = agent_clip_actions(env)
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
        self._lab.render(WARM_UP_RENDERS)
        self._check_intrinsics()
        parts = state_parts(env)
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
        name = embedded_name(self.cfg.task)
        return IsaacTask(
            name=self.cfg.task,
            num_obs=sum(self.obs_terms.values()),
            num_actions=self.num_actions,
            max_episode_length=self.max_episode_length,
            language_instruction=load_task(name).language_instruction if name in TASKS else "",
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
    def reset(self, seed: int) -> Mapping[str, torch.Tensor]:
        """See `CameraEnv.reset`."""
        self._lab.begin(seed)
        self._stale, self._photographed = True, False
        return self.get_observations()

    def get_observations(self) -> Mapping[str, torch.Tensor]:
        """See `CameraEnv.get_observations`: what the last step or reset computed, with its noise."""
        return self._release.observations(self._env.obs_buf["policy"])

    @torch.inference_mode()
    def step(
        self, actions: torch.Tensor
    ) -> tuple[Mapping[str, torch.Tensor], torch.Tensor, torch.Tensor, dict[str, Any]]:
        """See `CameraEnv.step`. Actions are clipped as the task's registered agent configuration says."""
        had_succeeded = self.succeeded() if self.task.success_rule else None
        _, reward, terminated, time_outs, _ = self._env.step(self._clipped(actions))
        # an env that Isaac Lab has reset in this step shows it in its reward alone
        numbers = (actions, reward[:, None], self._env.obs_buf["policy"], self._state())
        diverged = ~torch.cat(numbers, dim=1).isfinite().all(dim=1)
        dones = terminated | time_outs | diverged
        target = self._release.as_torch(self._robot.data.joint_pos_target).clone()
        left = diverged & ~terminated & ~time_outs
        if left.any():
            self._restart(left.nonzero()[:, 0])
        if dones.any():
            self._lab.refresh()
        self._lab.settle()
        # an env that was reset inside step() shows the end of its old episode until something is rendered
        self._stale, self._photographed = self._stale or bool(dones.any()), False
        extras = {
            "time_outs": time_outs & ~diverged,
            "diverged": diverged,
            "joint_pos_target": target,
        }
        if dones.any() and had_succeeded is not None:  # Isaac Lab has reset them: a step before their end
            extras["log"] = {"success_rate": had_succeeded[dones].float().mean().item()}
        return self.get_observations(), reward.masked_fill(diverged, 0.0), dones, extras

    def _clipped(self, actions: torch.Tensor) -> torch.Tensor:
        limit = self._clip_actions
        return actions if limit is None else actions.clamp(-limit, limit)

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
        return rule.holds(self._release.as_torch(asset.data.joint_pos)[:, joint])

    def action_for_target(self, joint_pos_target: torch.Tensor) -> torch.Tensor:
        """See `CameraEnv.action_for_target`.

        Raises:
            SimulatorError: the task has actions that are no joint targets.
        """
        return action_for_target(self._env.action_manager, joint_pos_target)

    def joint_pos_target(self, actions: torch.Tensor) -> torch.Tensor:
        """See `CameraEnv.joint_pos_target`.

        Raises:
            SimulatorError: the task has actions that are no joint targets.
        """
        present = self._release.as_torch(self._robot.data.joint_pos_target)
        return joint_pos_target(self._env.action_manager, present, self._clipped(actions))

    def episode_info(self) -> list[dict[str, Any]]:
        """See `CameraEnv.episode_info`."""
        return [dict(drawn) for drawn in self._lab.info]

    def draw_variation(self, seed: int) -> list[dict[str, Any]]:
        """See `CameraEnv.draw_variation`."""
        return self._lab.draw(seed)

    def intrinsics(self) -> np.ndarray:
        """See `CameraEnv.intrinsics`."""
        return np.tile([camera.intrinsics for camera in self.cameras], (self.num_envs, 1, 1, 1))

    @torch.inference_mode()
    def capture(self, streams: Collection[str] = ()) -> Sample:
        """See `CameraEnv.capture`."""
        if self._stale:
            self._env.sim.forward()  # 2.3 leaves the bodies where they were after its own resets
        images = self._pictures(streams) if streams else {}
        columns = self._rows()
        on_host = {name: _to_host(part) for name, part in {**columns, **images}.items()}
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # once, for all copies
        arrays = {name: part.numpy() for name, part in on_host.items()}
        return Sample({name: arrays[name] for name in columns}, {name: arrays[name] for name in images})

    def _rows(self) -> dict[str, torch.Tensor]:
        """The columns of the present instant, on the device."""
        robot, as_torch = self._robot.data, self._release.as_torch
        torque = as_torch(robot.applied_torque)
        rows = {
            "proprio": self._env.obs_buf["policy"],
            "joint_pos": as_torch(robot.joint_pos),
            "joint_vel": as_torch(robot.joint_vel),
            # at an episode's start Isaac Lab still holds the last one's
            "joint_effort": torque.masked_fill((self.episode_length_buf == 0)[:, None], 0.0),
            "extrinsics": self._extrinsics(),
            "sim_state": self._state(),
        }
        if self._tool is not None:
            self._tool.update(0.0, force_recompute=True)  # lazy: it may hold what it read before a reset
            place, turn = (as_torch(part) for part in (self._tool.data.target_pos_w, self._tool.data.target_quat_w))
            rows["ee_position"] = place[:, self._tool_index] - self._env.scene.env_origins
            rows["ee_rotation"] = self._release.xyzw(turn[:, self._tool_index])
        for name, (asset, joint) in self._task_joints.items():
            rows[name] = as_torch(asset.data.joint_pos)[:, joint]
        if "success" in self.columns:
            rows["success"] = self.succeeded()
        return rows

    def _pictures(self, streams: Collection[str]) -> dict[str, torch.Tensor]:
        """By stream, (N, C, H, W[, 3]) on the device, of the present state."""
        # a second picture of a state is rendered too: were the renderer late, the two would differ (self_check.py)
        self._lab.render(self._options.rerenders if self._stale else int(self._photographed))
        self._stale, self._photographed = False, True
        seen: dict[str, list[torch.Tensor]] = {stream: [] for stream in streams}
        for sensor in self._sensors:
            sensor.update(0.0, force_recompute=True)  # rendering alone leaves the sensor's buffer as it was
            for stream in streams:
                seen[stream].append(self._lab.image(sensor, stream))
        return {stream: torch.stack(images, dim=1) for stream, images in seen.items()}  # copies of views

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

        pose = self._release.as_torch(self._robot.data.body_link_pose_w)[:, self._hand].double()
        matrix = torch.eye(4, dtype=torch.float64, device=self.device).repeat(self.num_envs, 1, 1)
        matrix[:, :3, :3] = matrix_from_quat(pose[:, 3:])
        matrix[:, :3, 3] = pose[:, :3] - self._env.scene.env_origins
        return matrix

    def _state(self) -> torch.Tensor:
        """(N, S) float64."""
        return torch.cat([part.double() for _, part in state_parts(self._env)], dim=1)

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
        if info is not None:
            self._lab.vary(info)
        assets, as_torch = self._env.scene.articulations.values(), self._release.as_torch
        targets = [
            (as_torch(a.data.joint_pos_target).clone(), as_torch(a.data.joint_vel_target).clone()) for a in assets
        ]
        restore_state(self._env, torch.as_tensor(state, device=self.device))
        for asset, (position, velocity) in zip(assets, targets, strict=True):
            self._lab.set_targets(asset, position, velocity)  # it aims all drives at the state: also the furniture's
        self._env.scene.write_data_to_sim()
        self._env.sim.forward()
        for sensor in self._env.scene.sensors.values():
            sensor.update(0.0)  # the frames that the observations use are lazy too
        self._env.obs_buf = self._env.observation_manager.compute()
        self._lab.refresh()
        self._stale, self._photographed = True, False

    def describe(self) -> dict[str, Any]:
        """See `CameraEnv.describe`."""
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "none"
        return {"simulator": "isaac", "gpu": gpu, **self._lab.describe()}

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
            theirs = self._release.as_torch(sensor.data.intrinsic_matrices)[0].cpu().numpy()
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
