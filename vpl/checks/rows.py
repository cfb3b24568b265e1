"""Checks an episode's numbers against each other: what `validate` asks of each row, and of one row and the next.

Example:
    for row, reason in check_rows(rows, about): ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vpl.columns import Column

Found = Iterator[tuple[int | None, str]]
"""Row (None: all of them) and reason of each problem."""
Rows = Mapping[str, np.ndarray]

PANDA_DH = np.array(
    [  # a (m), d (m), alpha (rad) of joints 1 to 7 and the flange, Craig's convention
        (0, 0.333, 0),
        (0, 0, -np.pi / 2),
        (0, 0.316, np.pi / 2),
        (0.0825, 0, np.pi / 2),
        (-0.0825, 0.384, -np.pi / 2),
        (0, 0, np.pi / 2),
        (0.088, 0, np.pi / 2),
        (0, 0.107, 0),
    ]
)
"""frankaemika.github.io/docs/control_parameters.html; the hand is turned by -45 degrees about the flange's z."""
TOOL_Z_M = 0.1034
ARM = [f"panda_joint{i}" for i in range(1, 8)]
JOINT_OFFSET_TASKS = ("Isaac-Open-Drawer-Franka-v0", "Isaac-Open-Drawer-Franka-Play-v0")
"""Their actions are known: offsets of the arm's joints from a constant pose, and the gripper's sign. The task without a
version, of Isaac Lab 3, averages its targets."""
LAST_ACTION = ("last_action", "actions")
"""What the embedded simulators and Isaac Lab call that term of the observation."""
GRIPPER_R_HAND = np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]])
"""metadata.json gives wrist cameras in axes of their own: x = hand z, y = -hand y, z = hand x."""

TOOL_M, TOOL_RAD = 4e-3, 0.02  # from one row to the next the tool moves by up to 20 mm
CAMERA_M, CAMERA_RAD = 2e-3, 4e-3
STEP_RAD = 0.09
"""Between the way and the velocities' trapezoid. A joint moves by up to 0.0435 rad a step, and PhysX's speed of a light
wrist is that of the last of its sub-steps, in which it may have turned round: twice that at most."""
IMPULSE_RAD_S, IMPULSE_STEP_RAD = 4.0, 0.12
"""PhysX gives a blow's impulse on a light link as its speed: 70 rad/s were seen on a wrist whose position moved on by
0.06 rad. A joint of the Panda is never faster than 2.61 rad/s, so such a speed says nothing of the way."""
EQUAL = 1e-4


@dataclass(frozen=True)
class About:
    """What is said of an episode's columns; what is not of the right type is left out."""

    attrs: Mapping[str, Any]
    """The file's attributes."""
    names: Mapping[str, list[str]]
    """By column, what its numbers are called."""
    terms: Mapping[str, tuple[int, int]]
    """Start and end of the observation's terms in `proprio`."""
    cameras: list[Any]
    """The list `cameras` of metadata.json."""
    columns: Mapping[str, Column]
    """What the file declares."""
    variation: Mapping[str, Any]
    """What was drawn for the episode."""

    def moved(self, camera: Any) -> Any:
        """A camera of metadata.json as it was drawn for this episode."""
        drawn = self.variation.get("camera")
        if not (isinstance(drawn, dict) and isinstance(camera, dict)):
            return camera
        own = drawn.get(camera.get("name"))
        return {**camera, **own} if isinstance(own, dict) else camera


def check_rows(rows: Rows, about: About) -> Found:
    """What the numbers of a row, and of one row and the next, must have to do with each other."""
    finite = {name: data for name, data in rows.items() if np.isfinite(data).all()}
    yield from _time(about, finite)
    yield from _rotations(finite)
    yield from _motion(finite)
    yield from _tool(about, finite)
    yield from _cameras(finite, about)
    yield from _state(about, finite)
    if about.attrs.get("task") in JOINT_OFFSET_TASKS:
        yield from _targets(finite)
        yield from _observation(about, finite)
    elif about.attrs.get("simulator", "isaac") != "isaac":  # Isaac Lab's other tasks add noise to what is observed
        yield from _observation(about, finite)


def _time(about: About, rows: Rows) -> Found:
    if "timestamps" not in rows:
        return
    times, steps = rows["timestamps"], np.diff(rows["timestamps"])
    if (steps <= 0).any():
        yield int(np.argmax(steps <= 0)) + 1, "timestamps do not increase"
    elif "step_dt" in about.attrs and len(times) > 1:
        expected = np.arange(len(times)) * steps[0]
        whole = steps[0] / about.attrs["step_dt"] in (1, about.attrs.get("video_interval", 1)) or np.isclose(
            steps[0] / about.attrs["step_dt"], about.attrs.get("video_interval", 1)
        )
        off = np.abs(times - expected) > 1e-6 * (1 + times)
        if off.any() or not whole:
            yield int(np.argmax(off)), f"timestamps are not multiples of step_dt {about.attrs['step_dt']:.4g} s from 0"


def _rotations(rows: Rows) -> Found:
    if "ee_rotation" in rows:
        off = np.abs(np.linalg.norm(rows["ee_rotation"], axis=1) - 1) > 1e-3
        if off.any():
            yield int(np.argmax(off)), "ee_rotation is no unit quaternion"
    if "extrinsics" in rows:
        poses = rows["extrinsics"]
        turned = poses[..., :3, :3]
        skew = np.abs(turned @ turned.swapaxes(-1, -2) - np.eye(3)).max((-1, -2)) > 1e-3
        mirrored = np.linalg.det(turned) < 0
        last = np.abs(poses[..., 3, :] - (0, 0, 0, 1)).max(-1) > 1e-6
        for wrong, what in (
            (skew, "no rotation matrix"),
            (mirrored & ~skew, "mirrored: a rotation's determinant is 1"),
            (last, "no pose: the last line of the matrix is not 0 0 0 1"),
        ):
            if wrong.any():
                row, camera = np.argwhere(wrong)[0]
                yield int(row), f"extrinsics of camera_{camera} are {what}"
    if "intrinsics" in rows:
        for camera, K in enumerate(rows["intrinsics"]):
            if min(K[0, 0], K[1, 1]) <= 0 or np.abs(K[[1, 2, 2, 2], [0, 0, 1, 2]] - (0, 0, 0, 1)).max() > 1e-9:
                yield None, f"intrinsics of camera_{camera} are no pinhole matrix"


def _motion(rows: Rows) -> Found:
    """Positions are the integral of velocities; a jump is another episode's row."""
    if not {"joint_pos", "joint_vel", "timestamps"} <= rows.keys() or len(rows["timestamps"]) < 8:
        return
    pos, vel, dt = rows["joint_pos"], rows["joint_vel"], np.diff(rows["timestamps"])[:, None]
    if not 0 < dt.min() <= dt.max() < 0.03:
        return  # rows too far apart to be integrated
    if np.abs(pos).max() > 7:
        yield (
            int(np.argwhere(np.abs(pos) > 7)[0][0]),
            f"joint_pos reaches {np.abs(pos).max():.0f}: degrees, not radians?",
        )
        return
    moved, expected = np.diff(pos, axis=0), (vel[1:] + vel[:-1]) / 2 * dt
    impulse = np.maximum(np.abs(vel[1:]), np.abs(vel[:-1])) > IMPULSE_RAD_S
    off, most = np.where(impulse, moved, moved - expected), np.where(impulse, IMPULSE_STEP_RAD, STEP_RAD)
    jump = (np.abs(off) > most).any(axis=1)
    if jump.any():
        yield int(np.argmax(jump)) + 1, "joint_pos jumps by more than joint_vel allows"


def _tool(about: About, rows: Rows) -> Found:
    """The tool centre point is where the joint angles of a Panda at the env's origin put it."""
    names = about.names.get("joint_pos", []) if "joint_pos" in rows else []
    if not {"ee_position", "ee_rotation"} <= rows.keys() or not set(ARM) <= set(names):
        return
    T_tool = panda_tool(rows["joint_pos"][:, [names.index(name) for name in ARM]])
    off = np.linalg.norm(rows["ee_position"] - T_tool[:, :3, 3], axis=1)
    turn = _angle(quat_to_matrix(rows["ee_rotation"]), T_tool[:, :3, :3])
    if (off > TOOL_M).any():
        worst = int(np.argmax(off))
        yield worst, f"ee_position is {1000 * off[worst]:.0f} mm off the tool of joint_pos"
    if (turn > TOOL_RAD).any():
        worst = int(np.argmax(turn))
        yield worst, f"ee_rotation is {np.degrees(turn[worst]):.0f} degrees off the tool of joint_pos (its order?)"


def _cameras(rows: Rows, about: About) -> Found:
    """A camera stands in the env or on the hand, where metadata.json says, or what was drawn for the episode."""
    listed = about.cameras
    if "extrinsics" not in rows:
        return
    for camera in range(rows["extrinsics"].shape[1]):
        pose, what = rows["extrinsics"][:, camera], f"extrinsics of camera_{camera}"
        try:
            listed_camera = _read_camera(about.moved(listed[camera])) if camera < len(listed) else None
        except (TypeError, ValueError) as error:
            yield None, f"camera_{camera} in metadata.json is none: {error}"
            continue
        mounts = {"env": pose}
        if {"ee_position", "ee_rotation"} <= rows.keys():
            mounts["gripper"] = _inverse(_hand(rows)) @ pose
        if listed_camera is None:
            spread = {name: float(np.ptp(mount[:, :3, 3], axis=0).max()) for name, mount in mounts.items()}
            if "gripper" in spread and min(spread.values()) > CAMERA_M:
                yield None, f"{what} are rigid neither in the env nor on the hand"
            continue
        if listed_camera.frame not in mounts:
            continue
        mount = mounts[listed_camera.frame]
        off = np.linalg.norm(mount[:, :3, 3] - listed_camera.mount[:3, 3], axis=1)
        turn = _angle(mount[:, :3, :3], listed_camera.mount[:3, :3])
        if (off > CAMERA_M).any() or (turn > CAMERA_RAD).any():
            row = int(np.argmax((off > CAMERA_M) | (turn > CAMERA_RAD)))
            carrier = "hand" if listed_camera.frame == "gripper" else "env"
            far = f"{1000 * off[row]:.0f} mm and {np.degrees(turn[row]):.1f} degrees"
            yield row, f"{what} are {far} off '{listed_camera.name}' of metadata.json on the {carrier}"
        K = rows["intrinsics"][camera] if camera < len(rows.get("intrinsics", ())) else listed_camera.intrinsics
        if np.abs(K - listed_camera.intrinsics).max() > 0.01:
            yield None, f"intrinsics of camera_{camera} are not those of '{listed_camera.name}' in metadata.json"


def _state(about: About, rows: Rows) -> Found:
    """What a state says of joints is what their columns say in the same row."""
    if "sim_state" not in rows or len(rows["sim_state"]) < 8:
        return
    state = rows["sim_state"].astype(np.float32)
    for name, column in about.columns.items():
        if not column.in_state or name not in rows or not np.ptp(rows[name], axis=0).any():
            continue
        numbers = rows[name].reshape(len(state), -1)
        moving = np.ptp(numbers, axis=0) > 0
        found = {lag: _matches(numbers[:, moving], state, lag) for lag in range(-2, 3)}
        best = max(found, key=lambda lag: (len(found[lag]), -abs(lag)))
        if best and len(found[best]) > len(found[0]):
            yield None, f"{name} is that of sim_state {abs(best)} rows {'earlier' if best < 0 else 'later'}"
        elif len(found[0]) < moving.sum():
            yield None, f"{name} is not in sim_state of the same rows"
        elif not _ascend(found[0]):
            yield None, f"{name} has another order in sim_state"


def _matches(columns: np.ndarray, state: np.ndarray, lag: int) -> list[np.ndarray]:
    """For each of the columns that is found in `state`, `lag` rows later, the places where it is."""
    own = columns[max(0, -lag) : len(columns) - max(0, lag)]
    other = state[max(0, lag) : len(state) - max(0, -lag)]
    places = [np.flatnonzero((other == column[:, None]).all(axis=0)) for column in own.T]
    return [place for place in places if len(place)]


def _ascend(places: list[np.ndarray]) -> bool:
    """Whether one can be picked of each so that they ascend: joints at their limits are alike."""
    last = -1
    for place in places:
        if not (place > last).any():
            return False
        last = int(place[place > last][0])
    return True


def _targets(rows: Rows) -> Found:
    """Drive targets are what the action asks for."""
    if {"action", "joint_pos_target"} <= rows.keys() and rows["action"].shape[1] == 8:
        arm = rows["joint_pos_target"][:, :7] - rows["action"][:, :7]
        yield from _constant(arm, "joint_pos_target is not action plus the default pose")
        closes = rows["action"][:, 7] < 0
        fingers = rows["joint_pos_target"][:, 7:9].max(axis=1) < 0.02
        if (closes != fingers).any():
            yield int(np.argmax(closes != fingers)), "joint_pos_target of the fingers is not what action asks"


def _observation(about: About, rows: Rows) -> Found:
    """Parts of the observation are functions of other columns."""
    if "proprio" not in rows:
        return
    part = {name: rows["proprio"][:, start:end] for name, (start, end) in about.terms.items()}
    for name, column in about.columns.items():
        term = column.observed_as
        if term not in part or name not in rows:
            continue
        numbers = rows[name].reshape(len(rows[name]), -1)
        if part[term].shape == numbers.shape:
            yield from _constant(part[term] - numbers, f"proprio's {term} is not that of {name}")
    last = next((part[term] for term in LAST_ACTION if term in part), None)
    if about.attrs.get("video_interval", 1) == 1 and last is not None and "action" in rows:
        done = rows.get("action_executed", rows["action"])
        off = np.abs(last[1:] - done[:-1]).max(axis=1) > EQUAL
        if off.any():
            yield int(np.argmax(off)) + 1, "proprio's last_action is not the row before's action"


def _constant(difference: np.ndarray, reason: str) -> Found:
    off = np.abs(difference - np.median(difference, axis=0)).max(axis=1) > EQUAL
    if off.any():
        yield int(np.argmax(off)), reason


def panda_tool(joint_pos: np.ndarray) -> np.ndarray:
    """`T_base_tool` (T, 4, 4) of a Panda's seven joint angles (T, 7) in rad, from PANDA_DH."""
    angles = np.column_stack([joint_pos, np.full(len(joint_pos), -np.pi / 4)])
    tool = np.broadcast_to(np.eye(4), (len(joint_pos), 4, 4))
    for (a, d, alpha), theta in zip(PANDA_DH, angles.T.astype(float), strict=True):
        c, s, ca, sa, o, i = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha), 0 * theta, 1 + 0 * theta
        link = [
            [c, -s, o, a * i],
            [s * ca, c * ca, -sa * i, -d * sa * i],
            [s * sa, c * sa, ca * i, d * ca * i],
            [o, o, o, i],
        ]
        tool = tool @ np.moveaxis(np.array(link), -1, 0)
    tool[:, :3, 3] += TOOL_Z_M * tool[:, :3, 2]
    return tool


def quat_to_matrix(quat_xyzw: np.ndarray) -> np.ndarray:
    """(T, 4) to rotation matrices (T, 3, 3) float64."""
    x, y, z, w = quat_xyzw.T.astype(float)
    matrix = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(matrix), -1, 0)


def _hand(rows: Rows) -> np.ndarray:
    """`T_env_hand` (T, 4, 4): the tool, moved back along its z."""
    pose = np.tile(np.eye(4), (len(rows["ee_position"]), 1, 1))
    pose[:, :3, :3] = quat_to_matrix(rows["ee_rotation"])
    pose[:, :3, 3] = rows["ee_position"] - TOOL_Z_M * pose[:, :3, 2]
    return pose


def _inverse(pose: np.ndarray) -> np.ndarray:
    """Of rigid transformations, (T, 4, 4)."""
    inverse = np.tile(np.eye(4), (len(pose), 1, 1))
    inverse[:, :3, :3] = pose[:, :3, :3].swapaxes(1, 2)
    inverse[:, :3, 3] = -(inverse[:, :3, :3] @ pose[:, :3, 3:])[..., 0]
    return inverse


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between rotations, rad; (T,)."""
    trace = np.trace(a.swapaxes(-1, -2) @ b, axis1=-2, axis2=-1)
    return np.arccos(np.clip((trace - 1) / 2, -1, 1))


@dataclass(frozen=True)
class _Camera:
    """One of metadata.json's cameras."""

    name: str
    frame: str
    mount: np.ndarray
    """`T_frame_cam` (4, 4), of the env or of the panda_hand body."""
    intrinsics: np.ndarray
    """(3, 3)."""


def _read_camera(row: Mapping[str, Any]) -> _Camera | None:
    """None where it does not say how it stands; raises TypeError or ValueError where it says nonsense."""
    if not {"name", "eye", "target", "frame", "up", "vertical_fov_deg", "width", "height"} <= row.keys():
        return None
    forward = np.subtract(row["target"], row["eye"]).astype(np.float64)
    z = forward / np.linalg.norm(forward)
    x = np.cross(z, row["up"])
    x /= np.linalg.norm(x)
    mount = np.eye(4)
    mount[:3, :3], mount[:3, 3] = np.column_stack([x, np.cross(z, x), z]), row["eye"]
    if row["frame"] not in ("env", "gripper"):
        raise ValueError(f"frame {row['frame']} is neither env nor gripper")
    if not np.isfinite(mount).all():
        raise ValueError(f"eye {row['eye']}, target {row['target']} and up {row['up']} make no direction")
    if row["frame"] == "gripper":
        mount[:3] = GRIPPER_R_HAND @ mount[:3]
    focal_px = 0.5 * row["height"] / np.tan(np.radians(row["vertical_fov_deg"]) / 2)
    K = np.array([[focal_px, 0, row["width"] / 2], [0, focal_px, row["height"] / 2], [0, 0, 1]])
    return _Camera(str(row["name"]), row["frame"], mount, K)
