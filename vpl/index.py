"""Makes a dataset's metadata.json anew from the files of its episodes: python vpl_dataset.py index DATASET

What no episode says (the command line, the cameras' places, the runs) is taken from the metadata.json that is there,
which stays beside the new one as metadata.json.old; without one, the new one says what the episodes do.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vpl.files import fsync, published, read_json
from vpl.listing import all_episode_folders, damage, read_row
from vpl.reader import load_episode

OLD = "metadata.json.old"


def index(dataset: Path) -> int:
    """Write metadata.json; returns the number of episodes.

    Raises:
        OSError: an episode cannot be read, so that the list would lack it.
        ValueError: there is no episode, or metadata.json.old is there already.
    """
    folders = all_episode_folders(dataset)
    if not folders:
        raise ValueError(f"{dataset} holds no episode; there is nothing to list")
    if damaged := next(filter(None, map(damage, folders)), None):
        raise OSError(damaged)
    path, old = dataset / "metadata.json", dataset / OLD
    known = _known(path)
    rows = [read_row(folder, dataset) for folder in folders]
    with load_episode(folders[0]) as first:
        own = {key: first.attrs[key] for key in ("format_version", "task", "simulator")}
    counts: dict[str, Any] = {"num_episodes": len(rows)}
    if any("success" in row for row in rows):
        counts["num_successes"] = sum(row.get("success", False) for row in rows)
    document = {**known, **own, **counts, "episodes": rows}
    if path.exists():
        if os.path.lexists(old):
            raise ValueError(f"{old} exists already; move it: the present metadata.json is kept under that name")
        with open(old, "xb") as file:  # no link: some file systems have none
            file.write(path.read_bytes())
    with published(path, replace=True) as new:
        new.write_text(json.dumps(document, indent=1, allow_nan=False))
        fsync(new)
    return len(rows)


def _known(path: Path) -> dict[str, Any]:
    """What the present metadata.json says beside the episodes; {} where there is none that can be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
