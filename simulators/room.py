"""The room around the robot in MuJoCo's words: materials, light, floor, walls. looks.py has what else it may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from simulators.cameras import CameraCfg
from simulators.looks import PATTERNS, PLAIN, pictures

ROBOT, SURROUNDINGS = 1, 2
"""Bits of contype: the robot touches its surroundings, nothing touches itself."""
_ROOM = 1
"""The group of its geoms; the renderers draw 0 to 2."""


def add_patterns(spec: mujoco.MjSpec) -> None:
    """A material for each of `looks.pictures`, and PLAIN."""
    spec.add_material(name=PLAIN, specular=0.2, shininess=0.3)
    for name, rgb in pictures().items():
        pattern = PATTERNS[name.rpartition("_")[0]]
        in_2_m = 2 * pattern.repeats_per_m  # what MuJoCo counts of a uniform texture
        _add_textured(spec, name, rgb, specular=pattern.specular, texrepeat=[in_2_m] * 2)


def add_looks(spec: mujoco.MjSpec, cameras: Sequence[CameraCfg], light: float) -> None:
    """Materials, light and room; `light` multiplies every light's brightness."""
    spec.visual.global_.offwidth = max((c.width for c in cameras), default=1)
    spec.visual.global_.offheight = max((c.height for c in cameras), default=1)
    spec.stat.extent = 1.0
    spec.visual.quality.numslices, spec.visual.quality.numstacks = 16, 8  # a fifth faster than MuJoCo's 28 and 16
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 20.0
    spec.visual.headlight.ambient = light * np.array((0.32, 0.32, 0.33))
    spec.visual.headlight.diffuse = light * np.array((0.22, 0.22, 0.22))
    spec.visual.headlight.specular = (0.1, 0.1, 0.1)
    # pos does not count for a directional light; it is below the ceiling, for those who make a lamp of it
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=(-1, -1.55, 2.88),
        dir=(0.45, 0.5, -0.8),
        diffuse=light * np.array((0.55, 0.54, 0.51)),
        specular=(0.3, 0.3, 0.3),
        castshadow=True,
    )
    for name, rgba, specular, shininess in (
        ("white", (0.93, 0.93, 0.94, 1), 0.4, 0.4),
        ("dark", (0.23, 0.24, 0.26, 1), 0.3, 0.3),
        ("rubber", (0.08, 0.08, 0.09, 1), 0.1, 0.1),
        ("front", (0.80, 0.84, 0.85, 1), 0.2, 0.3),
        ("inside", (0.86, 0.79, 0.68, 1), 0.1, 0.1),
        ("steel", (0.30, 0.31, 0.33, 1), 0.8, 0.6),
        ("floor", (0.60, 0.61, 0.61, 1), 0.0, 0.0),
        ("joint", (0.49, 0.50, 0.51, 1), 0.0, 0.0),
        ("wall", (0.78, 0.80, 0.81, 1), 0.0, 0.0),
    ):
        spec.add_material(name=name, rgba=rgba, specular=specular, shininess=shininess)
    _add_wood(spec)
    _add_room(spec)


def _add_room(spec: mujoco.MjSpec) -> None:
    """A floor with joints 1 m apart, walls and a ceiling: a textured floor and a sky would cost a CPU a fifth more."""
    floor = dict(type=mujoco.mjtGeom.mjGEOM_PLANE, contype=SURROUNDINGS, conaffinity=ROBOT)
    spec.worldbody.add_geom(name="floor", size=(4, 4, 0.1), material="floor", **floor)
    untouchable = dict(type=mujoco.mjtGeom.mjGEOM_BOX, contype=0, conaffinity=0, group=_ROOM)
    for offset in np.arange(-3.5, 4.0):
        spec.worldbody.add_geom(pos=(offset, 0, 0), size=(0.006, 4, 0.001), material="joint", **untouchable)
        spec.worldbody.add_geom(pos=(0, offset, 0), size=(4, 0.006, 0.001), material="joint", **untouchable)
    for x, y in ((4.0, 0.0), (-4.0, 0.0), (0.0, 4.0), (0.0, -4.0)):
        size = (0.05 if x else 4, 0.05 if y else 4, 1.5)
        spec.worldbody.add_geom(pos=(x, y, 1.5), size=size, material="wall", **untouchable)
    spec.worldbody.add_geom(pos=(0, 0, 3.05), size=(4, 4, 0.05), material="wall", **untouchable)


def _add_wood(spec: mujoco.MjSpec) -> None:
    _add_textured(spec, "wood", _wood(256), specular=0.1)


def _add_textured(spec: mujoco.MjSpec, name: str, rgb: np.ndarray, specular: float, **more: Any) -> None:
    """A material with the picture `rgb` (H, W, 3) uint8, which repeats itself."""
    texture = spec.add_texture(
        name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=rgb.shape[1], height=rgb.shape[0], nchannel=3
    )
    texture.data = rgb.tobytes()
    material = spec.add_material(name=name, texuniform=True, specular=specular, shininess=0.1, **more)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def _wood(size_px: int) -> np.ndarray:
    """Oak: smooth streaks across a warm tone, (size, size, 3) uint8."""
    rng = np.random.default_rng(0)
    columns = np.arange(size_px)
    waves = [np.sin(columns * 2 * np.pi * k / size_px + rng.uniform(0, 6.28)) / k**0.5 for k in (2, 5, 9, 14, 23)]
    tone = np.array([0.66, 0.49, 0.33]) * (1 + 0.035 * np.sum(waves, axis=0)[:, None])
    return (255 * np.clip(np.tile(tone, (size_px, 1, 1)), 0, 1)).astype(np.uint8)
