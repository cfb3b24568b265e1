"""What every release of Isaac Lab is told: the changes to a task's registered configuration, and its cameras.

Kit must have started where there is one before anything here is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from simulators import SimulatorCfg, SimulatorError
from simulators.cameras import CameraCfg
from simulators.isaac.options import IsaacOptions

if TYPE_CHECKING:
    from isaaclab.envs import ManagerBasedRLEnv

FOCAL_LENGTH = 24.0
"""mm, USD's unit; only its ratio to the aperture matters."""
NEAR, FAR = 0.01, 50.0
"""Clipping range of the cameras, m."""


def registered(name: str, cfg: SimulatorCfg, **parse_options: Any) -> Any:
    """The configuration of `cfg.task`, which Gymnasium knows as `name`, as it is registered.

    Raises:
        SimulatorError: there is no such task, or it is none that can be collected from.
    """
    import gymnasium
    from isaaclab.envs import ManagerBasedRLEnvCfg
    from isaaclab_tasks.utils.parse_cfg import parse_env_cfg

    if name not in gymnasium.registry:
        raise SimulatorError(f"--task '{cfg.task}' is not registered in Isaac Lab; list_envs.py of Isaac Lab names all")
    env_cfg = parse_env_cfg(name, device=cfg.device, num_envs=cfg.num_envs, **parse_options)
    if not isinstance(env_cfg, ManagerBasedRLEnvCfg) or not hasattr(env_cfg.scene, "robot"):
        raise SimulatorError(f"--task '{cfg.task}' is not a manager-based task with an articulation 'robot'")
    return env_cfg


def change(env_cfg: Any, cfg: SimulatorCfg, options: IsaacOptions) -> None:
    """All that collecting needs in any release, but for the cameras, and nothing else."""
    env_cfg.seed = cfg.seed
    env_cfg.scene.env_spacing = options.env_spacing
    env_cfg.sim.render_interval = env_cfg.decimation  # a step ends with a picture of its last state
    for group in (env_cfg.scene, env_cfg.commands):
        for entity in vars(group).values() if group is not None else ():
            if getattr(entity, "debug_vis", False):
                entity.debug_vis = False  # its markers would be in the pictures
    if cfg.light != 1 and hasattr(env_cfg.scene, "light"):
        env_cfg.scene.light.spawn.intensity *= cfg.light


def sensor_name(camera: CameraCfg) -> str:
    return f"{camera.name}_cam"


def sensor_settings(camera: CameraCfg) -> dict[str, Any]:
    """Where a camera is, how large, and its lens, as all releases' camera configurations call it."""
    import isaaclab.sim as sim_utils
    from isaaclab.sensors import CameraCfg as SensorCfg
    from isaaclab.utils.math import quat_from_matrix

    parent = "{ENV_REGEX_NS}/Robot/panda_hand" if camera.frame == "gripper" else "{ENV_REGEX_NS}"
    quat = quat_from_matrix(torch.as_tensor(camera.mount[:3, :3]))  # in the order of the release
    return {
        "prim_path": f"{parent}/{sensor_name(camera)}",
        "offset": SensorCfg.OffsetCfg(
            pos=tuple(camera.mount[:3, 3].tolist()), rot=tuple(quat.tolist()), convention="ros"
        ),
        "width": camera.width,
        "height": camera.height,
        "spawn": sim_utils.PinholeCameraCfg(
            focal_length=FOCAL_LENGTH,
            horizontal_aperture=FOCAL_LENGTH * camera.width / float(camera.intrinsics[0, 0]),
            clipping_range=(NEAR, FAR),
        ),
    }


def make_env(task: str, env_cfg: Any) -> ManagerBasedRLEnv:
    """The env of a configuration.

    Raises:
        SimulatorError: its robot has no hand for a wrist camera, or a file of its scene is not there.
    """
    import gymnasium

    try:
        return gymnasium.make(task, cfg=env_cfg).unwrapped
    except FileNotFoundError as error:
        raise SimulatorError(
            f"--task {task}: {error}; where NVIDIA's server cannot be reached, name a folder with its files in the "
            "environment variable ISAACSIM_ASSET_ROOT"
        ) from error
    except RuntimeError as error:  # the camera's, that finds no prim to stand on
        if "panda_hand" in str(error):
            raise SimulatorError(f"--enable_wrist_camera: the robot of --task {task} has no panda_hand") from error
        raise


def agent_clip_actions(env: ManagerBasedRLEnv) -> float | None:
    """What RslRlVecEnvWrapper would clip actions to: the registered agent configuration's `clip_actions`."""
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    if "rsl_rl_cfg_entry_point" not in env.spec.kwargs:
        return None
    return load_cfg_from_registry(env.spec.id, "rsl_rl_cfg_entry_point").clip_actions
