"""What lies in a dataset's folder: its episodes, whether they are whole, and what they say of themselves.

Example:
    rows = [read_row(folder, dataset) for folder in without_damaged(all_episode_folders(dataset))]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vpl.files import read_json
from vpl.format import ATTRIBUTES, ROW_ATTRIBUTES, column_names, needed_columns, stream_names


def all_episode_folders(root: Path) -> list[Path]:
    """Every whole episode of a dataset, also those in failed/, by index; not a user's copy, `episode_000 (copy)`."""
    found = [folder for name in ("", "failed/") for folder in root.glob(f"{name}episode_*") if folder.is_dir()]
    folders = [folder for folder in found if re.fullmatch("episode_[0-9]+", folder.name)]
    return sorted(folders, key=lambda folder: int(folder.name.split("_")[1]))


def damage(folder: Path) -> str:
    """Why an episode cannot be read as a whole, in a line that names its file and the remedy; "" if it can."""
    path = folder / f"{folder.name}.h5"
    try:
        with h5py.File(path, locking=False) as h5:
            reason = flaw(h5)
    except (OSError, TypeError) as error:  # the second: h5py's, of a scalar where rows must be
        reason = "there is no such file" if not path.exists() else " ".join(str(error).split())
        reason = f"cannot be read ({reason})"
    return reason and f"{path} {reason}; move its folder away and --resume the dataset to collect it again"


def flaw(h5: h5py.File) -> str:
    """What an episode's file lacks; "" if it is whole."""
    needed = ("color", "intrinsics", *needed_columns(h5))
    with_rows = (*stream_names(h5), *column_names(h5))
    parts = {name: h5.get(name) for name in {*needed, *with_rows}}
    lacking = [name for name in ATTRIBUTES if name not in h5.attrs]
    lacking += [name for name in needed if not isinstance(parts[name], h5py.Dataset)]
    if lacking:
        return f"lacks {', '.join(lacking[:5])}"
    rows = [len(parts[name]) for name in with_rows]
    return f"has columns of {min(rows)} to {max(rows)} rows" if len({*rows}) > 1 or not rows[0] else ""


def without_damaged(folders: Iterable[Path]) -> list[Path]:
    """The episodes that can be read; the others are named on stderr."""
    reasons = {folder: damage(folder) for folder in folders}
    for reason in filter(None, reasons.values()):
        print(f"left out: {reason}", file=sys.stderr)
    return [folder for folder, reason in reasons.items() if not reason]


def read_metadata(dataset: Path) -> dict[str, Any]:
    """A dataset's metadata.json.

    Raises:
        ValueError: it is no JSON, or does not say how the dataset was collected.
    """
    document = read_json(dataset / "metadata.json")
    for key in ("task", "simulator", "arguments", "checkpoint", "episodes"):
        if key not in document:
            raise ValueError(f"{dataset / 'metadata.json'} has no {key}; give a dataset of this project, whole")
    return document


def read_row(folder: Path, root: Path) -> dict[str, Any]:
    """An episode's row of metadata.json, from its HDF5."""
    with h5py.File(folder / f"{folder.name}.h5", locking=False) as h5:
        return {**describe(h5), "path": str(folder.relative_to(root))}


def describe(h5: h5py.File) -> dict[str, Any]:
    """A whole episode's row of metadata.json, but for its path."""
    row = {name: h5.attrs[name].item() for name in ROW_ATTRIBUTES}
    if "success" in h5.attrs:
        row["success"] = h5.attrs["success"].item()
    if (metric := h5.attrs.get("success_metric")) is not None:
        value = final_value(h5, metric)
        row[f"final_{metric}"] = round(value, 4) if np.isfinite(value) else None  # JSON has no NaN
    row |= {"run": h5.attrs["run"].item()} if "run" in h5.attrs else {}
    return row | ({"source": h5.attrs["source"]} if "source" in h5.attrs else {})


def final_value(h5: h5py.File, column: str) -> float:
    """The value of a column at the last control step, whichever rows `--video_interval` keeps."""
    return float(h5.get("full_rate", h5)[column][-1])
