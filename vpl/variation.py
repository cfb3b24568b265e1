"""What was drawn for an episode, as its file says it.

flat({"pose": {"cabinet": [0.03, 0.0, 0.01, 0.1]}})         # {"pose.cabinet.0": 0.03, …}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import h5py


def variation_of(h5: h5py.File) -> dict[str, Any]:
    """The attribute `variation`; files of version 1 have none."""
    return json.loads(h5.attrs.get("variation", "{}"))


def flat(variation: Any) -> dict[str, float | str]:
    """Every number and word by the keys and indices that lead to it, joined by points."""
    return dict(_leaves(variation, ""))


def _leaves(part: Any, path: str) -> Iterator[tuple[str, float | str]]:
    if not isinstance(part, (dict, list)):
        yield path, part
        return
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
