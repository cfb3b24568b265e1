"""Loads MuJoCo with an OpenGL that needs no display: EGL, unless MUJOCO_GL says otherwise. Import it before MuJoCo."""

from __future__ import annotations

import importlib
import os
import sys

from simulators import SimulatorError

if sys.platform == "linux" and not os.environ.get("MUJOCO_GL"):
    os.environ["MUJOCO_GL"] = "egl"
PLATFORM = os.environ.get("MUJOCO_GL")
REMEDY = {
    "egl": "apt-get install --no-install-recommends libegl1 libgl1-mesa-dri libopengl0",
    "osmesa": "apt-get install --no-install-recommends libosmesa6, or unset MUJOCO_GL",
}.get(str(PLATFORM).lower(), "unset MUJOCO_GL")
_chose_before = "mujoco" in sys.modules
try:
    import mujoco

    if _chose_before:  # without MUJOCO_GL it takes GLFW, which needs a display
        importlib.reload(mujoco.rendering.classic.gl_context)
except (ImportError, AttributeError, RuntimeError) as error:
    # the second is how PyOpenGL answers to a missing library
    reason = "its OpenGL library is missing" if isinstance(error, AttributeError) else " ".join(str(error).split())
    raise SimulatorError(f"MuJoCo cannot be loaded (MUJOCO_GL={PLATFORM}): {reason}; try: {REMEDY}") from error


def check_display() -> None:
    """Refuse what could draw nothing, or would wait for a display for ever.

    Raises:
        SimulatorError: MUJOCO_GL asks for it.
    """
    context = getattr(mujoco.rendering.classic.gl_context, "GLContext", None)
    if context is None:
        raise SimulatorError(f"MUJOCO_GL={PLATFORM} forbids MuJoCo to draw; unset MUJOCO_GL")
    has_display = sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    if context.__module__ == "mujoco.glfw" and not has_display:
        raise SimulatorError(f"MUJOCO_GL={PLATFORM} draws with GLFW, which needs a display; unset MUJOCO_GL")
