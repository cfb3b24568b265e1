"""Faults planted in the source of simulators/isaac/, and what of Isaac Lab ran: for the tests in Isaac Lab's Python."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import collect_tiled_with_checkpoint as collector
import simulators.isaac as isaac


def plant(monkeypatch: pytest.MonkeyPatch, altered: types.ModuleType, right: str, wrong: str) -> None:
    """Put `wrong` in the place of `right` in a module's source, for the length of a test."""
    assert Path(altered.__file__).read_text().count(right) == 1, "the source has changed: adapt the fault"
    for module in dict.fromkeys((altered, isaac)):  # the second holds what it took from the first
        source = Path(module.__file__).read_text()
        planted = types.ModuleType(module.__name__)
        planted.__file__ = module.__file__
        if hasattr(module, "__path__"):  # a package, of which a test may be the first to import a part
            planted.__path__ = module.__path__
        monkeypatch.setitem(sys.modules, module.__name__, planted)
        code = source.replace(right, wrong) if module is altered else source
        exec(compile(code, module.__file__, "exec"), planted.__dict__)
    monkeypatch.setattr(collector, "collect", sys.modules[collector.__name__].collect)


@contextmanager
def functions_run(place: str, capsys: pytest.CaptureFixture[str]) -> Iterator[set[str]]:
    """The names of functions that run in a block, of files whose path has `place` in it; printed in the end."""
    seen: set[tuple[str, str]] = set()
    names: set[str] = set()

    def note(frame: types.FrameType, event: str, _argument: object) -> None:
        if event == "call" and place in frame.f_code.co_filename:
            seen.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        yield names
    finally:
        sys.setprofile(None)
    names |= {name for _, name in seen}
    with capsys.disabled():
        print(f"\n{len(seen)} functions of Isaac Lab ran in {len({file for file, _ in seen})} of its files")
