"""The flags of Isaac Lab, and what simulators can and cannot do, which for Isaac Lab depends on what is installed."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from flags import FlagError, flag
from simulators import SIMULATORS, TASKS, is_installed
from simulators.isaac.options import KINDS as ISAAC_KINDS
from simulators.isaac.options import PHYSICS, RENDERERS, embedded_name, release
from simulators.isaac.options import STREAMS as ISAAC_STREAMS
from simulators.variation import DEFAULT_KINDS, KINDS
from vpl.columns import STREAMS

SYSTEM_VARIABLES = {"ENABLE_CAMERAS": ("0", "1"), "HEADLESS": ("0", "1"), "LIVESTREAM": ("0", "1", "2")}
"""What Isaac Lab's AppLauncher reads, and the values that it takes."""


@dataclass(frozen=True)
class Abilities:
    """What a simulator can do here."""

    name: str
    """As messages call it."""
    device: str
    """The torch device where none is asked for."""
    streams: tuple[str, ...] = tuple(STREAMS)
    kinds: tuple[str, ...] = KINDS
    """What it can vary."""

    @property
    def default_kinds(self) -> str:
        """What varies where nothing is asked for."""
        return ",".join(kind for kind in DEFAULT_KINDS if kind in self.kinds) or "none"


def abilities(simulator: str, task: str, renderer: str = RENDERERS[0]) -> Abilities:
    """Of a simulator that `resolve` has returned; `renderer` is Isaac Lab's."""
    name, device = f"--simulator {simulator}", SIMULATORS[simulator].device
    if simulator != "isaac":
        return Abilities(name, device)
    if release() == 2:
        return Abilities(f"{name} (Isaac Lab 2)", device, ISAAC_STREAMS["isaac_rtx"], ())
    device = device if torch.cuda.is_available() or renderer == "isaac_rtx" else "cpu"
    kinds = ISAAC_KINDS[renderer] if embedded_name(task) in TASKS else ()
    return Abilities(f"{name} with {renderer}", device, ISAAC_STREAMS[renderer], kinds)


@dataclass(frozen=True, kw_only=True)
class IsaacFlags:
    """What only Isaac Lab can be told."""

    isaac_physics: str = flag(
        PHYSICS[0],
        "release 3: PhysX without Kit, Newton, or PhysX in Isaac Sim",
        choices=PHYSICS,
        group="Isaac Lab",
    )
    isaac_renderer: str = flag(
        RENDERERS[0], "release 3: Newton's ray caster, or Isaac Sim's RTX", choices=RENDERERS, group="Isaac Lab"
    )
    env_spacing: float = flag(2.5, "distance between envs, which share a world", unit="m", group="Isaac Lab")
    rerenders: int = flag(
        3, "RTX: renders before the first picture after a reset; later ones take one", metavar="K", group="Isaac Lab"
    )
    rendering_mode: str | None = flag(
        None, "AppLauncher's preset", choices=("performance", "balanced", "quality"), group="Isaac Lab"
    )
    kit_args: str = flag("", "arguments for Omniverse Kit, in one string", group="Isaac Lab")
    enable_cameras: bool = flag(False, "accepted; cameras are always on", group="Isaac Lab")

    def check_isaac(self, simulator: str) -> None:
        """Refuse what Isaac Lab would choke on.

        Raises:
            FlagError: there is such a flag, or such an environment variable.
        """
        if not (math.isfinite(self.env_spacing) and self.env_spacing > 0):
            raise FlagError(f"--env_spacing must be above 0, got {self.env_spacing}")
        if self.rerenders < 1:
            raise FlagError(f"--rerenders must be at least 1, got {self.rerenders}")
        chosen = {"isaac_physics": self.isaac_physics, "isaac_renderer": self.isaac_renderer}
        others = [name for name, value in chosen.items() if value != IsaacFlags.__dataclass_fields__[name].default]
        if simulator != "isaac" or release() == 2:
            if others:
                raise FlagError(f"--{others[0]} {chosen[others[0]]} is of Isaac Lab 3, which is not what runs here")
        else:
            self._check_release_3()
        for name, values in SYSTEM_VARIABLES.items():
            if simulator == "isaac" and os.environ.get(name, "0") not in values:
                raise FlagError(f"environment variable {name} must be {' or '.join(values)}, got '{os.environ[name]}'")

    def _check_release_3(self) -> None:
        if self.isaac_physics == "ovphysx" and self.isaac_renderer == "isaac_rtx":
            raise FlagError(
                "--isaac_renderer isaac_rtx runs in Kit, ovphysx does not; give --isaac_physics isaacsim_physx"
            )
        for name, value in (("isaac_physics", self.isaac_physics), ("isaac_renderer", self.isaac_renderer)):
            if value.startswith("isaac") and not is_installed("isaacsim"):
                raise FlagError(f"--{name} {value}: this Python has no package 'isaacsim'; install Isaac Sim 6")
        if self.isaac_physics == "newton_mjwarp" and not is_installed("mujoco_warp"):
            raise FlagError("--isaac_physics newton_mjwarp: this Python has no 'mujoco_warp'; ./setup_venv.sh isaac")
