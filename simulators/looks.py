"""What surfaces may look like: colours of rooms, furniture and metal, and the patterns that they are covered with.

    look = draw_looks(np.random.default_rng(0))["floor"]         # {"material": "planks_2", "rgb": [0.55, 0.42, 0.3]}
    pictures()["planks_2"]                                       # (128, 128, 3) uint8, seamless

A pattern is nearly white, and the colour of the surface multiplies it. Colours are chosen by eye, such that a room made
of them could be one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SIZE_PX = 128
Rgb = tuple[float, float, float]

_PAINT: tuple[Rgb, ...] = (
    (0.93, 0.92, 0.89),
    (0.80, 0.84, 0.85),
    (0.62, 0.68, 0.70),
    (0.72, 0.77, 0.68),
    (0.45, 0.55, 0.52),
    (0.36, 0.44, 0.55),
    (0.83, 0.75, 0.62),
    (0.70, 0.45, 0.38),
    (0.32, 0.33, 0.36),
    (0.86, 0.80, 0.80),
)
_WOODS: tuple[Rgb, ...] = (
    (0.74, 0.57, 0.40),
    (0.85, 0.72, 0.54),
    (0.55, 0.37, 0.24),
    (0.40, 0.27, 0.19),
    (0.66, 0.44, 0.29),
    (0.78, 0.70, 0.60),
)
_WALLS: tuple[Rgb, ...] = (
    (0.90, 0.90, 0.88),
    (0.84, 0.83, 0.79),
    (0.78, 0.80, 0.81),
    (0.80, 0.84, 0.80),
    (0.76, 0.80, 0.86),
    (0.88, 0.82, 0.72),
    (0.85, 0.76, 0.72),
    (0.66, 0.68, 0.70),
)
_STONE: tuple[Rgb, ...] = (
    (0.62, 0.62, 0.61),
    (0.76, 0.74, 0.70),
    (0.50, 0.51, 0.53),
    (0.70, 0.66, 0.60),
    (0.58, 0.62, 0.64),
)
_CARPETS: tuple[Rgb, ...] = ((0.52, 0.52, 0.54), (0.60, 0.55, 0.48), (0.42, 0.47, 0.54), (0.50, 0.42, 0.40))
_METALS: tuple[Rgb, ...] = (
    (0.30, 0.31, 0.33),
    (0.10, 0.10, 0.11),
    (0.62, 0.63, 0.65),
    (0.66, 0.54, 0.30),
    (0.58, 0.38, 0.28),
    (0.85, 0.85, 0.84),
)


@dataclass(frozen=True)
class Pattern:
    """A family of seamless pictures."""

    count: int
    draw: Callable[[np.random.Generator], np.ndarray]
    """Brightness, (SIZE_PX, SIZE_PX) about 1."""
    repeats_per_m: float
    colors: tuple[Rgb, ...]
    specular: float = 0.1


def _noise(rng: np.random.Generator, blur_x: float, blur_y: float) -> np.ndarray:
    """Seamless noise of mean 0 and standard deviation 1, smooth over so many pixels."""
    fy, fx = np.fft.fftfreq(SIZE_PX)[:, None], np.fft.fftfreq(SIZE_PX)[None]
    window = np.exp(-2 * np.pi**2 * ((blur_x * fx) ** 2 + (blur_y * fy) ** 2))
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIZE_PX, SIZE_PX))) * window).real
    return (noise - noise.mean()) / noise.std()


def _cells(rng: np.random.Generator, columns: int, rows: int, gap_px: int, shift: float, spread: float) -> np.ndarray:
    """Rectangles of slightly different brightness with dark gaps, every other row moved by `shift` of a width."""
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX]
    row = y * rows // SIZE_PX
    moved = (x + (row % 2) * int(shift * SIZE_PX / columns)) % SIZE_PX
    tone = 1 + spread * rng.uniform(-1, 1, (rows, columns))[row, moved * columns // SIZE_PX]
    gap = (moved % (SIZE_PX // columns) < gap_px) | (y % (SIZE_PX // rows) < gap_px)
    return np.where(gap, 0.72, tone)


def _wood(rng: np.random.Generator) -> np.ndarray:
    rings = np.sin(2 * np.pi * (rng.integers(3, 9) * np.arange(SIZE_PX) / SIZE_PX + 0.25 * _noise(rng, 6, 60)))
    return 0.93 + 0.05 * rings + 0.03 * _noise(rng, 1, 40)


def _planks(rng: np.random.Generator) -> np.ndarray:
    return _cells(rng, 2, rng.choice([4, 8]), 1, 0.5, 0.10) * (1 + 0.03 * _noise(rng, 30, 1))


def _tiles(rng: np.random.Generator) -> np.ndarray:
    count = rng.choice([2, 4])
    return _cells(rng, count, count, 2, 0.0, 0.05) * (1 + 0.02 * _noise(rng, 3, 3))


def _bricks(rng: np.random.Generator) -> np.ndarray:
    return _cells(rng, 4, 8, 2, 0.5, 0.12) * (1 + 0.04 * _noise(rng, 2, 2))


def _concrete(rng: np.random.Generator) -> np.ndarray:
    return 0.94 + 0.04 * _noise(rng, 12, 12) + 0.02 * _noise(rng, 1, 1)


def _plaster(rng: np.random.Generator) -> np.ndarray:
    return 0.97 + 0.015 * _noise(rng, 2, 2) + 0.01 * _noise(rng, 20, 20)


def _carpet(rng: np.random.Generator) -> np.ndarray:
    return 0.92 + 0.06 * _noise(rng, 0.7, 0.7) + 0.02 * _noise(rng, 10, 10)


def _terrazzo(rng: np.random.Generator) -> np.ndarray:
    return 0.95 + 0.10 * (_noise(rng, 2, 2) > 1.3) - 0.18 * (_noise(rng, 2, 2) > 1.5)


PATTERNS: Mapping[str, Pattern] = {
    "wood": Pattern(8, _wood, 1.5, _WOODS),
    "planks": Pattern(6, _planks, 1.0, _WOODS),
    "tiles": Pattern(5, _tiles, 1.2, _STONE, specular=0.3),
    "concrete": Pattern(4, _concrete, 0.7, _STONE),
    "terrazzo": Pattern(3, _terrazzo, 2.5, _STONE, specular=0.2),
    "carpet": Pattern(4, _carpet, 2.0, _CARPETS, specular=0.0),
    "plaster": Pattern(4, _plaster, 0.8, _WALLS, specular=0.0),
    "bricks": Pattern(3, _bricks, 1.2, (*_WALLS[:2], (0.66, 0.42, 0.34)), specular=0.0),
}
PLAIN = "plain"
"""The material without a pattern."""
_FAMILIES: Mapping[str, tuple[str, ...]] = {  # which families a material of the scene may be made of, each as likely
    "wood": ("wood", "wood", PLAIN),
    "front": (PLAIN, PLAIN, "wood"),
    "inside": ("wood",),
    "floor": ("planks", "tiles", "concrete", "terrazzo", "carpet"),
    "wall": (PLAIN, PLAIN, PLAIN, "plaster", "bricks"),
}
_TINT = 0.06
"""How far a colour may be off the palette's, as a share of it."""


@functools.cache
def pictures() -> dict[str, np.ndarray]:
    """All patterns by name, (SIZE_PX, SIZE_PX, 3) uint8 each; the same ones on every machine."""
    drawn = {}
    for index, (family, pattern) in enumerate(PATTERNS.items()):
        for i in range(pattern.count):
            brightness = pattern.draw(np.random.default_rng((index, i)))
            gray = np.rint(255 * np.clip(brightness, 0, 1)).astype(np.uint8)
            drawn[f"{family}_{i}"] = np.repeat(gray[:, :, None], 3, axis=2)
    return drawn


def draw_looks(rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Material and colour (RGB, 0 to 1) of everything that is made of one of the scene's materials; JSON types.

    `material` is missing where only the colour changes.
    """
    looks: dict[str, dict[str, Any]] = {}
    for slot, families in _FAMILIES.items():
        family = families[rng.integers(len(families))]
        plain = _WALLS if slot == "wall" else _PAINT
        colors = plain if family == PLAIN else PATTERNS[family].colors
        name = PLAIN if family == PLAIN else f"{family}_{rng.integers(PATTERNS[family].count)}"
        looks[slot] = {"material": name, "rgb": _near(rng, colors)}
    looks["steel"] = {"rgb": _near(rng, _METALS)}
    looks["joint"] = {"rgb": [0.9 * value for value in looks["floor"]["rgb"]]}
    looks["white"] = {"rgb": (np.array((0.93, 0.93, 0.94)) * rng.uniform(0.85, 1.05)).clip(0, 1).tolist()}
    return looks


def tinted(rng: np.random.Generator) -> list[float]:
    """The colour of some object, RGB from 0 to 1."""
    return rng.uniform(0.1, 0.9, 3).tolist()


def _near(rng: np.random.Generator, colors: tuple[Rgb, ...]) -> list[float]:
    color = np.array(colors[rng.integers(len(colors))])
    return (color * (1 + _TINT * rng.uniform(-1, 1) + _TINT / 2 * rng.uniform(-1, 1, 3))).clip(0, 1).tolist()
