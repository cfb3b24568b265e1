"""What differs between releases of Isaac Lab, for 2.2 and 2.3: starting Kit, configuring a task, adding cameras.

File names below are Isaac Lab's, of release 2.2.0.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from simulators import SimulatorCfg, SimulatorError
from simulators.isaac.configure import change, make_env, registered, sensor_name, sensor_settings
from simulators.isaac.options import STREAMS, IsaacOptions

SUPPORTED = ((0, 44), (1, 0))
"""Extension versions of Isaac Lab 2.2.0 (0.44) up to what comes after 2.3 (2.3.2 is 0.54). Release 3 turns quaternions
into x, y, z, w, tensors into warp arrays and TiledCamera into Camera with a renderer: a module of its own, then."""
ANTI_ALIASING = "FXAA"
"""Of a single picture. TAA, DLSS and DLAA blend in earlier ones: after a reset the old episode would shine through.
The denoisers of a rendering mode look back as well; that is what `rerenders` is for."""
_KEPT: list[Any] = []
"""The launcher: the app ends with the last reference to it."""


class Lab:
    """One env in this release. `lab3.Lab` has the same members."""

    streams = STREAMS["isaac_rtx"]

    def __init__(self, cfg: SimulatorCfg, options: IsaacOptions) -> None:
        launch(cfg, options)
        import isaaclab_tasks  # noqa: F401  registers the tasks

        self._options = options
        env_cfg = registered(cfg.task, cfg)
        configure(env_cfg, cfg, options)
        self.env = make_env(cfg.task, env_cfg)
        self.info: list[dict[str, Any]] = [{} for _ in range(cfg.num_envs)]
        """See `CameraEnv.episode_info`: what Isaac Lab's events draw is in the state."""

    def begin(self, seed: int) -> None:
        """Isaac Lab draws all envs' states from one generator: they depend on `num_envs` too."""
        self.env.reset(seed=seed % 2**31)  # some of Isaac Sim's generators take an int32

    def draw(self, seed: int) -> list[dict[str, Any]]:
        """See `CameraEnv.draw_variation`."""
        return self.info

    def vary(self, info: Sequence[Mapping[str, Any]]) -> None:
        """Make the scenes those in which `info` was drawn.

        Raises:
            ValueError: something varies in them.
        """
        if any(info):
            raise ValueError("Isaac Lab 2 varies nothing, and the recorded episodes vary")

    def refresh(self) -> None:
        """After a reset the frames that observations use are right in this release."""

    def settle(self) -> None:
        """RTX's pictures of one state differ by more than how its poses are computed."""

    def render(self, times: int) -> None:
        """Have Kit draw the present state."""
        for _ in range(times):
            self.env.sim.render()

    def set_targets(self, asset: Any, position: torch.Tensor, velocity: torch.Tensor) -> None:
        """What the drives of an articulation aim at, (N, J) each."""
        asset.set_joint_position_target(position)
        asset.set_joint_velocity_target(velocity)

    def image(self, sensor: Any, stream: str) -> torch.Tensor:
        """(N, H, W, 3) uint8, a view that the next update writes into."""
        return sensor.data.output["rgb"][..., :3]

    def describe(self) -> dict[str, Any]:
        """Versions, and how pictures come about, for `CameraEnv.describe`."""
        import carb
        from isaacsim.core.version import get_version

        return {
            "isaaclab": ".".join(map(str, extension_version())),
            "isaacsim": ".".join(map(str, get_version()[2:5])),
            "rendering_mode": self._options.rendering_mode or "AppLauncher's default",
            "anti_aliasing": ANTI_ALIASING,
            # Isaac Lab hides a failure to set it
            "/rtx/post/aa/op": carb.settings.get_settings().get("/rtx/post/aa/op"),
            "rerenders": self._options.rerenders,
        }


def configure(env_cfg: Any, cfg: SimulatorCfg, options: IsaacOptions) -> None:
    """Change a task's registered configuration: all that collecting needs, and nothing else."""
    from isaaclab.sensors import TiledCameraCfg

    change(env_cfg, cfg, options)
    env_cfg.sim.render.antialiasing_mode = ANTI_ALIASING
    for camera in cfg.cameras:
        sensor = TiledCameraCfg(data_types=["rgb"], **sensor_settings(camera))
        setattr(env_cfg.scene, sensor_name(camera), sensor)


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


def xyzw(quat_wxyz: torch.Tensor) -> torch.Tensor:
    """Isaac Lab 2's order into ours, w >= 0; (N, 4)."""
    return (quat_wxyz * torch.where(quat_wxyz[:, :1] < 0, -1.0, 1.0))[:, [1, 2, 3, 0]]


def as_torch(values: torch.Tensor) -> torch.Tensor:
    """What Isaac Lab's data properties give, as a tensor."""
    return values


def observations(policy: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """As `CameraEnv.get_observations` returns them."""
    return {"policy": policy}
