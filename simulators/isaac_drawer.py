"""Isaac Lab 2.2 and 2.3: any registered manager-based task with a robot, filmed with tiled cameras.

    with IsaacDrawerEnv(SimulatorCfg(task="Isaac-Open-Drawer-Franka-v0", num_envs=20, cameras=cameras)) as env: ...

The only file that imports Isaac, and it does so once the app runs: Kit must start before anything of it is imported.
What comes out of here is the env's own frame (origins subtracted), quaternions x, y, z, w, names instead of indices.
File names below are Isaac Lab's, of release 2.2.0.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from simulators import OPEN_DRAWER, TASKS, CameraCfg, Sample, SimulatorCfg, SimulatorError, TaskSpec

if TYPE_CHECKING:
    from isaaclab.envs import ManagerBasedRLEnv

SUPPORTED = ((0, 44), (1, 0))
"""Extension versions of Isaac Lab 2.2.0 (0.44) up to what comes after 2.3 (2.3.2 is 0.54). Release 3 turns quaternions
into x, y, z, w, tensors into warp arrays and TiledCamera into Camera with a renderer: a module of its own, then."""
ANTI_ALIASING = "FXAA"
"""Of a single picture. TAA, DLSS and DLAA blend in earlier ones: after a reset the old episode would shine through.
The denoisers of a rendering mode look back as well; that is what `rerenders` is for."""
WARM_UP_RENDERS = 10
"""Kit's first pictures can be black while shaders and textures load."""
FOCAL_LENGTH = 24.0
"""mm, USD's unit; only its ratio to the aperture matters."""
NEAR, FAR = 0.01, 50.0
"""Clipping range of the cameras, m."""
TOOL_FRAMES = ("ee_tcp", "end_effector")
"""What Isaac Lab's manipulation tasks call the tool centre point in `scene.ee_frame`."""
DRAWER = ("cabinet", "drawer_top_joint")
_KEPT: list[Any] = []
"""The launcher: the app ends with the last reference to it."""


class IsaacDrawerEnv:
    """See `simulators.DrawerEnv`."""

    scene = ""

    def __init__(self, cfg: SimulatorCfg) -> None:
        _launch(cfg)
        import isaaclab_tasks  # noqa: F401  registers the tasks

        self.cfg, self.cameras = cfg, cfg.cameras
        self._env = env = _make_env(cfg)
        scene = env.scene
        self.num_envs, self.step_dt, self.device = env.num_envs, env.step_dt, torch.device(env.device)
        self.max_episode_length = env.max_episode_length
        self._clip_actions = _agent_clip_actions(cfg.task)
        self._robot = scene["robot"]
        self.joint_names = tuple(self._robot.joint_names)
        self._hand = self._robot.body_names.index("panda_hand") if "panda_hand" in self._robot.body_names else None
        self._tool, self._tool_index = _tool_frame(scene)
        self._drawer = None
        if DRAWER[0] in scene.articulations and DRAWER[1] in scene[DRAWER[0]].joint_names:
            self._drawer = scene[DRAWER[0]], scene[DRAWER[0]].joint_names.index(DRAWER[1])
        self._sensors = [scene[_sensor_name(camera)] for camera in cfg.cameras]
        mounts = [camera.mount for camera in cfg.cameras]
        self._mounts = torch.as_tensor(np.array(mounts).reshape(-1, 4, 4), device=self.device)
        self._on_hand = [i for i, camera in enumerate(cfg.cameras) if camera.frame == "gripper"]
        if not env.observation_manager.group_obs_concatenate["policy"]:
            raise SimulatorError(f"--task '{cfg.task}' gives its policy observations in parts; a vector is needed")
        names, widths = env.observation_manager.active_terms, env.observation_manager.group_obs_term_dim
        self.obs_terms = {n: int(np.prod(w)) for n, w in zip(names["policy"], widths["policy"], strict=True)}
        self.num_actions = env.action_manager.total_action_dim
        self.task = self._task_spec()
        self._stale = True
        """Whether the latest picture shows another state than the present one."""
        self._photographed = False
        """Whether the present state was captured already."""
        self.reset(cfg.seed)
        for _ in range(WARM_UP_RENDERS):
            env.sim.render()
        self._check_intrinsics()
        self.state_spec = ", ".join(f"{name}[{part.shape[1]}]" for name, part in self._state_parts())

    def _task_spec(self) -> TaskSpec:
        has_drawer = self._drawer is not None
        known = TASKS.get(self.cfg.task)
        return TaskSpec(
            num_obs=sum(self.obs_terms.values()),
            num_actions=self.num_actions,
            max_episode_length=self.max_episode_length,
            success_metric="drawer_pos" if has_drawer else None,
            success_threshold=OPEN_DRAWER.success_threshold if has_drawer else 0.0,
            language_instruction=known.language_instruction if known else "",
        )

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """See `DrawerEnv`."""
        return self._env.episode_length_buf

    @torch.inference_mode()  # here and below: the buffers that a step makes could not be reset outside of it
    def reset(self, seed: int) -> dict[str, torch.Tensor]:
        """Start a round. Isaac Lab draws all envs' states from one generator: they depend on `num_envs` too."""
        self._env.reset(seed=seed % 2**31)  # some of Isaac Sim's generators take an int32
        self._stale, self._photographed = True, False
        return self.get_observations()

    def get_observations(self) -> dict[str, torch.Tensor]:
        """See `DrawerEnv.get_observations`: what the last step or reset computed, with its noise."""
        return {"policy": self._env.obs_buf["policy"]}

    @torch.inference_mode()
    def step(self, actions: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, dict[str, Any]]:
        """See `DrawerEnv.step`. Actions are clipped as the task's registered agent configuration says."""
        if self._clip_actions is not None:
            actions = actions.clamp(-self._clip_actions, self._clip_actions)
        _, reward, terminated, time_outs, _ = self._env.step(actions)
        diverged = ~self._env.obs_buf["policy"].isfinite().all(dim=1)  # PhysX's numbers stay bad until the next reset
        dones = terminated | time_outs | diverged
        # an env that was reset inside step() shows the end of its old episode until something is rendered
        self._stale, self._photographed = self._stale or bool(dones.any()), False
        extras = {
            "time_outs": time_outs & ~diverged,
            "diverged": diverged,
            "joint_pos_target": self._robot.data.joint_pos_target.clone(),
        }
        return self.get_observations(), reward.clone(), dones, extras

    @torch.inference_mode()
    def capture(self, render: bool = True) -> Sample:
        """See `DrawerEnv.capture`."""
        if self._stale:
            self._env.sim.forward()  # 2.3 leaves the bodies where they were after its own resets
        color = self._pictures() if render else None
        robot, origins = self._robot.data, self._env.scene.env_origins
        parts = {
            "proprio": self._env.obs_buf["policy"],
            "joint_pos": robot.joint_pos,
            "joint_vel": robot.joint_vel,
            "extrinsics": self._extrinsics(),
            "sim_state": self._state(),
        }
        if self._tool is not None:
            self._tool.update(0.0, force_recompute=True)  # lazy: it may hold what it read before a reset
            parts["ee_position"] = self._tool.data.target_pos_w[:, self._tool_index] - origins
            parts["ee_rotation"] = _xyzw(self._tool.data.target_quat_w[:, self._tool_index])
        if self._drawer is not None:
            cabinet, joint = self._drawer
            parts["drawer_pos"] = cabinet.data.joint_pos[:, joint]
        on_host = {name: _to_host(part) for name, part in parts.items()}
        if color is not None:
            on_host["color"] = _to_host(color)
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # once, for all copies
        absent: dict[str, Any] = dict.fromkeys(("color", "ee_position", "ee_rotation", "drawer_pos"))
        return Sample(**{**absent, **{name: part.numpy() for name, part in on_host.items()}})

    def _pictures(self) -> torch.Tensor:
        """(N, C, H, W, 3) uint8 on the device, of the present state."""
        # a second picture of a state is rendered too: were the renderer late, the two would differ (self_check.py)
        for _ in range(self.cfg.rerenders if self._stale else int(self._photographed)):
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

    def start_capture(self, render: bool = True) -> Callable[[], Sample]:
        """See `DrawerEnv.start_capture`; the pictures are there at once."""
        sample = self.capture(render)
        return lambda: sample

    @torch.inference_mode()
    def get_state(self) -> np.ndarray:
        """See `DrawerEnv.get_state`."""
        return self._state().cpu().numpy()

    @torch.inference_mode()
    def set_state(self, state: np.ndarray) -> None:
        """See `DrawerEnv.set_state`, as far as PhysX allows: contacts and warm starts begin anew."""
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
        """See `DrawerEnv.describe`."""
        import carb
        from isaacsim.core.version import get_version

        on_gpu = self.device.type == "cuda"
        return {
            "simulator": "isaac",
            "isaaclab": ".".join(map(str, extension_version())),
            "isaacsim": ".".join(map(str, get_version()[2:5])),
            "gpu": torch.cuda.get_device_name(self.device) if on_gpu else "none",
            "rendering_mode": self.cfg.rendering_mode or "AppLauncher's default",
            "anti_aliasing": ANTI_ALIASING,
            "/rtx/post/aa/op": carb.settings.get_settings().get(
                "/rtx/post/aa/op"
            ),  # Isaac Lab hides a failure to set it
            "rerenders": self.cfg.rerenders,
        }

    def close(self) -> None:
        """Close the env. The app goes on until the process ends: closing it would end the process with 0."""
        self._env.close()

    def __enter__(self) -> IsaacDrawerEnv:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check_intrinsics(self) -> None:
        """Isaac's cameras have the focal lengths that the dataset says."""
        for camera, sensor in zip(self.cameras, self._sensors, strict=True):
            theirs = sensor.data.intrinsic_matrices[0].cpu().numpy()
            if not np.allclose(theirs, camera.intrinsics, rtol=1e-4, atol=1e-2):
                raise SimulatorError(f"camera '{camera.name}' came out with K = {theirs.tolist()}; report this, please")


def configure(env_cfg: Any, cfg: SimulatorCfg) -> None:
    """Change a task's registered configuration: all that collecting needs, and nothing else."""
    env_cfg.seed = cfg.seed
    env_cfg.scene.env_spacing = cfg.env_spacing
    env_cfg.sim.render_interval = env_cfg.decimation  # a step ends with a picture of its last state
    env_cfg.sim.render.antialiasing_mode = ANTI_ALIASING
    for group in (env_cfg.scene, env_cfg.commands):
        for entity in vars(group).values() if group is not None else ():
            if getattr(entity, "debug_vis", False):
                entity.debug_vis = False  # its markers would be in the pictures
    if cfg.light != 1 and hasattr(env_cfg.scene, "light"):
        env_cfg.scene.light.spawn.intensity *= cfg.light
    for camera in cfg.cameras:
        setattr(env_cfg.scene, _sensor_name(camera), _sensor_cfg(camera))


def _sensor_name(camera: CameraCfg) -> str:
    return f"{camera.name}_cam"


def _sensor_cfg(camera: CameraCfg) -> Any:
    import isaaclab.sim as sim_utils
    from isaaclab.sensors import TiledCameraCfg
    from isaaclab.utils.math import quat_from_matrix

    parent = "{ENV_REGEX_NS}/Robot/panda_hand" if camera.frame == "gripper" else "{ENV_REGEX_NS}"
    mount = camera.mount
    quat_wxyz = quat_from_matrix(torch.as_tensor(mount[:3, :3]))
    return TiledCameraCfg(
        prim_path=f"{parent}/{_sensor_name(camera)}",
        offset=TiledCameraCfg.OffsetCfg(
            pos=tuple(mount[:3, 3].tolist()), rot=tuple(quat_wxyz.tolist()), convention="ros"
        ),
        data_types=["rgb"],
        width=camera.width,
        height=camera.height,
        spawn=sim_utils.PinholeCameraCfg(
            focal_length=FOCAL_LENGTH,
            horizontal_aperture=FOCAL_LENGTH * camera.width / float(camera.intrinsics[0, 0]),
            clipping_range=(NEAR, FAR),
        ),
    )


def _launch(cfg: SimulatorCfg) -> None:
    """Start Kit with what is meant for it and nothing else: left alone, it takes our --width for its window's."""
    version = extension_version()
    if not SUPPORTED[0] <= version < SUPPORTED[1]:
        raise SimulatorError(
            f"Isaac Lab's extension {'.'.join(map(str, version))} is not supported: releases 2.2 and 2.3 are "
            "(0.44 to 0.54); run in nvcr.io/nvidia/isaac-lab:2.2.0, or use --simulator mujoco"
        )
    from isaaclab.app import AppLauncher

    sys.argv[1:] = []
    flags = {"headless": cfg.headless, "enable_cameras": True, "device": cfg.device, "kit_args": cfg.kit_args}
    if cfg.rendering_mode is not None:
        flags["rendering_mode"] = cfg.rendering_mode
    _KEPT.append(AppLauncher(flags))
    # Kit's would end the process with 0 on Ctrl-C and SIGTERM, and loop for ever in a segmentation fault
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for number in (signal.SIGABRT, signal.SIGSEGV):
        signal.signal(number, signal.SIG_DFL)


def extension_version() -> tuple[int, ...]:
    """Version of Isaac Lab's extension, in a source install (NVIDIA's container) and in the wheel."""
    import isaaclab

    package = Path(isaaclab.__file__).parent
    files = [
        package.parent / "config" / "extension.toml",
        package / "source" / "isaaclab" / "config" / "extension.toml",
    ]
    found = re.search(r'^version\s*=\s*"([\d.]+)"', next(f for f in files if f.is_file()).read_text(), re.MULTILINE)
    assert found is not None
    return tuple(map(int, found[1].split(".")))


def _make_env(cfg: SimulatorCfg) -> ManagerBasedRLEnv:
    import gymnasium
    from isaaclab.envs import ManagerBasedRLEnvCfg
    from isaaclab_tasks.utils.parse_cfg import parse_env_cfg

    if cfg.task not in gymnasium.registry:
        raise SimulatorError(f"--task '{cfg.task}' is not registered in Isaac Lab; list_envs.py of Isaac Lab names all")
    env_cfg = parse_env_cfg(cfg.task, device=cfg.device, num_envs=cfg.num_envs)
    if not isinstance(env_cfg, ManagerBasedRLEnvCfg) or not hasattr(env_cfg.scene, "robot"):
        raise SimulatorError(f"--task '{cfg.task}' is not a manager-based task with an articulation 'robot'")
    configure(env_cfg, cfg)
    try:
        return gymnasium.make(cfg.task, cfg=env_cfg).unwrapped
    except RuntimeError as error:  # the camera's, that finds no prim to stand on
        if "panda_hand" in str(error):
            raise SimulatorError(f"--enable_wrist_camera: the robot of --task {cfg.task} has no panda_hand") from error
        raise


def _agent_clip_actions(task: str) -> float | None:
    """What RslRlVecEnvWrapper would clip actions to: the registered agent configuration's `clip_actions`."""
    import gymnasium
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    if "rsl_rl_cfg_entry_point" not in gymnasium.spec(task).kwargs:
        return None
    return load_cfg_from_registry(task, "rsl_rl_cfg_entry_point").clip_actions


def _tool_frame(scene: Any) -> tuple[Any, int]:
    """The frame sensor and the index of the tool centre point in it; (None, 0) where a task has none."""
    if "ee_frame" not in scene.sensors:
        return None, 0
    names = scene["ee_frame"].data.target_frame_names
    found = [names.index(name) for name in TOOL_FRAMES if name in names]
    return (scene["ee_frame"], found[0]) if found else (None, 0)


def _xyzw(quat_wxyz: torch.Tensor) -> torch.Tensor:
    """Isaac Lab 2's order into ours, w >= 0; (N, 4)."""
    return (quat_wxyz * torch.where(quat_wxyz[:, :1] < 0, -1.0, 1.0))[:, [1, 2, 3, 0]]


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Begin a copy to the host; the caller synchronizes. torch recycles pinned memory when its arrays are gone."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)
