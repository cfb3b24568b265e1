"""The rows of a dataset's episodes, as in metadata.json, of which a run holds in memory only where each round's are.

    rows = Rows()
    rows += [{"episode_index": 140, "round": 7, "num_frames": 60, "success": True, ...}]
    of_the_round, how_many, successful = rows.of_round(7), len(rows), rows.num_successes

What a round costs must not depend on how many are done: counts are kept, not summed up, and a round's rows are found
without a look at the others. The text is in a temporary file of this machine without a name, which nobody else sees and
which is gone with the process: nothing is lost, since rows repeat what the episodes' files say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Any

IN_MEMORY_BYTES = 1 << 20
"""Of text; with more than this it goes to the disk."""


class Rows:
    """A growing collection of rows, by round and index."""

    def __init__(self) -> None:
        self.num_frames = 0
        """Sum of their `num_frames`."""
        self.num_successes = 0
        """How many have `success`."""
        self._count = 0
        self._text = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115  it is closed with this object
        self._parts: dict[int, list[range]] = {}
        """By round, the bytes of its rows, a line each in the order in which they came."""

    def __len__(self) -> int:
        return self._count

    def __iadd__(self, rows: Iterable[dict[str, Any]]) -> Rows:
        for number, group in groupby(rows, itemgetter("round")):
            added = list(group)
            lines = "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in added).encode()
            start = self._append(lines)
            parts = self._parts.setdefault(number, [])
            # a saver's rows come one by one: what continues the last part is made one with it
            first = parts.pop().start if parts and parts[-1].stop == start else start
            parts.append(range(first, start + len(lines)))
            self._count += len(added)
            self.num_frames += sum(row["num_frames"] for row in added)
            self.num_successes += sum(row.get("success", False) for row in added)
        return self

    def _append(self, lines: bytes) -> int:
        """Where they begin."""
        try:
            start = self._text.seek(0, os.SEEK_END)
            self._text.write(lines)
            self._text.flush()
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; TMPDIR names another folder", gettempdir()) from error
        return start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All of them in the order of their indices, of which a later round's are higher."""
        for number in sorted(self._parts):
            yield from self.of_round(number)

    def of_round(self, number: int) -> list[dict[str, Any]]:
        """A round's rows, by index."""
        rows: list[dict[str, Any]] = []
        for part in self._parts.get(number, []):
            self._text.seek(part.start)
            rows += map(json.loads, self._text.read(len(part)).splitlines())
        return sorted(rows, key=itemgetter("episode_index"))
