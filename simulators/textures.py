"""Textures as smooth as a camera's pixels are coarse, for MuJoCo Warp, which samples them without mipmaps.

Where a pattern is finer than a pixel, a sample of it is moiré instead of its mean: a student of MuJoCo's pictures,
which opens 92 % of the drawers there, opened 82 % here, and opens 90.5 % since (docs/LOG.md).

Example:
    smooth_textures(model, cameras, samples_per_pixel=1)  # before mjw.put_model
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mujoco
import numpy as np

from simulators.cameras import CameraCfg

DISTANCE_M = 8.0
"""How far off a pixel is taken to see a texture. Things are nearer but seen at a slant, and a mipmap goes by the longer
side of what a pixel covers: of 0 to 16 m this leaves the least difference to MuJoCo's pictures (mean of 255 levels,
overview camera: 4.3 to 3.2 at 128x96, 2.9 to 2.3 at 320x240)."""


def smooth_textures(model: mujoco.MjModel, cameras: Sequence[CameraCfg], samples_per_pixel: int) -> None:
    """Blur each material's texture over what a ray of the sharpest camera stands for at DISTANCE_M."""
    finest = min((2 * math.tan(math.radians(c.vertical_fov_deg) / 2) / c.height for c in cameras), default=0.0)
    ray_m = DISTANCE_M * finest / math.sqrt(samples_per_pixel)
    for material, texture in enumerate(model.mat_texid[:, mujoco.mjtTextureRole.mjTEXROLE_RGB]):
        if texture < 0:
            continue
        height, width, channels = (getattr(model, f"tex_{name}")[texture] for name in ("height", "width", "nchannel"))
        start = model.tex_adr[texture]
        data = model.tex_data[start : start + height * width * channels]
        texels_per_m = width * model.mat_texrepeat[material, 0] / 2  # MuJoCo's repeats of a uniform texture are in 2 m
        data[:] = _blurred(data.reshape(height, width, channels), ray_m * texels_per_m).ravel()


def _blurred(picture: np.ndarray, width: float) -> np.ndarray:
    """A seamless picture (H, W, C) uint8 under Gaussian weights that spread as a mean over `width` of its pixels."""
    sigma = width / math.sqrt(12)
    fy, fx = (np.fft.fftfreq(length) for length in picture.shape[:2])
    window = np.exp(-2 * np.pi**2 * sigma**2 * (fy[:, None] ** 2 + fx**2))
    smooth = np.fft.ifft2(np.fft.fft2(picture, axes=(0, 1)) * window[:, :, None], axes=(0, 1)).real
    return smooth.round().clip(0, 255).astype(np.uint8)
