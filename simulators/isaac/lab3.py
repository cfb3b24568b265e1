"""What differs between releases of Isaac Lab, for 3.0: without Kit, on PhysX or Newton, drawn by Newton's ray caster.

Nothing of Isaac Lab may be imported before `Lab` is made: it reads ISAACSIM_ASSET_ROOT when it is.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import warp as wp
from tensordict import TensorDict

from simulators import TASKS, SimulatorCfg
from simulators.cameras import CameraCfg
from simulators.isaac import rewards
from simulators.isaac.assets import find_root
from simulators.isaac.colors import Colors
from simulators.isaac.configure import change, make_env, registered, sensor_name, sensor_settings
from simulators.isaac.options import STREAMS, IsaacOptions, embedded_name
from simulators.isaac.placement import Placement
from simulators.tasks import load_task

PACKAGES = ("isaaclab", "newton", "warp-lang", "ovphysx", "ovstage", "mujoco-warp", "isaacsim")
"""Whose versions decide about an episode."""
ANTI_ALIASING = "FXAA"
"""Of RTX; see lab2.py."""
NEWTON_CONSTRAINTS = 300
"""For each env. The task's own 90 are too few when the gripper holds a handle: MuJoCo Warp drops what is beyond."""
_ALLOCATORS = ("zeros", "empty", "ones", "full", "zeros_like", "empty_like", "clone")
_KEPT: list[Any] = []
"""The launcher: what it started ends with the last reference to it."""


class Lab:
    """One env in this release. `lab2.Lab` has the same members."""

    def __init__(self, cfg: SimulatorCfg, options: IsaacOptions) -> None:
        sys.argv[1:] = []  # Hydra and Kit would read ours
        root, self._assets = find_root()
        if root is not None:
            os.environ["ISAACSIM_ASSET_ROOT"] = root
            print(f"assets      {self._assets}", flush=True)
        wp.config.log_level = wp.LOG_WARNING  # before Warp starts: a line for each of hundreds of kernels
        if not torch.cuda.is_available():
            allocate_pageable()
        self._options, self.streams = options, STREAMS[options.isaac_renderer]
        self._placement: Placement | None = None
        with warnings.catch_warnings(), quiet_unless_it_exits():
            warnings.simplefilter("ignore")
            self.env = self._open(cfg)
        self._colors = Colors(self.env) if "looks" in cfg.variation.kinds and cfg.cameras else None
        self._none: list[dict[str, Any]] = [{} for _ in range(cfg.num_envs)]

    def _open(self, cfg: SimulatorCfg) -> Any:
        """Configure the task, start what it runs on, and make its env."""
        from isaaclab.app import launch_simulation

        register_version_0()
        name = f"Release2-{cfg.task}" if cfg.task in TASKS else cfg.task
        env_cfg = registered(name, cfg, overrides=[f"physics={self._options.isaac_physics}"])
        configure(env_cfg, cfg, self._options)
        if (ours := embedded_name(cfg.task)) in TASKS:
            task = load_task(ours, cfg.rewards)
            self._placement = Placement(cfg, task, env_cfg.scene.robot.init_state.joint_pos)
            self._placement.add_to(env_cfg)
            if cfg.rewards:
                rewards.use(env_cfg, task)
        flags = {"headless": self._options.headless, "device": cfg.device, "kit_args": self._options.kit_args}
        if self._options.rendering_mode is not None:
            flags["rendering_mode"] = self._options.rendering_mode
        launcher = launch_simulation(env_cfg, flags)
        launcher.__enter__()
        _KEPT.append(launcher)
        return make_env(name, env_cfg)

    @property
    def info(self) -> list[dict[str, Any]]:
        """See `CameraEnv.episode_info`."""
        return self._placement.info if self._placement else self._none

    def begin(self, seed: int) -> None:
        """Reset all envs; a task that is ours too starts as it does in every other simulator."""
        if self._placement:
            self._placement.draw(seed)
        self.env.reset(seed=seed % 2**31)
        self.refresh()
        self._paint()

    def draw(self, seed: int) -> list[dict[str, Any]]:
        """See `CameraEnv.draw_variation`."""
        return self._placement.drawn(seed)[1] if self._placement else self._none

    def vary(self, info: Sequence[Mapping[str, Any]]) -> None:
        """Make the scenes those in which `info` was drawn; where things stand is part of the state.

        Raises:
            ValueError: something varies in them that does not here.
        """
        if self._placement:
            self._placement.put(info)
            self._paint()
        elif any(info):
            raise ValueError(f"nothing varies in this task, and the recorded episodes vary: {info[0]}")

    def _paint(self) -> None:
        if self._colors:
            self._colors.put([drawn.get("looks", {}) for drawn in self.info])

    def refresh(self) -> None:
        """Newton's frame sensors keep the last episode after a reset, and with them the first observation."""
        from isaaclab_newton.physics import NewtonManager

        if self._options.isaac_physics != "newton_mjwarp":
            return
        self.env.sim.forward()
        for frames in NewtonManager._newton_frame_transform_sensors:
            frames.update(NewtonManager.backend.state_0)
        for sensor in self.env.scene.sensors.values():
            sensor.update(0.0, force_recompute=True)
        self.env.obs_buf = self.env.observation_manager.compute()

    def settle(self) -> None:
        """Have PhysX compute all poses from the joint positions, as it does when a state is put back.

        In a step it computes them otherwise, one rounding apart (1e-7 m), which pixels on outlines would show: a
        picture, and all other columns, would then not follow from the recorded state bit by bit.
        """
        if self._options.isaac_physics == "newton_mjwarp":
            return
        for asset in self.env.scene.articulations.values():
            asset.write_joint_position_to_sim_index(position=asset.data.joint_pos.torch.clone())
        self.env.sim.forward()

    def render(self, times: int) -> None:
        """Have RTX draw the present state; Newton's ray caster does when a sensor is read."""
        for _ in range(times if self._options.isaac_renderer == "isaac_rtx" else 0):
            self.env.sim.render()

    def set_targets(self, asset: Any, position: torch.Tensor, velocity: torch.Tensor) -> None:
        """What the drives of an articulation aim at, (N, J) each."""
        asset.set_joint_position_target_index(target=position)
        asset.set_joint_velocity_target_index(target=velocity)

    def image(self, sensor: Any, stream: str) -> torch.Tensor:
        """(N, H, W, 3) uint8 or, of depth, (N, H, W) uint16 mm."""
        if stream == "color":
            return sensor.data.output["rgb"].torch[..., :3]
        return (1000 * sensor.data.output["depth"].torch[..., 0]).round().clamp(0, 2**16 - 1).to(torch.uint16)

    def describe(self) -> dict[str, Any]:
        """Versions, and how pictures come about, for `CameraEnv.describe`."""
        found = {package.name.lower(): package.version for package in importlib.metadata.distributions()}
        return {
            **{name: found[name] for name in PACKAGES if name in found},
            "physics": self._options.isaac_physics,
            "physics_dt": self.env.physics_dt,
            "renderer": self._options.isaac_renderer,
            "assets": self._assets,
        }


@contextlib.contextmanager
def quiet_unless_it_exits() -> Iterator[None]:
    """Keep Isaac Lab's hundred lines of tables from the terminal, but not what it says where it ends the process."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    except SystemExit:
        print(said.getvalue(), file=sys.stderr)
        raise


def register_version_0() -> None:
    """Isaac Lab's own tasks, and those of release 2.2, under names that Gymnasium allows beside 3.0's."""
    import gymnasium
    import isaaclab_tasks  # noqa: F401  registers the tasks

    for name in TASKS:
        if f"Release2-{name}" in gymnasium.registry:
            continue  # this process has made an env before
        gymnasium.register(
            f"Release2-{name}",
            entry_point="isaaclab.envs:ManagerBasedRLEnv",
            disable_env_checker=True,
            kwargs={"env_cfg_entry_point": "simulators.isaac.open_drawer:OpenDrawerCfg"},
        )


def configure(env_cfg: Any, cfg: SimulatorCfg, options: IsaacOptions) -> None:
    """Change a task's registered configuration: all that collecting needs, and nothing else."""
    change(env_cfg, cfg, options)
    if options.isaac_physics == "newton_mjwarp":
        env_cfg.sim.physics.solver_cfg.njmax = max(NEWTON_CONSTRAINTS, env_cfg.sim.physics.solver_cfg.njmax or 0)
    for camera in cfg.cameras:
        setattr(env_cfg.scene, sensor_name(camera), _sensor_cfg(camera, options))


def _sensor_cfg(camera: CameraCfg, options: IsaacOptions) -> Any:
    from isaaclab.sensors import CameraCfg as SensorCfg
    from isaaclab_newton.renderers import NewtonWarpRendererCfg
    from isaaclab_physx.renderers import IsaacRtxRendererCfg, IsaacRtxRendererGlobalSettingsCfg

    if options.isaac_renderer == "newton_warp":
        renderer, data_types = NewtonWarpRendererCfg(), ["rgb", "depth"]
    else:
        settings = IsaacRtxRendererGlobalSettingsCfg(antialiasing_mode=ANTI_ALIASING)
        renderer, data_types = IsaacRtxRendererCfg(global_settings=settings), ["rgb"]
    return SensorCfg(
        data_types=data_types,
        renderer_cfg=renderer,
        update_latest_camera_pose=True,  # else a camera on the hand draws from where the hand was at first
        **sensor_settings(camera),
    )


def allocate_pageable() -> None:
    """Without CUDA's driver Warp cannot pin memory, and Isaac Lab's PhysX asks for it all the same."""
    for name in _ALLOCATORS:
        if not hasattr(getattr(wp, name), "__wrapped__"):
            setattr(wp, name, _unpinned(getattr(wp, name)))


def _unpinned(allocate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(allocate)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return allocate(*args, **{**kwargs, "pinned": False}) if "pinned" in kwargs else allocate(*args, **kwargs)

    return plain


def as_torch(values: Any) -> torch.Tensor:
    """What Isaac Lab's data properties give, as a tensor."""
    return values.torch


def xyzw(quat: torch.Tensor) -> torch.Tensor:
    """Isaac Lab 3's order is ours, w >= 0; (N, 4)."""
    return quat * torch.where(quat[:, 3:] < 0, -1.0, 1.0)


def observations(policy: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """As `CameraEnv.get_observations` returns them; RSL-RL 5 takes a TensorDict only."""
    return TensorDict({"policy": policy}, batch_size=[len(policy)])  # type: ignore[return-value]
