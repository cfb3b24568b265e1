"""Pictures of two recordings side by side, with a curve of how far they differ.

Example:
    frame = side_by_side(recorded[row], filmed[row], errors, row)
"""

from __future__ import annotations

import numpy as np

CURVE_PX = 90
CURVE_RGB, CURSOR_RGB = (200, 60, 30), (40, 40, 40)


def fit(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`image` in the size of `like`, by its nearest pixels."""
    rows, columns = (np.arange(n) * old // n for n, old in zip(like.shape[:2], image.shape[:2], strict=True))
    return image[rows][:, columns]


def side_by_side(recorded: np.ndarray, filmed: np.ndarray, errors: np.ndarray, row: int) -> np.ndarray:
    """A frame: recorded left, filmed right, a line a camera; at the bottom the errors. (H, W, 3) uint8, even sizes."""
    lines = [np.hstack([fit(old, new), new]) for old, new in zip(recorded, filmed, strict=False)]
    return np.vstack([*lines, curve(errors, row, lines[0].shape[1])])


def curve(errors: np.ndarray, row: int, width: int) -> np.ndarray:
    """The errors over the episode as a line, a cursor at `row`; (CURVE_PX, width, 3) uint8."""
    strip = np.full((CURVE_PX, width, 3), 255, np.uint8)
    top = max(np.nanmax(errors, initial=0), 1e-9)
    x = np.linspace(0, len(errors) - 1, width)
    y = (CURVE_PX - 4 - np.interp(x, np.arange(len(errors)), np.nan_to_num(errors)) / top * (CURVE_PX - 8)).astype(int)
    for column in range(width - 1):
        low, high = sorted((y[column], y[column + 1]))
        strip[low : high + 2, column] = CURVE_RGB
    strip[:, min(width - 1, round(row / max(1, len(errors) - 1) * (width - 1)))] = CURSOR_RGB
    return strip
