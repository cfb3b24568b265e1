"""Whether pictures show the fingers where calibration says: what self_check.py measures with the gripper and the arm.

    sample, change = swing(env, POSES[0])
    off, limit = off_px(env.cameras[0], 0, 0, sample, change)

Two things are measured, because the fingers move alike on both sides and cannot tell a picture from its mirror image:
how far from their projection the fingers move, and whether a camera's own motion explains what it sees.
"""

from __future__ import annotations

import numpy as np
import torch

from simulators import CameraEnv, Sample
from simulators.cameras import CameraCfg

SEED = 7
CHANGED = 20  # levels of 255: more than a renderer's noise, less than an edge that moves
MIN_PIXELS = 4
REPEATS = 3  # captures until even a late renderer shows the present: lateness fails "lag" and nothing else
POSES = np.array(
    [
        (-0.3, -1.069, 0.0, -2.81, -0.4, 3.037, 2.341),
        (0.5, -1.069, 0.0, -2.81, -0.4, 3.037, 2.341),
    ],
    np.float32,
)
"""Targets of the arm's joints, rad: chosen so that cameras behind, beside and above the arm see the fingers, left and
right of the middle, and a wrist camera sees edges of what stands before the robot."""
TURN = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2], np.float32)
OPEN_M, SHUT_M = 0.04, 0.0
"""Targets of the fingers' joints."""
DAMPING_S = 0.1  # of joints 1 to 4: without, they swing for 200 steps; the lighter ones would become unstable
REST_STEPS, GRIPPER_STEPS = 100, 30
TIPS = (0.0, 0.0, -0.0005), (0.0105, 0.055, 0.0095)
ROOTS = (0.0, 0.0, -0.027), (0.0105, 0.066, 0.018)
"""The boxes that the fingers' ends sweep: middle and half size in the hand's frame about the tool centre point, m."""
HAND = (0.0, 0.0, -0.0774), (0.0315, 0.102, 0.040)
"""The box of the hand, which may hide the roots."""
MIN_TIP_SHARE = 0.08  # of the box's pixels: fewer are flickering edges, the fingers are hidden
MAX_OFF_PX, MAX_OFF_M, MAX_OFF_RAD = 1.5, 0.018, 0.04
"""The limit is the pixels and the lesser of the others: what is seen of the fingers is no box."""
DEPTHS_M = np.geomspace(0.1, 5.0, 24)


def hold(env: CameraEnv, pose: np.ndarray, fingers_m: float, steps: int) -> None:
    """Bring the arm to rest where the drives hold it against gravity."""
    for _ in range(steps):
        target = np.tile(np.append(pose, [fingers_m, fingers_m]).astype(np.float32), (env.num_envs, 1))
        target[:, :4] -= DAMPING_S * env.capture()["joint_vel"][:, :4]
        env.step(env.action_for_target(torch.as_tensor(target, device=env.device)))


def still(env: CameraEnv) -> Sample:
    """The present instant from a renderer that may be late."""
    return [env.capture(["color"]) for _ in range(REPEATS)][-1]


def levels(sample: Sample) -> np.ndarray:
    """Pictures that can be subtracted, (N, C, H, W, 3) int16."""
    return sample["color"].astype(np.int16)


def swing(env: CameraEnv, pose: np.ndarray) -> tuple[Sample, np.ndarray]:
    """The arm at rest at `pose`, and how closing the gripper changes each pixel, (N, C, H, W) in levels of 255."""
    env.reset(SEED)
    images = []
    for fingers_m, steps in ((OPEN_M, REST_STEPS), (SHUT_M, GRIPPER_STEPS), (OPEN_M, GRIPPER_STEPS)):
        hold(env, pose, fingers_m, steps)
        sample = still(env)
        images.append(levels(sample))
    opened, closed, reopened = images
    # what moves for another reason differs between the two open pictures too
    change = np.minimum(np.abs(closed - opened), np.abs(closed - reopened)) - np.abs(opened - reopened)
    return sample, change.max(axis=-1)


def off_px(camera: CameraCfg, c: int, i: int, sample: Sample, change: np.ndarray) -> tuple[float, float]:
    """How far from their projection the fingers of env i move in camera c, and the limit.

    NaN: nothing moves; the picture is blank, or they are hidden, too small or out of view. Two faults cancel unseen: a
    camera shifted and turned so that the fingertips stay where they were.
    """
    points = sample["ee_position"][i] + _rotate(sample["ee_rotation"][i], _seen_of_fingers(sample, c, i))
    px, depth = project(camera, sample["extrinsics"][i, c], points)
    limit = MAX_OFF_PX + camera.intrinsics[0, 0] * min(MAX_OFF_M / abs(depth.mean()), MAX_OFF_RAD)
    inside = px[((px >= 0) & (px < (camera.width, camera.height))).all(axis=1)]
    area = len(np.unique(px.astype(int), axis=0))
    rows, columns = np.nonzero(change[i, c] > max(CHANGED, change[i, c].max() / 3))
    if len(rows) < max(MIN_PIXELS, MIN_TIP_SHARE * area):
        return np.nan, limit
    if depth.min() <= 0:  # seen, though behind the camera: OpenGL's axes, perhaps
        return np.inf, limit
    moved = np.column_stack([columns, rows]) + 0.5
    reach = 2 * np.linalg.norm(np.ptp(px, axis=0))  # what changes farther from the most is a shadow or a neighbour
    near = np.linalg.norm(moved - np.median(moved, axis=0), axis=1) < reach
    # each pixel once: an area, not the nearest points, of which there are more a pixel
    expected = np.unique(inside.astype(int), axis=0).mean(axis=0) + 0.5 if len(inside) else px.mean(axis=0)
    return float(np.linalg.norm(moved[near].mean(axis=0) - expected)), limit


def _seen_of_fingers(sample: Sample, c: int, i: int) -> np.ndarray:
    """Points of what the fingers of env i sweep, the roots only where the hand does not hide them from camera c,
    (M, 3) m in the hand's frame about the tool centre point."""
    grid = np.mgrid[-1:1:9j, -1:1:65j, -1:1:13j].reshape(3, -1).T  # type: ignore[misc]
    tips, roots = (grid * half + middle for middle, half in (TIPS, ROOTS))
    x, y, z, w = sample["ee_rotation"][i]
    eye = _rotate(np.array([-x, -y, -z, w]), (sample["extrinsics"][i, c, :3, 3] - sample["ee_position"][i])[None])[0]
    with np.errstate(divide="ignore"):
        inverse = 1 / (roots - eye)
    faces = [(np.array(HAND[0]) + side * np.array(HAND[1]) - eye) * inverse for side in (-1, 1)]
    enters, leaves = np.minimum(*faces).max(axis=1), np.maximum(*faces).min(axis=1)
    hidden = (enters < leaves) & (enters < 1) & (leaves > 0)  # the sight line runs from 0, the eye, to 1
    return np.concatenate([tips, roots[~hidden]])


def mirror_ratio(camera: CameraCfg, c: int, i: int, before: Sample, after: Sample) -> float:
    """How badly the camera's motion explains its pictures, relative to their mirror images; NaN where it stands still.

    The fingers move alike on both sides, so they cannot tell.
    """
    poses = before["extrinsics"][i, c], after["extrinsics"][i, c]
    if np.allclose(*poses, atol=1e-3):
        return np.nan
    a, b = levels(before)[i, c], levels(after)[i, c]
    return _unexplained(camera, a, b, *poses) / max(_unexplained(camera, a[:, ::-1], b[:, ::-1], *poses), 1e-9)


def _unexplained(camera: CameraCfg, a: np.ndarray, b: np.ndarray, T_a: np.ndarray, T_b: np.ndarray) -> float:
    """Mean error in levels of `b` warped onto the changed pixels of `a`, for the scene's best distance; NaN: none."""
    rows, columns = np.nonzero(np.abs(a - b).max(axis=-1) > CHANGED)  # elsewhere any motion explains the pictures
    rays = np.column_stack([columns + 0.5, rows + 0.5, np.ones(len(rows))]) @ np.linalg.inv(camera.intrinsics).T
    errors = []
    for depth_m in DEPTHS_M:
        px, _ = project(camera, T_b, T_a[:3, 3] + depth_m * rays @ T_a[:3, :3].T)
        inside = ((px >= 0) & (px < (camera.width, camera.height))).all(axis=1)
        if inside.sum() > max(len(px) / 2, MIN_PIXELS):
            x, y = px[inside].astype(int).T
            errors.append(float(np.abs(a[rows[inside], columns[inside]] - b[y, x]).mean()))
    return min(errors, default=np.nan)


def project(camera: CameraCfg, T_world_cam: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points in the env frame (M, 3) to px (M, 2) and their depths in m (M,), negative behind the camera."""
    in_camera = (points - T_world_cam[:3, 3]) @ T_world_cam[:3, :3]
    homogeneous = in_camera @ camera.intrinsics.T
    return homogeneous[:, :2] / homogeneous[:, 2:], in_camera[:, 2]


def _rotate(quat_xyzw: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(M, 3)."""
    axis, w = quat_xyzw[:3].astype(float), float(quat_xyzw[3])
    twice = 2 * np.cross(axis, vectors)
    return vectors + w * twice + np.cross(axis, twice)
