"""What Isaac Lab can be told, and what its installed release can do; nothing of Isaac is imported."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

PHYSICS = ("ovphysx", "newton_mjwarp", "isaacsim_physx")
"""Of release 3, in Isaac Lab's words: PhysX without Kit, Newton's MuJoCo Warp, PhysX in Isaac Sim."""
RENDERERS = ("newton_warp", "isaac_rtx")
"""Of release 3: Newton's ray caster, which needs no Kit, and Isaac Sim's."""
STREAMS: Mapping[str, tuple[str, ...]] = {"newton_warp": ("color", "depth"), "isaac_rtx": ("color",)}
"""By renderer; release 2 draws with isaac_rtx."""
KINDS: Mapping[str, tuple[str, ...]] = {"newton_warp": ("pose", "looks"), "isaac_rtx": ("pose",)}
"""What release 3 varies, by renderer: Newton's has one light and one lens for all envs. Release 2 varies nothing."""


@dataclass(frozen=True)
class IsaacOptions:
    """What only Isaac Lab can be told."""

    env_spacing: float = 2.5
    """Distance between the envs' origins in m; all share one world."""
    isaac_physics: str = PHYSICS[0]
    isaac_renderer: str = RENDERERS[0]
    headless: bool = True
    """No window."""
    rendering_mode: str | None = None
    """AppLauncher's preset; None: its default."""
    kit_args: str = ""
    """Arguments for Omniverse Kit, in one string."""
    rerenders: int = 3
    """Renders before the first picture after a jump of the state, where RTX draws."""


def release() -> int:
    """2 or 3: the first number of Isaac Lab's version; earlier extensions, such as 0.44, are of release 2."""
    found = [package.version for package in importlib.metadata.distributions(name="isaaclab")]
    return 3 if found and int(found[0].partition(".")[0]) >= 3 else 2


def embedded_name(task: str) -> str:
    """What the embedded simulators call a task of Isaac Lab: release 3 has one without a version, which it changed."""
    return "Isaac-Open-Drawer-Franka-v0" if task == "Isaac-Open-Drawer-Franka" else task
