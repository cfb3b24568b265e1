"""The format of an episode's HDF5: its columns, each with what it is to a reader, and its attributes.

    with h5py.File(path) as h5:
        state = [name for name, column in declared(h5).items() if column.role is Role.STATE]

vpl_saver.py describes the format as a whole.
"""

from __future__ import annotations

import h5py
import numpy as np

from vpl.columns import Column, Role

FORMAT_VERSION = 1
SCHEMA: dict[str, Column] = {
    "color": Column(
        ("T", "C", "H", "W", 3), "uint8", Role.IMAGE, "1", "RGB images, lossless; camera names in attribute `names`"
    ),
    "action": Column(
        ("T", "A"), "float32", Role.ACTION, "1", "the policy's output at row t, exactly as given to `env.step`"
    ),
    "joint_pos_target": Column(
        ("T", "J"), "float32", Role.ACTION, "rad, fingers m", "what that action asks of the joint drives (rad, m)"
    ),
    "proprio": Column(
        ("T", "O"), "float32", Role.PRIVILEGED, "mixed",
        "the observation that the policy saw; its slices in attribute `terms`",
    ),
    "intrinsics": Column(
        ("C", 3, 3), "float64", Role.CALIBRATION, "px",
        "pinhole K in pixels; (0, 0) is the top-left pixel's outer corner",
    ),
    "extrinsics": Column(
        ("T", "C", 4, 4), "float64", Role.CALIBRATION, "m",
        "T_world_cam (camera to world), OpenCV axes: x right, z forward",
    ),
    "joint_pos": Column(
        ("T", "J"), "float32", Role.STATE, "rad, fingers m", "rad (fingers m); order in attribute `names`",
        in_state=True, observed_as="joint_pos_rel",
    ),
    "joint_vel": Column(
        ("T", "J"), "float32", Role.STATE, "rad/s, fingers m/s", "rad/s (fingers m/s)",
        in_state=True, observed_as="joint_vel_rel",
    ),
    "ee_position": Column(
        ("T", 3), "float32", Role.STATE, "m",
        "tool centre point, panda_hand + 0.1034 m along z, in the env frame (m)", optional=True,
    ),
    "ee_rotation": Column(
        ("T", 4), "float32", Role.STATE, "1", "its unit quaternion x, y, z, w, in the env frame", optional=True
    ),
    "drawer_pos": Column(
        ("T",), "float32", Role.PRIVILEGED, "m", "the drawer's joint (m)",
        optional=True, in_state=True, observed_as="cabinet_joint_pos_rel",
    ),
    "reward": Column(("T",), "float32", Role.METRIC, "1", "the task's reward for row t's action"),
    "timestamps": Column(("T",), "float64", Role.METRIC, "s", "seconds since the episode's start"),
    "sim_state": Column(
        ("T", "S"), "float64", Role.PRIVILEGED, "mixed",
        "the simulator's complete state; columns in attribute `spec`, the scene's hash in `scene`",
    ),
}  # fmt: skip
LOW_DIM = tuple(name for name in SCHEMA if name not in ("color", "intrinsics"))
"""Columns that have a row for each control step."""
OPTIONAL = tuple(name for name, column in SCHEMA.items() if column.optional)
FRAME_STEP = Column(("T",), "int64", Role.METRIC, "1", "the control step of row t; in `full_rate/`")
NUMBER = (np.integer, np.floating)
ATTRIBUTES: dict[str, tuple[type, ...]] = {
    "format_version": (np.integer,),
    "task": (str,),
    "simulator": (str,),
    "episode_index": (np.integer,),
    "env_index": (np.integer,),
    "round": (np.integer,),
    "seed": (np.integer,),
    "num_frames": (np.integer,),
    "fps": NUMBER,
    "step_dt": NUMBER,
    "video_interval": (np.integer,),
    "language_instruction": (str,),
    "terminated": (np.bool_,),
    "truncated": (np.bool_,),
}
"""What a file says of itself, and of which types."""
ROW_ATTRIBUTES = ("episode_index", "round", "env_index", "num_frames", "terminated", "truncated")
"""Those that metadata.json repeats of every episode."""
SUCCESS_ATTRIBUTES: dict[str, tuple[type, ...]] = {
    "success": (np.bool_,),
    "success_metric": (str,),
    "success_threshold": NUMBER,
}
"""Absent where the task has no measure of success."""
OPTIONAL_ATTRIBUTES: dict[str, tuple[type, ...]] = {"source": (str,), "run": (np.integer,)}
"""`source` of episodes that were merged or filmed again, `run` where metadata.json lists runs."""


def declared(group: h5py.Group) -> dict[str, Column]:
    """The columns that a file, or its group `full_rate`, has a row of for each control step, in SCHEMA's order."""
    return {name: SCHEMA[name] for name in LOW_DIM if name in group}
