"""What a round costs the one who keeps the rows does not depend on how many rounds are done."""

from __future__ import annotations

import random
import tracemalloc
from tempfile import gettempdir
from typing import Any

import pytest

from vpl import rows as module
from vpl.rows import Rows

ENVS = 100


def round_of(number: int) -> list[dict[str, Any]]:
    first = number * ENVS
    said = {"round": number, "num_frames": 60, "final_drawer_pos": 0.3912, "note": "Möbel"}
    return [
        {"episode_index": first + env, **said, "success": env % 4 == 0, "path": f"episode_{first + env:03d}"}
        for env in range(ENVS)
    ]


@pytest.mark.parametrize("in_memory", [1000, 1 << 30], ids=["on disk", "in memory"])
def test_rows_come_back_by_round_and_index_however_they_came(in_memory, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", in_memory)
    expected = [row for number in range(6) for row in round_of(number)]
    rows, came = Rows(), random.Random(0).sample(expected, len(expected))
    for start in range(0, len(came), 7):
        rows += came[start : start + 7]
        assert rows.of_round(came[start]["round"])[0] in expected  # reading between two additions takes nothing away
    assert list(rows) == expected and [*rows.of_round(3), *rows.of_round(9)] == round_of(3)
    assert (len(rows), rows.num_frames, rows.num_successes) == (600, 36_000, 150)


def test_memory_does_not_grow_with_the_rows(monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 1000)
    rows = Rows()
    tracemalloc.start()
    held = []
    for number in range(150):
        for row in round_of(number):  # one by one, as a saver's come
            rows += [row]
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    # a list of them would hold some 50 kB a round
    assert held[-1] - held[49] < 100 * 1000
    assert len(rows) == 15_000


def test_full_disk_of_temporary_files_is_named(monkeypatch):
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115  it is closed with the rows
    monkeypatch.setattr(module, "SpooledTemporaryFile", lambda _: full)
    rows = Rows()
    with pytest.raises(OSError, match=f"No space left on device; TMPDIR names another folder: '{gettempdir()}'"):
        rows += round_of(0)
