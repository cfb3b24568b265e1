"""Checks that an episode's HDF5 has the format: its attributes and columns. Hands on what can be computed with.

    contents, found = read_contents(h5, cameras)
    for row, reason in found: ...

A file may be another writer's or damaged, so nothing is taken for granted: what is not of the right kind, shape and
length is told and left out of `contents`, so that the checks of what remains need not ask again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from vpl.checks.rows import About, Found, Rows
from vpl.columns import Column
from vpl.format import (
    ATTRIBUTES,
    FRAME_STEP,
    IMAGES,
    INTRINSICS,
    KNOWN,
    NUMBER,
    OPTIONAL_ATTRIBUTES,
    READABLE_VERSIONS,
    VERSION_2_ATTRIBUTES,
    declared,
    needed_columns,
    stream_names,
)

Finding = tuple["int | None", str]
"""Row (None: all of them) and reason of a problem."""
POSITIVE = ("num_frames", "fps", "step_dt", "video_interval")
"""Attributes that are above 0."""
NAMED = ("joint_pos", "joint_vel", "joint_pos_target", *IMAGES)
"""Datasets of which any version says, in the attribute `names`, what their second axis is."""
BESIDE = {
    **{name: replace(column, shape=("T", *column.shape)) for name, column in IMAGES.items()},
    "intrinsics": replace(INTRINSICS, shape=("C", *INTRINSICS.shape)),
}
"""What a file has beside its columns; shapes with their first axis, here and in `read_schema`."""
OF_ALL = ("color", "intrinsics")
"""Of these what every file has."""
MOST_DEFLATED = 1100
"""How many bytes one stored byte may at most stand for in gzip's stream."""


@dataclass(frozen=True)
class Contents:
    """What of an episode's file is as it must be."""

    about: About
    images: dict[str, h5py.Dataset]
    """By stream."""
    rows: Rows
    """The columns of numbers."""
    full_rate: Rows
    """Those of the group `full_rate`; {} where it is not whole."""


def read_contents(h5: h5py.File, cameras: list[Any]) -> tuple[Contents, list[Finding]]:
    """What the file holds and what is wrong with it; `cameras` are those of metadata.json."""
    attrs, found = read_attributes(h5.attrs)
    sizes = {"T": int(attrs["num_frames"])} if "num_frames" in attrs else {}
    needed = {*OF_ALL, *needed_columns(h5)} if is_listed(h5) else set(KNOWN)
    schema, wrong = read_schema(h5)
    found += wrong
    columns, wrong = sound_columns(h5, {**schema, **BESIDE}, needed, sizes)
    found += wrong
    images = {name: data for name, data in columns.items() if name in IMAGES}
    rows = {name: data[()] for name, data in columns.items() if name not in images}
    found += check_finite(rows)
    names, wrong = read_names(columns)
    found += wrong
    terms, wrong = read_terms(columns.get("proprio"))
    found += wrong
    for name, column in schema.items():
        if terms and column.observed_as and column.observed_as not in terms:
            found.append((None, f"{name} is declared as the term '{column.observed_as}', which proprio lacks"))
    variation = attrs.get("variation", "{}")
    drawn = json.loads(variation) if _is_json_object(variation) else {}
    about = About(attrs, names, terms, cameras, schema, drawn)
    full_rate, wrong = read_full_rate(h5, about, rows, sizes)
    return Contents(about, images, rows, full_rate), found + wrong


def read_attributes(attributes: h5py.AttributeManager) -> tuple[dict[str, Any], list[Finding]]:
    """Those of the format that are of the right kind, and what is wrong with the others."""
    attrs: dict[str, Any] = {}
    found: list[Finding] = []
    if missing := [name for name in ATTRIBUTES if name not in attributes]:
        found.append((None, f"attributes {', '.join(missing)} are missing"))
    for name, kinds in {**ATTRIBUTES, **VERSION_2_ATTRIBUTES, **OPTIONAL_ATTRIBUTES}.items():
        if name not in attributes:
            continue
        value = attributes[name]
        right = isinstance(value, kinds)
        if right and (name in POSITIVE or kinds == NUMBER):
            right = bool((0 if name in POSITIVE else -np.inf) < value < np.inf)
        if not right:
            found.append((None, f"attribute {name} is {str(value)[:60]}, of type {type(value).__name__}"))
        else:
            attrs[name] = value
    version = attrs.get("format_version", READABLE_VERSIONS[0])
    if version not in READABLE_VERSIONS:
        found.append(
            (None, f"format version {version}, this program reads {' and '.join(map(str, READABLE_VERSIONS))}")
        )
    elif version > 1 and (missing := [name for name in VERSION_2_ATTRIBUTES if name not in attributes]):
        found.append((None, f"attributes {', '.join(missing)} are missing"))
    if "variation" in attrs and not _is_json_object(attrs["variation"]):
        found.append((None, f"attribute variation is {attrs['variation'][:60]}, no JSON object"))
    if "terminated" in attrs and attrs["terminated"] == attrs.get("truncated"):
        both = bool(attrs["terminated"])
        found.append((None, f"terminated and truncated are both {both}; an episode ends in one way"))
    return attrs, found


def _is_json_object(text: str) -> bool:
    with suppress(ValueError):
        return isinstance(json.loads(text), dict)
    return False


def is_listed(h5: h5py.File) -> bool:
    """Whether the file names its columns as files of version 2 do, or is of version 1."""
    names = h5.attrs.get("columns")
    return names is None or (isinstance(names, np.ndarray) and names.ndim == 1 and _are_text(list(names)))


def read_schema(h5: h5py.File) -> tuple[dict[str, Column], list[Finding]]:
    """The columns that a file declares, and what is wrong with the declarations.

    A column of a known name has the known shape, kind and role in any file.
    """
    if "columns" not in h5.attrs:
        return {name: replace(column, shape=("T", *column.shape)) for name, column in KNOWN.items()}, []
    if not is_listed(h5):
        return {}, [(None, "attribute columns is no list of names")]
    found: list[Finding] = []
    schema: dict[str, Column] = {}
    for name in dict.fromkeys([*OF_ALL, *stream_names(h5), *map(str, h5.attrs["columns"])]):
        if not isinstance(h5.get(name), h5py.Dataset) or not h5[name].shape:
            found.append((None, f"{name} is {'no column of rows' if name in h5 else 'missing'}"))
            continue
        try:
            column = declared(h5, only=name)[name]
        except (KeyError, ValueError) as error:
            found.append((None, f"{name} is not declared: {' '.join(str(error).split())}"))
            continue
        known = {**KNOWN, **BESIDE}.get(name, column)
        if column.role is not known.role:
            found.append((None, f"{name} is declared as {column.role.value}, it is {known.role.value}"))
        if name not in BESIDE:
            schema[name] = replace(column, shape=("T", *known.shape), dtype=known.dtype)
    return schema, found


def sound_columns(
    group: h5py.Group, schema: Mapping[str, Column], needed: Iterable[str], sizes: dict[str, int]
) -> tuple[dict[str, h5py.Dataset], list[Finding]]:
    """The columns of a group that are as `schema` says; `sizes` gets the lengths of axes that it does not have yet."""
    sound: dict[str, h5py.Dataset] = {}
    found: list[Finding] = []
    for name, column in schema.items():
        data = group.get(name)
        if not isinstance(data, h5py.Dataset):
            if name in needed or name in set(group):
                found.append((None, f"{name} is {'no dataset' if name in set(group) else 'missing'}"))
            continue
        right_kind = data.shape is not None and data.ndim == len(column.shape)
        if not right_kind or data.dtype != column.dtype:
            found.append((None, f"{name} is {data.ndim}-dimensional {data.dtype}, not {column.shape} {column.dtype}"))
        if not right_kind or data.dtype.kind != np.dtype(column.dtype).kind:
            continue
        pairs = zip(column.shape, data.shape, strict=True)
        expected = tuple(sizes.setdefault(size, n) if isinstance(size, str) else size for size, n in pairs)
        if data.shape != expected or 0 in expected:
            found.append((None, f"{name} has the shape {data.shape}, expected {expected}"))
        elif lacking := _lacking(data):
            found.append((None, f"{name} lacks {lacking}"))
        else:
            sound[name] = data
    return sound, found


def _lacking(data: h5py.Dataset) -> str:
    """What is missing of the stored data, which HDF5 would fill up with zeros; "" where nothing is."""
    if data.chunks:
        chunks = math.prod(-(-n // chunk) for n, chunk in zip(data.shape, data.chunks, strict=True))
        if (stored := data.id.get_num_chunks()) < chunks:
            what = "images" if data.name[1:] in IMAGES else "rows"
            return f"{what}: {stored} of {chunks} chunks are stored"
    most = data.id.get_storage_size() * (MOST_DEFLATED if data.id.get_create_plist().get_nfilters() else 1)
    return f"data: {most} of {data.nbytes} bytes are stored" if most < data.nbytes else ""


def check_finite(rows: Rows) -> list[Finding]:
    """Which columns hold NaN or infinity."""
    finite = {name: np.isfinite(data) for name, data in rows.items()}
    return [
        (int(np.argwhere(~mask)[0][0]), f"{name} holds NaN or infinity")
        for name, mask in finite.items()
        if not mask.all()
    ]


def read_names(columns: Mapping[str, h5py.Dataset]) -> tuple[dict[str, list[str]], list[Finding]]:
    """What the numbers of a column's rows are called, where that is said as it must be."""
    names: dict[str, list[str]] = {}
    found: list[Finding] = []
    of_own = [name for name, data in columns.items() if "names" in data.attrs]
    for name in dict.fromkeys([*(name for name in NAMED if name in columns), *of_own]):
        value = columns[name].attrs.get("names")
        said = list(value) if isinstance(value, np.ndarray) and value.ndim == 1 else []
        if not _are_text(said) or not len(set(said)) == len(said) == columns[name].shape[1]:
            found.append((None, f"{name}'s attribute names is {said or value}"))
        else:
            names[name] = said
    if "ee_rotation" in columns:
        order = columns["ee_rotation"].attrs.get("order", "".join(names.get("ee_rotation", ())))  # version 1: order
        if not isinstance(order, str) or order != "xyzw":
            found.append((None, f"ee_rotation's order is {order}, not xyzw"))
    return names, found


def _are_text(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def read_terms(proprio: h5py.Dataset | None) -> tuple[dict[str, tuple[int, int]], list[Finding]]:
    """The observation's terms, which divide its columns without a gap."""
    if proprio is None:
        return {}, []
    wrong: list[Finding] = [(None, f"proprio's attribute terms does not divide its {proprio.shape[1]} columns")]
    text = proprio.attrs.get("terms")
    try:
        slices = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return {}, wrong
    if not isinstance(slices, dict) or not all(_is_slice(place) for place in slices.values()):
        return {}, wrong
    ends = [0, *(end for _, end in slices.values())]
    starts = [*(start for start, _ in slices.values()), proprio.shape[1]]
    rising = all(start < end for start, end in slices.values())
    return ({name: tuple(place) for name, place in slices.items()}, []) if ends == starts and rising else ({}, wrong)


def _is_slice(place: Any) -> bool:
    return isinstance(place, list) and len(place) == 2 and all(type(end) is int for end in place)


def read_full_rate(h5: h5py.File, about: About, rows: Rows, sizes: Mapping[str, int]) -> tuple[Rows, list[Finding]]:
    """The columns at every control step, of which `rows` are every video_interval-th; {} where they are not whole."""
    interval, group = int(about.attrs.get("video_interval", 1)), h5.get("full_rate")
    if group is None and interval == 1:
        return {}, []
    if not isinstance(group, h5py.Group) or interval == 1:
        return {}, [(None, f"full_rate is {'missing' if group is None else 'wrong'}: video_interval is {interval}")]
    schema = {name: column for name, column in about.columns.items() if name in h5}
    widths = {axis: size for axis, size in sizes.items() if axis != "T"}
    columns, found = sound_columns(group, schema, schema, widths)
    frame_step = {"frame_step": replace(FRAME_STEP, shape=("T",))}
    steps, wrong = sound_columns(group, frame_step, frame_step, {"T": sizes.get("T", 0)})
    full = {name: data[()] for name, data in columns.items()}
    found += [*wrong, *check_finite(full)]
    strange = [name for name in group if name not in h5 and name != "frame_step"]
    found += [(None, f"{name} is there, and no row has it") for name in strange]
    if "T" in sizes and "T" in widths and -(-widths["T"] // interval) != sizes["T"]:
        rows_of_it = -(-widths["T"] // interval)
        found.append((None, f"has {widths['T']} control steps, which make {rows_of_it} rows, not {sizes['T']}"))
        full = {}
    elif steps:
        found += check_kept_rows(rows, full, steps["frame_step"][()], interval)
    return full, [(row, f"full_rate: {reason}") for row, reason in found]


def check_kept_rows(rows: Rows, full: Rows, frame_step: np.ndarray, interval: int) -> Found:
    """The rows are those of the control steps that `frame_step` names."""
    off = frame_step != np.arange(len(frame_step)) * interval
    if off.any():
        yield int(np.argmax(off)), f"frame_step is {frame_step[off][0]}, not a multiple of {interval} as its row says"
    for name in rows.keys() & full.keys():
        kept = full[name][::interval]
        same = (rows[name] == kept) | ((rows[name] != rows[name]) & (kept != kept))  # NaN is told elsewhere
        other = ~same.reshape(len(same), -1).all(axis=1)
        if other.any():
            yield int(np.argmax(other)), f"{name} is another one at the control step of the row"


def every_step(about: About) -> About:
    """What is said of the rows of `full_rate`."""
    return replace(about, attrs={**about.attrs, "video_interval": 1})
