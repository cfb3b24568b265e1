"""Numbers in the pixels of a picture, so that a test can tell which state was drawn."""

from __future__ import annotations

import numpy as np


def encode(numbers: np.ndarray, height: int, width: int, on_hand: bool) -> np.ndarray:
    """A picture (H, W, 3) uint8 whose first pixels are the numbers' bits, in grays that a video keeps."""
    picture = np.full((height, width, 3), 150 if on_hand else 100, np.uint8)
    bits = np.unpackbits(numbers.astype("<f4").view(np.uint8))
    picture.reshape(-1, 3)[: len(bits)] = np.where(bits, 140, 110)[:, None]
    return picture


def decode(picture: np.ndarray, count: int = 24) -> np.ndarray:
    """The numbers that a picture (H, W, 3) holds, (count,) float32."""
    bits = picture.reshape(-1, 3)[: count * 32, 0] > 125
    return np.packbits(bits).view("<f4")
