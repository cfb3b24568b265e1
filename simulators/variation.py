"""What differs from episode to episode, drawn from random numbers of its own.

    drawn = draw(VariationCfg(("pose", "light")), Setting(movable=("cabinet",)), seed=7, env=0)
    drawn["pose"]["cabinet"]                     # [x, y, z in m, yaw in rad] that it is moved by

Each kind has a spawn key of its own, so that the motion is the same bit by bit whichever looks are drawn. What was
drawn is JSON: it is an episode's `variation`, and puts the same scene back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulators.cameras import CameraCfg
from simulators.looks import draw_looks, tinted
from simulators.things import Surface

KINDS = ("pose", "looks", "light", "camera", "distractors")
"""In the order of their spawn keys: a new one comes last."""
DEFAULT_KINDS = ("pose", "looks", "light")
TRIES = 100
"""Poses that are drawn at most until one fits. With the default ranges one in seven does not."""
EYE_M, TARGET_M, FOV_DEG = 0.03, 0.03, 2.0
"""How far a camera that is fixed in the room is off to either side."""
DISTRACTOR_SHAPES = ("box", "cylinder", "sphere", "box")
"""One of each on every surface, those that are drawn."""
DISTRACTOR_SHARE = 0.6
FLOOR = (
    Surface("world", (0.9, 1.0, 0.0), (0.35, 0.2)),
    Surface("world", (0.9, -1.0, 0.0), (0.35, 0.2)),
)
"""Where distractors stand beside what the task has: left and right of it, out of the arm's reach."""


@dataclass(frozen=True)
class VariationCfg:
    """What varies, and how far."""

    kinds: tuple[str, ...] = ()
    """Of KINDS."""
    pose_range: tuple[float, float, float, float] = (0.05, 0.10, 0.025, 0.1)
    """How far things move to either side along the env's x, y and z (m), and turn about its z (rad)."""


NOTHING_VARIES = VariationCfg()


@dataclass(frozen=True)
class Setting:
    """What there is to vary."""

    movable: tuple[str, ...] = ()
    """Bodies that "pose" moves."""
    surfaces: tuple[Surface, ...] = ()
    """Where distractors may stand."""
    cameras: tuple[CameraCfg, ...] = ()


def draw(
    cfg: VariationCfg,
    setting: Setting,
    seed: int,
    env: int,
    fits: Callable[[dict[str, Any]], bool] = lambda drawn: True,
) -> dict[str, Any]:
    """What env `env` gets in a round of seed `seed`, by kind; JSON types.

    Args:
        cfg: what is drawn.
        setting: what there is to vary.
        seed: the round's.
        env: its index.
        fits: whether the robot may start in a scene with such a pose; if not, it is drawn again.
    """
    drawn: dict[str, Any] = {}
    for kind in KINDS:
        if kind not in cfg.kinds:
            continue
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(env, KINDS.index(kind))))
        if kind == "pose":
            drawn |= _draw_pose(rng, cfg.pose_range, setting.movable, fits)
        elif kind == "looks":
            drawn[kind] = draw_looks(rng)
        elif kind == "light":
            drawn[kind] = _draw_light(rng)
        elif kind == "camera":
            drawn[kind] = {c.name: _draw_camera(rng, c) for c in setting.cameras if c.frame == "env"}
        else:
            drawn[kind] = _draw_distractors(rng, setting.surfaces)
    return drawn


def _draw_pose(
    rng: np.random.Generator,
    pose_range: tuple[float, ...],
    movable: tuple[str, ...],
    fits: Callable[[dict[str, Any]], bool],
) -> dict[str, Any]:
    for _ in range(TRIES):
        drawn = {"pose": {body: (rng.uniform(-1, 1, 4) * pose_range).tolist() for body in movable}}
        if fits(drawn):
            break
    return drawn


def _draw_light(rng: np.random.Generator) -> dict[str, Any]:
    """Where a sun shines to, never from behind the task, its colour times its brightness, and what is everywhere."""
    azimuth, elevation = np.radians(rng.uniform(-75, 75)), np.radians(rng.uniform(35, 75))
    level = np.cos(elevation)
    warmth, brightness = rng.uniform(-1, 1), rng.uniform(0.35, 0.75)
    return {
        "direction": [level * np.cos(azimuth), level * np.sin(azimuth), -np.sin(elevation)],
        "color": [brightness * (1 + 0.06 * warmth), brightness, brightness * (1 - 0.14 * warmth)],
        "ambient": rng.uniform(0, 0.12),
    }


def _draw_camera(rng: np.random.Generator, camera: CameraCfg) -> dict[str, Any]:
    return {
        "eye": (camera.eye + EYE_M * rng.uniform(-1, 1, 3)).tolist(),
        "target": (camera.target + TARGET_M * rng.uniform(-1, 1, 3)).tolist(),
        "vertical_fov_deg": camera.vertical_fov_deg + FOV_DEG * rng.uniform(-1, 1),
    }


def _draw_distractors(rng: np.random.Generator, surfaces: tuple[Surface, ...]) -> dict[str, Any]:
    """Place (m, in the surface's body), yaw, half sizes (m) and colour of those that are there, each in a lane."""
    drawn: dict[str, Any] = {}
    for name, surface, shape, lane in distractors(surfaces):
        present, size = rng.random() < DISTRACTOR_SHARE, rng.uniform((0.03, 0.03, 0.03), (0.07, 0.07, 0.12))
        place, yaw, rgb = rng.uniform(-1, 1, 2), rng.uniform(0, np.pi), tinted(rng)
        if not present:
            continue
        if shape != "box":
            size[1:] = (size[0], size[0]) if shape == "sphere" else (size[2], 0)
        height = size[1] if shape == "cylinder" else size[-1]
        half_x, half_y = surface.half_size
        width = half_y / len(DISTRACTOR_SHAPES)  # half of a lane's
        y = -half_y + (2 * lane + 1) * width + max(0.0, width - 0.1) * place[1]
        x = max(0.0, half_x - 0.1) * place[0]
        pos = [surface.center[0] + x, surface.center[1] + y, surface.center[2] + height]
        drawn[name] = {"pos": pos, "yaw": yaw, "size": size.tolist(), "rgb": rgb}
    return drawn


def distractors(surfaces: tuple[Surface, ...]) -> list[tuple[str, Surface, str, int]]:
    """Name, surface, shape and lane of every distractor that there may be."""
    return [
        (f"distractor_{i * len(DISTRACTOR_SHAPES) + lane}", surface, shape, lane)
        for i, surface in enumerate(surfaces)
        for lane, shape in enumerate(DISTRACTOR_SHAPES)
    ]
