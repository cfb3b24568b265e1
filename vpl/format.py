"""The format of an episode's HDF5: its attributes, its columns, and how these are declared beside their data.

    with h5py.File(path) as h5:
        state = [name for name, column in declared(h5).items() if column.role is Role.STATE]

Files of version 1 declare nothing: their columns are those of KNOWN. vpl_saver.py describes the format as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from vpl.columns import STREAMS, Column, Role

_TEXT = h5py.string_dtype()
_TEXT_TYPE = h5py.h5t.py_create(_TEXT, logical=True)
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
TIMESTAMPS = Column((), "float64", Role.METRIC, "s", "time since the episode's start")
"""What the saver itself adds to each row."""
FRAME_STEP = Column((), "int64", Role.METRIC, "1", "the control step of the row; in `full_rate/`")
IMAGES = {
    name: Column(
        ("C", *stream.shape("H", "W")),
        stream.dtype,
        stream.role,
        stream.unit,
        f"{stream.meaning}; cameras in attribute `names`",
    )
    for name, stream in STREAMS.items()
}
"""The images of a file by stream; every file has `color`."""
INTRINSICS = Column(
    (3, 3), "float64", Role.CALIBRATION, "px", "pinhole K of each camera; (0, 0) is the top-left pixel's outer corner"
)
"""One for each camera, not for each row."""

_STATE, _ACTION, _METRIC, _PRIVILEGED = Role.STATE, Role.ACTION, Role.METRIC, Role.PRIVILEGED
_JOINTS: tuple[tuple[str], str] = (("J",), "float32")
KNOWN: dict[str, Column] = {
    "action": Column(("A",), "float32", _ACTION, "1", "the policy's answer to this row"),
    "joint_pos_target": Column(*_JOINTS, _ACTION, "rad, fingers m", "joint positions that the action asks for"),
    "proprio": Column(("O",), "float32", _PRIVILEGED, "mixed", "the observation that the policy saw"),
    "joint_pos": Column(*_JOINTS, _STATE, "rad, fingers m", "joint positions", (), True, "joint_pos_rel"),
    "joint_vel": Column(*_JOINTS, _STATE, "rad/s, fingers m/s", "joint velocities", (), True, "joint_vel_rel"),
    "joint_effort": Column(*_JOINTS, _STATE, "N m, fingers N", "what the drives applied in the step before"),
    "ee_position": Column((3,), "float32", _STATE, "m", "tool centre point in the env frame", tuple("xyz")),
    "ee_rotation": Column((4,), "float32", _STATE, "1", "the tool's orientation, a unit quaternion", tuple("xyzw")),
    "drawer_pos": Column((), "float32", _PRIVILEGED, "m", "the drawer's joint", (), True, "cabinet_joint_pos_rel"),
    "success": Column((), "bool", _METRIC, "1", "whether the task has succeeded at this instant"),
    "reward": Column((), "float32", _METRIC, "1", "the task's reward for this row's action"),
    "timestamps": TIMESTAMPS,
    "extrinsics": Column(
        ("C", 4, 4), "float64", Role.CALIBRATION, "m", "T_world_cam (camera to world), OpenCV axes, env frame"
    ),
    "sim_state": Column(("S",), "float64", _PRIVILEGED, "mixed", "the simulator's complete state"),
}
"""What columns of these names are in version 1, whose files do not say it, and what must go together in any version."""
OPTIONAL_IN_VERSION_1 = ("ee_position", "ee_rotation", "drawer_pos", "joint_effort", "success")

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
VERSION_2_ATTRIBUTES: dict[str, tuple[type, ...]] = {"columns": (np.ndarray,), "variation": (str,)}
"""What a file of version 2 says as well: the names of its columns, in order, and what was drawn for it, JSON."""
ROW_ATTRIBUTES = ("episode_index", "round", "env_index", "num_frames", "terminated", "truncated")
"""Those that metadata.json repeats of every episode."""
RULE_ATTRIBUTES: dict[str, tuple[type, ...]] = {
    "success_metric": (str,),
    "success_comparison": (str,),
    "success_threshold": NUMBER,
}
"""Where one number decides about success: the column, ">=" or "<=" (version 1: always ">="), and what it is held to."""
OPTIONAL_ATTRIBUTES: dict[str, tuple[type, ...]] = {
    "success": (np.bool_,),
    "source": (str,),
    "run": (np.integer,),
    **RULE_ATTRIBUTES,
}
"""`success` where the task has a measure of it, `source` of episodes that were merged or filmed again, `run` where
metadata.json lists runs."""


DECLARATION: dict[str, type] = {"role": str, "unit": str, "meaning": str, "in_state": np.bool_, "observed_as": str}
"""What a column of version 2 says of itself, beside `names`; the first three always."""


def write_declaration(dataset: h5py.Dataset, column: Column) -> None:
    """Put what `column` says beside its data, as attributes."""
    said = {"role": column.role.value, "unit": column.unit, "meaning": column.meaning}
    for name, text in (said | ({"observed_as": column.observed_as} if column.observed_as else {})).items():
        _write_text(dataset, name, text)
    if column.names:
        _write_text(dataset, "names", column.names)
    if column.in_state:
        dataset.attrs["in_state"] = True


def _write_text(dataset: h5py.Dataset, name: str, text: str | tuple[str, ...]) -> None:
    """A new attribute, written as `attrs` would in half of its time, which counts with fifty for each episode."""
    space = h5py.h5s.create(h5py.h5s.SCALAR) if isinstance(text, str) else h5py.h5s.create_simple((len(text),))
    h5py.h5a.create(dataset.id, name.encode(), _TEXT_TYPE, space).write(np.array(text, dtype=_TEXT))


def column_names(h5: h5py.File) -> list[str]:
    """The columns that a file says it has, in order; of a file of version 1 those that it has."""
    if "columns" in h5.attrs:
        return [str(name) for name in h5.attrs["columns"]]
    return [name for name in KNOWN if name in h5]


def stream_names(h5: h5py.File) -> list[str]:
    """The kinds of images that a file has."""
    return [name for name in IMAGES if name in h5]


def needed_columns(h5: h5py.File) -> list[str]:
    """The columns that a file must have to be whole."""
    if "columns" in h5.attrs:
        return column_names(h5)
    return [name for name in KNOWN if name not in OPTIONAL_IN_VERSION_1 or name == h5.attrs.get("success_metric")]


def declared(h5: h5py.File, only: str | None = None) -> dict[str, Column]:
    """The columns of a file in order, or `only` one of them; images and intrinsics are none.

    Raises:
        KeyError: a column of version 2 does not say what it is.
        ValueError: there is no such role.
    """
    names = column_names(h5) if only is None else [only]
    read = _read_declaration if "columns" in h5.attrs else _known_declaration
    return {name: read(name, h5[name]) for name in names if name in h5}


def _read_declaration(name: str, dataset: h5py.Dataset) -> Column:
    attrs: Mapping[str, Any] = dataset.attrs
    for key, kind in DECLARATION.items():
        if (key in attrs or key in ("role", "unit", "meaning")) and not (isinstance(attrs[key], kind) and attrs[key]):
            raise ValueError(f"its attribute {key} is {str(attrs[key])[:60]}, of type {type(attrs[key]).__name__}")
    names = attrs.get("names", ())
    if "names" in attrs and not (isinstance(names, np.ndarray) and names.ndim == 1):
        raise ValueError(f"its attribute names is {str(names)[:60]}, no list")
    return Column(
        dataset.shape[1:],
        str(dataset.dtype),
        Role(attrs["role"]),
        attrs["unit"],
        attrs["meaning"],
        tuple(map(str, names)),
        "in_state" in attrs,
        attrs.get("observed_as", ""),
    )


def _known_declaration(name: str, dataset: h5py.Dataset) -> Column:
    """Of a column of version 1, whose attributes say no more than `names` or `terms`."""
    attrs, known = dataset.attrs, KNOWN[name]
    names = tuple(map(str, attrs.get("names", ()))) or _names_of_terms(attrs) or known.names
    return replace(known, shape=dataset.shape[1:], dtype=str(dataset.dtype), names=names)


def _names_of_terms(attrs: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the observation's elements, by the slices in the attribute `terms`."""
    terms = json.loads(attrs["terms"]) if "terms" in attrs else {}
    return tuple(f"{term}_{i}" for term, (start, end) in terms.items() for i in range(end - start))
