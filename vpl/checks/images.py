"""Checks the images of an episode: against its videos, against themselves, and against what moved.

Example:
    for row, reason in check_images(h5["color"], rows, folder, fps): ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import av
import h5py
import numpy as np

LEAST_PSNR_DB = 25.0
"""Of a video frame against its row; x264 at quantizer 19 gives 35 to 45."""
MIN_BRIGHTNESS, MIN_CONTRAST = 3.0, 1.0  # mean and deviation in levels of 255
MOVED_RAD = 0.02
"""A joint that turns by this much changes some pixel of every camera that sees the arm."""
BLANK = 8.0
"""Deviation in levels of 255 of a picture, without what never changes in it, that may look the same elsewhere."""
STALE = 4.0
"""How many times more than anywhere else the picture may change from the first row to the second."""
CHANGED = 12  # levels of 255
MIN_STILL = 0.1
"""Least share of a standing camera's pixels that stay as they are all the time."""
NEAR, MIN_CHANGE = 0.08, 0.05
"""About the tool (share of the picture's height) at least this share of the pixels changes when it has moved."""
STRIDE = 2
"""Every second pixel of both axes is looked at."""
CHROMA = np.array([(-0.1146, -0.3854, 0.5), (0.5, -0.4542, -0.0458)], np.float32)
"""BT.709's Cb and Cr of R, G, B."""
MOST_LINES = 8
"""Lines, of those that are looked at, by which the colours of a video may be displaced."""


def check_images(
    color: h5py.Dataset, rows: Mapping[str, np.ndarray], folder: Path, fps: float | None
) -> Iterator[tuple[int | None, str]]:
    """Each problem of `color` and the videos: row (None: all) and reason.

    Args:
        color: as in the format, whole.
        rows: the columns of numbers, as long as `color`.
        folder: the episode's.
        fps: what the file says of the videos' rate; None: nothing.
    """
    for camera in range(color.shape[1]):
        try:
            images = every_second_pixel(color, camera)
        except OSError:
            yield None, f"color of camera_{camera} cannot be read: a chunk is damaged"
            continue
        name = f"camera_{camera}"
        for check in (
            _looks(images),
            _repeats(images, rows),
            _first(images, rows),
            _stands(images, rows, camera),
            _tool_moves(images, rows, camera),
        ):
            yield from ((row, f"{name} {reason}") for row, reason in check)
        yield from check_video(images, folder / name / f"{folder.name}.mp4", color.shape[2:4], fps)


def every_second_pixel(images: h5py.Dataset, camera: int) -> np.ndarray:
    """A camera's images with every STRIDE-th pixel of both axes, (T, h, w, ...).

    A row at a time: HDF5 is four times slower with the stride in its own selection.
    """
    return np.stack([images[row, camera][::STRIDE, ::STRIDE] for row in range(len(images))])


def _looks(images: np.ndarray) -> Iterator[tuple[int | None, str]]:
    for row, image in enumerate(images):
        if image.mean() < MIN_BRIGHTNESS:
            yield row, "is black"
            return
        if image.std() < MIN_CONTRAST:
            yield row, "is of one colour"
            return


def _repeats(images: np.ndarray, rows: Mapping[str, np.ndarray]) -> Iterator[tuple[int | None, str]]:
    """A picture that was there before although the arm was elsewhere; a blank wall may be."""
    if "joint_pos" not in rows or len(rows["joint_pos"]) != len(images):
        return
    changes = (images.max(axis=0).astype(np.int16) - images.min(axis=0) > CHANGED).any(axis=-1)
    seen: dict[bytes, int] = {}
    for row, image in enumerate(images):
        earlier = seen.setdefault(image.tobytes(), row)
        moved = np.abs(rows["joint_pos"][row] - rows["joint_pos"][earlier]).max() > MOVED_RAD
        if moved and image[changes].std() > BLANK:
            what = "is frozen" if np.array_equal(image, images[row - 1]) else "repeats a picture"
            yield row, f"{what}: the same as in row {earlier}, though the arm moved"
            return


def _first(images: np.ndarray, rows: Mapping[str, np.ndarray]) -> Iterator[tuple[int | None, str]]:
    """The first picture belongs to this episode: it does not differ from the second as no other pair of rows does."""
    if len(images) < 8 or "joint_pos" not in rows:
        return
    change = np.abs(np.diff(images.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    moved = np.abs(np.diff(rows["joint_pos"], axis=0)).max(axis=1)
    if change[0] > STALE * change[1:].max() and moved[0] < STALE * moved[1:].max():
        yield 0, "is stale: it differs from the next as no other picture does"


def check_video(
    images: np.ndarray, path: Path, size: tuple[int, int], fps: float | None
) -> Iterator[tuple[int | None, str]]:
    """The video shows the images of `size` (H, W) px, of which `images` are every STRIDE-th, but for its losses."""
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        yield None, f"{name} is missing"
        return
    try:
        with av.open(str(path.absolute())) as container:
            rate = container.streams.video[0].average_rate
            shapes, frames = set(), []
            for frame in container.decode(video=0):
                shapes.add((frame.height, frame.width))
                frames.append(frame.to_ndarray(format="rgb24")[::STRIDE, ::STRIDE])
    except (av.FFmpegError, IndexError) as error:
        yield None, f"{name} cannot be decoded: {getattr(error, 'strerror', error)}"
        return
    if len(frames) != len(images) or shapes != {size}:
        yield (
            None,
            f"{name} has {len(frames)} frames of {' and '.join(map(str, shapes))}, color {len(images)} of {size}",
        )
        return
    if rate is not None and fps is not None and abs(float(rate) - fps) > 0.01:
        yield None, f"{name} plays {float(rate):g} frames/s, fps is {fps:g}"
    yield from _displaced(frames, images, name)
    errors = np.array(
        [np.square(frame.astype(np.float32) - image).mean() for frame, image in zip(frames, images, strict=True)]
    )
    poor = errors > 255**2 / 10 ** (LEAST_PSNR_DB / 10)
    if poor.any():
        yield int(np.argmax(poor)), f"{name} differs from color"
        return
    yield from _late(frames, images, errors, name)


def _late(
    frames: list[np.ndarray], images: np.ndarray, errors: np.ndarray, name: str
) -> Iterator[tuple[int | None, str]]:
    """The video shows each row itself, not its neighbour."""
    for lag in (-1, 1):
        others = range(max(0, -lag), len(images) - max(0, lag))
        shifted = np.mean([np.square(frames[row].astype(np.float32) - images[row + lag]).mean() for row in others])
        if shifted < 0.5 * errors.mean():
            yield None, f"{name} shows the row {'before' if lag < 0 else 'after'}"


def _displaced(frames: list[np.ndarray], images: np.ndarray, name: str) -> Iterator[tuple[int | None, str]]:
    """The colours lie where the shapes are: the chroma planes fit the images nowhere better than in their place."""
    few = slice(None, None, max(1, len(images) // 8))
    most = min(MOST_LINES, images.shape[1] // 4)
    inner = slice(most, images.shape[1] - most)
    for weights in CHROMA:
        shown, own = np.stack(frames[few])[:, inner] @ weights, images[few] @ weights
        errors = {
            lines: np.square(shown - np.roll(own, lines, axis=1)[:, inner]).mean() for lines in range(-most, most + 1)
        }
        best = min(errors, key=lambda lines: errors[lines])
        if abs(best) > 1 and errors[best] < 0.5 * errors[0]:  # chroma has half the lines: one may be from rounding
            yield None, f"{name} shows colours {abs(best) * STRIDE} px too {'low' if best > 0 else 'high'}"
            return


def _stands(images: np.ndarray, rows: Mapping[str, np.ndarray], camera: int) -> Iterator[tuple[int | None, str]]:
    """Behind the arm, the picture of a camera that stands does not change."""
    if "extrinsics" not in rows or np.ptp(rows["extrinsics"][:, camera], axis=0).max() > 1e-6:
        return
    still = (images.max(axis=0).astype(np.int16) - images.min(axis=0) <= CHANGED).all(axis=-1).mean()
    if still < MIN_STILL:
        yield None, f"stands, say its extrinsics, but only {still:.0%} of its picture does"


def _tool_moves(images: np.ndarray, rows: Mapping[str, np.ndarray], camera: int) -> Iterator[tuple[int | None, str]]:
    """Where the tool of a standing camera's picture was or is, the picture changes."""
    if not {"extrinsics", "intrinsics", "ee_position"} <= rows.keys() or camera >= len(rows["intrinsics"]):
        return
    pose, points = rows["extrinsics"][:, camera], rows["ee_position"]
    if np.ptp(pose, axis=0).max() > 1e-6 or len(points) != len(images):
        return
    in_camera = (points - pose[:, :3, 3]) @ pose[0, :3, :3]
    homogeneous = in_camera @ rows["intrinsics"][camera].T
    height, width = images.shape[1:3]
    px = homogeneous[:, :2] / homogeneous[:, 2:] / STRIDE
    if (in_camera[:, 2] <= 0).all():
        yield None, "has the tool behind it, say its extrinsics"
        return
    visible = (in_camera[:, 2] > 0) & (px > 0).all(axis=1) & (px < (width, height)).all(axis=1)
    reach = NEAR * height
    y, x = np.mgrid[:height, :width] + 0.5
    shares, row = [], 0
    for later in range(1, len(images)):
        if not visible[row]:
            row = later
        elif np.linalg.norm(px[later] - px[row]) > reach / 2:
            changed = np.abs(images[later].astype(np.int16) - images[row]).max(axis=-1) > CHANGED
            shares.append(changed[np.hypot(x - px[row, 0], y - px[row, 1]) < reach].mean())
            row = later
    if len(shares) >= 3 and np.median(shares) < MIN_CHANGE:
        yield None, "does not change where the tool moves, say its calibration and ee_position"
