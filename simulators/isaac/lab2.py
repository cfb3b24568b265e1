"""What differs between releases of Isaac Lab, for 2.2 and 2.3: starting Kit, configuring a task, adding cameras.

File names below are Isaac Lab's, of release 2.2.0.
"""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from simulators import SimulatorCfg, SimulatorError
from simulators.cameras import CameraCfg

if TYPE_CHECKING:
    from isaaclab.envs import ManagerBasedRLEnv

SUPPORTED = ((0, 44), (1, 0))
"""Extension versions of Isaac Lab 2.2.0 (0.44) up to what comes after 2.3 (2.3.2 is 0.54). Release 3 turns quaternions
into x, y, z, w, tensors into warp arrays and TiledCamera into Camera with a renderer: a module of its own, then."""
ANTI_ALIASING = "FXAA"
"""Of a single picture. TAA, DLSS and DLAA blend in earlier ones: after a reset the old episode would shine through.
The denoisers of a rendering mode look back as well; that is what `rerenders` is for."""
FOCAL_LENGTH = 24.0
"""mm, USD's unit; only its ratio to the aperture matters."""
NEAR, FAR = 0.01, 50.0
"""Clipping range of the cameras, m."""
_KEPT: list[Any] = []
"""The launcher: the app ends with the last reference to it."""


@dataclass(frozen=True)
class IsaacOptions:
    """What only Isaac Lab can be told."""

    env_spacing: float = 2.5
    """Distance between the envs' origins in m; all share one world."""
    headless: bool = True
    """No window."""
    rendering_mode: str | None = None
    """AppLauncher's preset; None: its default."""
    kit_args: str = ""
    """Arguments for Omniverse Kit, in one string."""
    rerenders: int = 3
    """Renders before the first picture after a jump of the state."""


def configure(env_cfg: Any, cfg: SimulatorCfg, options: IsaacOptions) -> None:
    """Change a task's registered configuration: all that collecting needs, and nothing else."""
    env_cfg.seed = cfg.seed
    env_cfg.scene.env_spacing = options.env_spacing
    env_cfg.sim.render_interval = env_cfg.decimation  # a step ends with a picture of its last state
    env_cfg.sim.render.antialiasing_mode = ANTI_ALIASING
    for group in (env_cfg.scene, env_cfg.commands):
        for entity in vars(group).values() if group is not None else ():
            if getattr(entity, "debug_vis", False):
                entity.debug_vis = False  # its markers would be in the pictures
    if cfg.light != 1 and hasattr(env_cfg.scene, "light"):
        env_cfg.scene.light.spawn.intensity *= cfg.light
    for camera in cfg.cameras:
        setattr(env_cfg.scene, sensor_name(camera), _sensor_cfg(camera))


def sensor_name(camera: CameraCfg) -> str:
    return f"{camera.name}_cam"


def _sensor_cfg(camera: CameraCfg) -> Any:
    import isaaclab.sim as sim_utils
    from isaaclab.sensors import TiledCameraCfg
    from isaaclab.utils.math import quat_from_matrix

    parent = "{ENV_REGEX_NS}/Robot/panda_hand" if camera.frame == "gripper" else "{ENV_REGEX_NS}"
    mount = camera.mount
    quat_wxyz = quat_from_matrix(torch.as_tensor(mount[:3, :3]))
    return TiledCameraCfg(
        prim_path=f"{parent}/{sensor_name(camera)}",
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


def launch(cfg: SimulatorCfg, options: IsaacOptions) -> None:
    """Start Kit with what is meant for it and nothing else: left alone, it takes our --width for its window's."""
    version = extension_version()
    if not SUPPORTED[0] <= version < SUPPORTED[1]:
        raise SimulatorError(
            f"Isaac Lab's extension {'.'.join(map(str, version))} is not supported: releases 2.2 and 2.3 are "
            "(0.44 to 0.54); run in nvcr.io/nvidia/isaac-lab:2.2.0, or use --simulator mujoco"
        )
    from isaaclab.app import AppLauncher

    sys.argv[1:] = []
    flags = {"headless": options.headless, "enable_cameras": True, "device": cfg.device, "kit_args": options.kit_args}
    if options.rendering_mode is not None:
        flags["rendering_mode"] = options.rendering_mode
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


def make_env(cfg: SimulatorCfg, options: IsaacOptions) -> ManagerBasedRLEnv:
    import gymnasium
    from isaaclab.envs import ManagerBasedRLEnvCfg
    from isaaclab_tasks.utils.parse_cfg import parse_env_cfg

    if cfg.task not in gymnasium.registry:
        raise SimulatorError(f"--task '{cfg.task}' is not registered in Isaac Lab; list_envs.py of Isaac Lab names all")
    env_cfg = parse_env_cfg(cfg.task, device=cfg.device, num_envs=cfg.num_envs)
    if not isinstance(env_cfg, ManagerBasedRLEnvCfg) or not hasattr(env_cfg.scene, "robot"):
        raise SimulatorError(f"--task '{cfg.task}' is not a manager-based task with an articulation 'robot'")
    configure(env_cfg, cfg, options)
    try:
        return gymnasium.make(cfg.task, cfg=env_cfg).unwrapped
    except RuntimeError as error:  # the camera's, that finds no prim to stand on
        if "panda_hand" in str(error):
            raise SimulatorError(f"--enable_wrist_camera: the robot of --task {cfg.task} has no panda_hand") from error
        raise


def agent_clip_actions(task: str) -> float | None:
    """What RslRlVecEnvWrapper would clip actions to: the registered agent configuration's `clip_actions`."""
    import gymnasium
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    if "rsl_rl_cfg_entry_point" not in gymnasium.spec(task).kwargs:
        return None
    return load_cfg_from_registry(task, "rsl_rl_cfg_entry_point").clip_actions


def describe_app(options: IsaacOptions) -> dict[str, Any]:
    """Versions, and how pictures come about, for `CameraEnv.describe`."""
    import carb
    from isaacsim.core.version import get_version

    return {
        "isaaclab": ".".join(map(str, extension_version())),
        "isaacsim": ".".join(map(str, get_version()[2:5])),
        "rendering_mode": options.rendering_mode or "AppLauncher's default",
        "anti_aliasing": ANTI_ALIASING,
        # Isaac Lab hides a failure to set it
        "/rtx/post/aa/op": carb.settings.get_settings().get("/rtx/post/aa/op"),
        "rerenders": options.rerenders,
    }


def xyzw(quat_wxyz: torch.Tensor) -> torch.Tensor:
    """Isaac Lab 2's order into ours, w >= 0; (N, 4)."""
    return (quat_wxyz * torch.where(quat_wxyz[:, :1] < 0, -1.0, 1.0))[:, [1, 2, 3, 0]]
