"""Checks a VPL dataset, `python vpl_dataset.py validate DATASET`: format, labels, listing.

for problem in validate(Path("data/NAME")): print(problem)

Nothing is believed because the writer said so: positions follow from velocities, the tool from the joint angles,
a camera from what carries it, labels from the columns. A check looks at what an episode has, so files of other writers
that follow the format in part are read too, and are told what they lack. vpl_row_checks.py has what numbers tell of
each other, vpl_image_checks.py the pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vpl_episode import (
    ATTRIBUTES,
    FORMAT_VERSION,
    LOW_DIM,
    OPTIONAL,
    SCHEMA,
    SUCCESS_ATTRIBUTES,
    all_episode_folders,
    final_metric,
    read_row,
)
from vpl_image_checks import check_images
from vpl_row_checks import Found, check_rows, obs_terms

MOTION = ("joint_pos", "action")
"""Columns that two episodes never have in common."""
FEW = 8
"""Episodes that are checked sooner than processes are started."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    episode: str
    """Its path in the dataset; empty where it concerns the dataset."""
    row: int | None
    reason: str

    def __str__(self) -> str:
        place = self.episode if self.row is None else f"{self.episode} row {self.row}"
        return f"{place}: {self.reason}" if place else self.reason


def validate(dataset: Path) -> list[Problem]:
    """Check every episode, also those in failed/, and metadata.json; returns what is wrong."""
    folders = all_episode_folders(dataset)
    metadata, problems = _read_metadata(dataset)
    check = partial(_check, metadata=metadata)
    if len(folders) <= FEW:
        checked = list(map(check, folders))
    else:
        with ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool:
            checked = list(pool.map(check, folders))
    for folder, (found, _) in zip(folders, checked, strict=True):
        problems += [Problem(str(folder.relative_to(dataset)), row, reason) for row, reason in found]
    contents: dict[str, str] = {}
    for folder, (_, content) in zip(folders, checked, strict=True):
        if content and contents.setdefault(content, folder.name) != folder.name:
            problems.append(Problem(str(folder.relative_to(dataset)), None, f"repeats {contents[content]}"))
    return problems + list(_check_listing(dataset, folders, metadata))


def validate_episode(folder: Path) -> list[Problem]:
    """Check one episode by itself, also one in .partial/; returns what is wrong."""
    return [Problem(folder.name, row, reason) for row, reason in _check(folder, {})[0]]


def _check(folder: Path, metadata: Mapping[str, Any]) -> tuple[list[tuple[int | None, str]], str]:
    """An episode's problems, and a hash of its motion."""
    path = folder / f"{folder.name}.h5"
    if not path.is_file():
        return [(None, f"has no {path.name}")], ""
    try:
        with h5py.File(path, locking=False) as h5:
            found = [*check_columns(h5), *check_attributes(h5, folder)]
            sound = {name: h5[name][:] for name in (*LOW_DIM, "intrinsics") if _is_sound(h5, name)}
            for rows, prefix in [(sound, ""), *_full_rate(h5)]:
                found += [(row, prefix + reason) for row, reason in check_rows(h5, rows, metadata)]
            found += check_success(h5)
            found += check_images(h5, sound, folder)
    except OSError as error:
        return [(None, f"{path.name} cannot be read: {' '.join(str(error).split())}")], ""
    return found, motion_digest({name: sound[name] for name in MOTION if name in sound})


def motion_digest(rows: Mapping[str, np.ndarray]) -> str:
    """A hash of an episode's columns MOTION, by which a second copy of it is known; "" where there are none."""
    return hashlib.sha256(b"".join(rows[name].tobytes() for name in sorted(rows))).hexdigest() if rows else ""


def _is_sound(h5: h5py.File, name: str) -> bool:
    """Whether a column can be computed with: a numeric array of the rank that it must have, as long as the others."""
    if not isinstance(h5.get(name), h5py.Dataset):
        return False
    data, shape = h5[name], SCHEMA[name].shape
    rows = h5.attrs.get("num_frames", data.shape[0] if data.ndim else 0)
    fixed = all(not isinstance(size, int) or size == n for size, n in zip(shape, data.shape, strict=False))
    return data.ndim == len(shape) and data.dtype.kind == "f" and fixed and (shape[0] != "T" or len(data) == rows > 0)


def check_columns(h5: h5py.File) -> Found:
    """Every column is there, as long, wide and finite as the others and SCHEMA say."""
    sizes: dict[str, int] = {"T": int(h5.attrs["num_frames"])} if "num_frames" in h5.attrs else {}
    for name, column in SCHEMA.items():
        if not isinstance(h5.get(name), h5py.Dataset):
            if name not in OPTIONAL or name == h5.attrs.get("success_metric"):
                yield None, f"{name} is missing"
            continue
        data = h5[name]
        if data.dtype != column.dtype or data.ndim != len(column.shape):
            yield None, f"{name} is {data.ndim}-dimensional {data.dtype}, not {column.shape} {column.dtype}"
            if data.ndim != len(column.shape) or data.dtype.kind not in "fiu":
                continue
        pairs = zip(column.shape, data.shape, strict=True)
        expected = tuple(sizes.setdefault(size, n) if isinstance(size, str) else size for size, n in pairs)
        if data.shape != expected:
            yield None, f"{name} has the shape {data.shape}, expected {expected}"
        elif name != "color" and not (finite := np.isfinite(data[:])).all():
            yield int(np.argwhere(~finite)[0][0]), f"{name} holds NaN or infinity"
    if isinstance(color := h5.get("color"), h5py.Dataset) and color.chunks and color.ndim == 5:
        chunks = np.prod([-(-n // chunk) for n, chunk in zip(color.shape, color.chunks, strict=True)])
        if color.id.get_num_chunks() != chunks:
            yield None, f"color lacks images: {color.id.get_num_chunks()} of {chunks} chunks are stored"


def check_attributes(h5: h5py.File, folder: Path) -> Found:
    """The file says what it is, in agreement with its columns and its place."""
    attrs = h5.attrs
    if missing := [name for name in ATTRIBUTES if name not in attrs]:
        yield None, f"attributes {', '.join(missing)} are missing"
    if attrs.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        yield None, f"format version {attrs['format_version']}, this program reads {FORMAT_VERSION}"
    number = folder.name.split("_")[1]
    if number.isdigit() and attrs.get("episode_index", int(number)) != int(number):
        yield None, f"episode_index is {attrs['episode_index']}"
    if "terminated" in attrs and "truncated" in attrs and attrs["terminated"] == attrs["truncated"]:
        yield None, f"terminated and truncated are both {bool(attrs['terminated'])}; an episode ends in one way"
    for name in ("joint_pos", "joint_vel", "joint_pos_target", "color"):
        if name in h5 and h5[name].ndim > 1:
            names = h5[name].attrs.get("names")
            if names is None or len(names) != h5[name].shape[1] or len(set(names)) != len(names):
                yield None, f"{name}'s attribute names is {None if names is None else list(names)}"
    if "ee_rotation" in h5 and h5["ee_rotation"].attrs.get("order") != "xyzw":
        yield None, f"ee_rotation's attribute order is {h5['ee_rotation'].attrs.get('order')}, not xyzw"
    if "proprio" in h5 and h5["proprio"].ndim == 2:
        ends = [0, *(end for _, end in obs_terms(h5).values())]
        starts = [*(start for start, _ in obs_terms(h5).values()), h5["proprio"].shape[1]]
        if ends != starts:
            yield None, f"proprio's attribute terms does not divide its {h5['proprio'].shape[1]} columns"


def check_success(h5: h5py.File) -> Found:
    """The label is what the metric's column says, or both are absent."""
    attrs, present = h5.attrs, [name for name in SUCCESS_ATTRIBUTES if name in h5.attrs]
    if not present and "drawer_pos" not in h5:
        return  # this task has no measure of success
    if missing := set(SUCCESS_ATTRIBUTES) - set(present):
        yield None, f"attributes {', '.join(sorted(missing))} are missing"
    elif isinstance(h5.get(attrs["success_metric"]), h5py.Dataset) and len(h5[attrs["success_metric"]]):
        metric = final_metric(h5, attrs["success_metric"])
        if attrs["success"] != (metric >= attrs["success_threshold"]):
            yield None, f"success is {attrs['success']} but {attrs['success_metric']} ends at {metric:.3f}"


def _full_rate(h5: h5py.File) -> Iterator[tuple[dict[str, np.ndarray], str]]:
    if isinstance(group := h5.get("full_rate"), h5py.Group):
        yield {name: data[:] for name, data in group.items() if name in SCHEMA or name == "frame_step"}, "full_rate: "


def _read_metadata(dataset: Path) -> tuple[dict[str, Any], list[Problem]]:
    path = dataset / "metadata.json"
    if not path.is_file():
        return {}, [Problem("", None, "metadata.json is missing")]
    try:
        return json.loads(path.read_text()), []
    except ValueError as error:
        return {}, [Problem("", None, f"metadata.json is no JSON: {error}")]


def _check_listing(dataset: Path, folders: list[Path], metadata: Mapping[str, Any]) -> Iterator[Problem]:
    """metadata.json lists exactly the episodes on disk, as their files say."""
    if not metadata:
        return
    listed = {row["path"]: row for row in metadata.get("episodes", [])}
    for folder in folders:
        name = str(folder.relative_to(dataset))
        row = listed.pop(name, None)
        if row is None:
            yield Problem(name, None, "is not in metadata.json")
            continue
        try:
            own = read_row(folder, dataset)
        except (OSError, KeyError):
            continue  # said already
        if row != own:
            different = [key for key in row.keys() | own.keys() if row.get(key) != own.get(key)]
            yield Problem(
                name, None, f"metadata.json says something else of {', '.join(sorted(different))} than its HDF5"
            )
    yield from (Problem(name, None, "is in metadata.json and not on disk") for name in listed)
    counts = {"num_episodes": len(folders)}
    if "num_successes" in metadata:
        counts["num_successes"] = sum(bool(row.get("success")) for row in metadata.get("episodes", []))
    for key, count in counts.items():
        if metadata.get(key, count) != count:
            yield Problem("", None, f"metadata.json: {key} is {metadata[key]}, the dataset's is {count}")
