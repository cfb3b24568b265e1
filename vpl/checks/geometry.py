"""Checks depth and segmentation against what else an episode knows: cameras, the floor, the tool, the names of ids.

Example:
    for row, reason in check_geometry({"depth": h5["depth"]}, rows): ...

The floor is the plane z = 0 of the env frame, all that a camera sees is on it or above it, and what `ids` calls floor
is on it. The tool is no farther from a camera than what is seen about its place. This follows from the row's own
calibration and state, so pictures of another row, of another camera or in another unit are found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import h5py
import numpy as np

from vpl.checks.images import STRIDE, every_second_pixel

Finding = tuple["int | None", str]
FLOOR = "floor"
"""The id that is the plane z = 0."""
FLOOR_M, FLOOR_SHARE = 3e-3, 2e-3
"""How far above or below the floor a point of it may come out, and which share of its distance beside."""
MOST_BELOW, MOST_OFF = 0.002, 0.005
"""Of the pixels that look at the floor's plane may end below it, and of those that see the floor may be off it."""
MIN_PIXELS = 20
TOOL_REACH_M = 0.08
"""About the tool centre point is some part of the gripper, within this."""


def check_geometry(images: Mapping[str, h5py.Dataset], rows: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Each problem of the streams but color: row (None: all) and reason.

    Args:
        images: the file's images by stream, as in the format.
        rows: its columns of numbers.
    """
    ids = _read_ids(images["segmentation"]) if "segmentation" in images else []
    if "segmentation" in images and not ids:
        yield None, "segmentation's attribute ids is no list of names that differ"
    geometry = [name for name in ("segmentation", "depth") if name in images]
    for camera in range(images[geometry[0]].shape[1] if geometry else 0):
        on_floor = None
        for name in geometry:
            try:
                pictures = every_second_pixel(images[name], camera)
            except OSError:
                yield None, f"{name} of camera_{camera} cannot be read: a chunk is damaged"
                continue
            if name == "segmentation":
                on_floor = pictures == ids.index(FLOOR) if FLOOR in ids else None
                found = _check_ids(pictures, ids)
            else:
                found = _check_depth(pictures, on_floor, rows, camera)
            yield from ((row, f"{name} of camera_{camera} {reason}") for row, reason in found)


def _read_ids(segmentation: h5py.Dataset) -> list[str]:
    value = segmentation.attrs.get("ids")
    names = list(value) if isinstance(value, np.ndarray) and value.ndim == 1 else []
    good = all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names) <= 256
    return names if good else []


def _check_ids(pictures: np.ndarray, ids: list[str]) -> Iterator[Finding]:
    if ids and (unknown := pictures >= len(ids)).any():
        yield int(np.argwhere(unknown)[0][0]), f"has the id {pictures[unknown][0]}, ids names {len(ids)}"
    if (pictures == pictures.flat[0]).all():
        yield None, f"sees nothing but id {pictures.flat[0]}"


def _check_depth(
    pictures: np.ndarray, on_floor: np.ndarray | None, rows: Mapping[str, np.ndarray], camera: int
) -> Iterator[Finding]:
    """`pictures` are (T, h, w) mm, every STRIDE-th pixel of both axes; `on_floor`, as large, where the floor is."""
    if not pictures.any():
        yield None, "is nothing but 0"
        return
    if not {"extrinsics", "intrinsics"} <= rows.keys() or len(rows["extrinsics"]) != len(pictures):
        return
    K, poses = rows["intrinsics"][camera], rows["extrinsics"][:, camera]
    y, x = np.mgrid[: pictures.shape[1], : pictures.shape[2]] * STRIDE + 0.5
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], axis=-1)
    for row, (picture, pose) in enumerate(zip(pictures / 1000, poses, strict=True)):
        reason = _against_floor(picture, None if on_floor is None else on_floor[row], rays, pose)
        if not reason and "ee_position" in rows:
            reason = _behind_tool(picture, K, pose, rows["ee_position"][row])
        if reason:
            yield row, reason
            return


def _against_floor(picture: np.ndarray, on_floor: np.ndarray | None, rays: np.ndarray, pose: np.ndarray) -> str:
    """Why `picture` (h, w) m cannot be, whose pixels look along `rays` (h, w, 3), z = 1; "" if it can."""
    height_m, allowed = pose[2, 3] + picture * (rays @ pose[2, :3]), FLOOR_M + FLOOR_SHARE * picture
    looking = (rays @ pose[2, :3] < 0) & (picture > 0)
    below = looking & (height_m < -allowed)
    if below.sum() > MOST_BELOW * looking.sum():
        return (
            f"ends below the floor in {below.sum() / looking.sum():.1%} of the pixels that look down, says its camera"
        )
    if on_floor is None or on_floor.sum() < MIN_PIXELS:
        return ""
    off = (np.abs(height_m) > allowed)[on_floor].mean()
    return f"is off the floor in {off:.1%} of the pixels that see it, says its camera" if off > MOST_OFF else ""


def _behind_tool(picture: np.ndarray, K: np.ndarray, pose: np.ndarray, tool: np.ndarray) -> str:
    """Why `picture` (h, w) m cannot be with the tool at `tool` (3,) m; "" if it can."""
    in_camera = (tool - pose[:3, 3]) @ pose[:3, :3]
    if in_camera[2] <= TOOL_REACH_M:
        return ""
    u, v, _ = K @ in_camera / in_camera[2] / STRIDE
    reach = K[0, 0] * TOOL_REACH_M / in_camera[2] / STRIDE
    height, width = picture.shape
    if reach < 1 or not (reach < u < width - reach and reach < v < height - reach):
        return ""
    about = picture[int(v - reach) : int(v + reach) + 1, int(u - reach) : int(u + reach) + 1]
    nearest = about[about > 0].min(initial=np.inf)
    if nearest <= in_camera[2] + TOOL_REACH_M:
        return ""
    return f"has nothing before {nearest:.3f} m where the tool is, which is at {in_camera[2]:.3f} m"
