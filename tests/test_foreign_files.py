"""Whatever is in an episode's files, `validate` names the episode and goes on; whoever calls it, it works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import collect_dataset

import vpl
from vpl.checks import episodes, validate
from vpl.format import DECLARATION

PROJECT = Path(vpl.__file__).parent.parent
ODD_VALUES = {
    "text": "odd",
    "no text": "",
    "number": 7,
    "negative": -1,
    "huge": 2**62,
    "fraction": 0.1,
    "not a number": float("nan"),
    "truth": True,
    "array": np.arange(3),
    "nested": np.zeros((2, 3)),
    "bytes": np.bytes_(b"\xff\xfe"),
    "nothing": h5py.Empty("f4"),
    "reference": np.array([], h5py.ref_dtype),
}
Change = Callable[[h5py.Group, str], object]


def replace(value: object, **options: object) -> Change:
    def change(group: h5py.Group, name: str) -> None:
        del group[name]
        group.create_dataset(name, data=value, **options)

    return change


def replace_by_group(group: h5py.Group, name: str) -> None:
    del group[name]
    group.create_group(name)


def link_nowhere(group: h5py.Group, name: str) -> None:
    del group[name]
    group[name] = h5py.SoftLink("/nowhere")


def of_zeros(axis: int, size: int) -> Change:
    """The dataset with another length of one of its axes, nothing of it stored."""

    def change(group: h5py.Group, name: str) -> None:
        data = group[name]
        shape = [size if i == axis % data.ndim else n for i, n in enumerate(data.shape)]
        dtype, attrs = data.dtype, dict(data.attrs)
        del group[name]
        group.create_dataset(name, shape, dtype, chunks=True).attrs.update(attrs)

    return change


DATASET_CHANGES: dict[str, Change] = {
    "removed": lambda group, name: group.__delitem__(name),
    "group": replace_by_group,
    "dangling": link_nowhere,
    "scalar": replace(1.5),
    "nothing": replace(h5py.Empty("f4")),
    "text": replace("odd"),
    "texts": replace(["odd"] * 10),
    "complex": replace(np.zeros((10, 9), complex)),
    "structured": replace(np.zeros(10, [("a", "f4"), ("b", "i4")])),
    "no rows": of_zeros(0, 0),
    "a row more": of_zeros(0, 11),
    "huge": of_zeros(0, 10**12),
    "narrow": of_zeros(-1, 1),
    "no width": of_zeros(-1, 0),
    "wide": of_zeros(-1, 10**9),
    "without attributes": lambda group, name: [group[name].attrs.__delitem__(key) for key in list(group[name].attrs)],
}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A dataset of two episodes of 10 rows at every second control step."""
    flags = "--num_envs 2 --num_episodes 1 --steps 20 --video_interval 2 --width 32 --height 32"
    dataset = collect_dataset(tmp_path_factory.mktemp("good"), *flags.split())
    assert validate(dataset) == []
    return dataset


OF_FULL_RATE = {f"full_rate/{name}" for name in ("joint_pos", "proprio", "sim_state", "frame_step")}
"""Whose attributes are tried there; the others say what those of the rows do."""


def things(dataset: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The datasets and groups of an episode, and its attributes by what they are of."""
    with h5py.File(dataset / "episode_000" / "episode_000.h5") as h5:
        names: list[str] = []
        h5.visit(names.append)
        tried = [name for name in names if not name.startswith("full_rate/") or name in OF_FULL_RATE]
        return names, [(name, key) for name in ("/", *tried) for key in h5[name].attrs]


def damaged(dataset: Path, changes: Iterator[tuple[str, Callable[[h5py.File], object]]]) -> Iterator[tuple[str, list]]:
    """After each change to the first episode, alone: its name and the problems that it makes, as text."""
    path = dataset / "episode_000" / "episode_000.h5"
    whole = path.read_bytes()
    for name, change in changes:
        with h5py.File(path, "a") as h5:
            change(h5)
        yield name, [str(problem) for problem in validate(dataset)]
        path.write_bytes(whole)


def assert_only_the_first_is_named(case: str, problems: list[str]) -> None:
    assert problems, case
    assert all(problem.startswith("episode_000") for problem in problems), (case, problems)


def attribute_changes(dataset: Path) -> Iterator[tuple[str, Callable[[h5py.File], object]]]:
    for of, key in things(dataset)[1]:
        if key in DECLARATION and of != "joint_pos":
            continue  # all columns' are read alike
        yield f"{of}@{key} removed", lambda h5, of=of, key=key: h5[of].attrs.__delitem__(key)
        for kind, value in ODD_VALUES.items():
            yield f"{of}@{key} {kind}", lambda h5, of=of, key=key, value=value: h5[of].attrs.create(key, value)


HARMLESS = (
    "/@language_instruction",
    "/@task text",
    "/@task no text",
    "/@simulator",
    "/@seed",
    "/@run",  # any will do
    "extrinsics@",
    "sim_state@",
    "full_rate/",  # what validate does not read
)


def test_odd_attribute_is_a_problem_of_its_episode(good, tmp_path):
    copy = Path(shutil.copytree(good, tmp_path / "set"))
    count = 0
    for case, problems in damaged(copy, attribute_changes(copy)):
        count += 1
        assert all(problem.startswith("episode_000") for problem in problems), (case, problems)
        assert not any("cannot be checked" in problem for problem in problems), (case, problems)
        if not case.startswith(HARMLESS):
            assert problems or _is_right(case), case
    assert count > 300


def _is_right(case: str) -> bool:
    """The odd value is what it was, or one that is allowed."""
    name, _, kind = case.partition(" ")
    allowed = {"/@truncated": ["truth"], "/@success": [], "/@success_threshold": ["number", "huge", "fraction"]}
    if name.endswith("@in_state"):
        return kind in ("truth", "removed")
    if name in ("joint_pos@observed_as", "ee_position@names", "joint_effort@names", "proprio@names"):
        return kind == "removed"
    if name.endswith(("@meaning", "@unit")):
        return kind == "text"
    return kind in allowed.get(name, [])


def test_odd_dataset_is_a_problem_of_its_episode(good, tmp_path):
    copy = Path(shutil.copytree(good, tmp_path / "set"))
    names = [name for name in things(copy)[0] if name != "full_rate"]

    def changes() -> Iterator[tuple[str, Callable[[h5py.File], object]]]:
        for name in names:
            for kind, change in DATASET_CHANGES.items():
                with h5py.File(copy / "episode_000" / "episode_000.h5") as h5:
                    if (kind == "no width" and h5[name].ndim == 1) or (kind == "narrow" and h5[name].shape[-1] == 1):
                        continue
                    if kind == "without attributes" and (not h5[name].attrs or "/" in name):
                        continue
                yield f"{name} {kind}", lambda h5, name=name, change=change: change(h5, name)

    count = 0
    for case, problems in damaged(copy, changes()):
        count += 1
        assert not any("cannot be checked" in problem for problem in problems), (case, problems)
        if case not in ("extrinsics without attributes", "sim_state without attributes"):
            assert_only_the_first_is_named(case, problems)
    assert count > 300


@pytest.mark.parametrize("cut", [0, 7, 100, 2000, 9000, 20000])
def test_cut_file_is_a_problem_of_its_episode(good, tmp_path, cut):
    copy = Path(shutil.copytree(good, tmp_path / "set"))
    path = copy / "episode_000" / "episode_000.h5"
    path.write_bytes(path.read_bytes()[:cut])
    assert_only_the_first_is_named(f"cut at {cut}", [str(problem) for problem in validate(copy)])


def many(good: Path, tmp_path: Path) -> Path:
    """Twenty episodes, which differ in their motion only where they must."""
    dataset = tmp_path / "many"
    for index in range(20):
        folder = dataset / f"episode_{index:03d}"
        shutil.copytree(good / f"episode_{index % 2:03d}", folder)
        for path in list(folder.rglob("*_00?.*")):
            path.rename(path.with_name(f"{folder.name}{path.suffix}"))
    return dataset


CALLERS = {
    "script": [sys.executable, "script.py"],
    "standard input": [sys.executable, "-"],
    "notebook": [sys.executable, "-i", "-q"],
}


@pytest.mark.parametrize("caller", CALLERS)
def test_many_episodes_are_checked_from_a_script_without_a_guard(good, tmp_path, caller):
    dataset = many(good, tmp_path)
    text = f"import sys\nsys.path.insert(0, {str(PROJECT)!r})\nfrom vpl.checks import validate\n"
    text += f"from pathlib import Path\nproblems = validate(Path({str(dataset)!r}))\n"
    text += "print('found', len(problems), problems[-1])\n"
    (tmp_path / "script.py").write_text(text)
    done = subprocess.run(CALLERS[caller], cwd=tmp_path, input=text, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("found") == 1 and "repeats episode_001" in done.stdout, done
    assert "Traceback" not in done.stderr and done.returncode == 0


def test_file_that_crashes_a_library_is_a_problem_of_its_episode(good, tmp_path, monkeypatch):
    """A library that crashes is stood in for by a signal that the process sends to itself."""
    dataset = many(good, tmp_path)
    program = (
        "import os, signal\nfrom vpl.checks import episodes as checks\n"
        "check = checks.check_episode\n"
        "def crash(folder, cameras):\n"
        "    if folder.name in ('episode_003', 'episode_019'): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return check(folder, cameras)\n"
        "checks.check_episode = crash\nchecks.check_what_stdin_names()\n"
    )
    monkeypatch.setattr(episodes, "PROGRAM", ("-c", program))
    problems = [str(problem) for problem in validate(dataset) if "SIGSEGV" in problem.reason]
    assert [problem.split(":")[0] for problem in problems] == ["episode_003", "episode_019"]


def test_process_that_cannot_work_at_all_is_an_error(good, tmp_path, monkeypatch):
    monkeypatch.setattr(episodes, "PROGRAM", (str(tmp_path / "missing.py"),))
    with pytest.raises(RuntimeError, match="ended with exit code 2"):
        validate(many(good, tmp_path))


def test_metadata_is_handed_over_once_per_process_without_the_episodes(good, tmp_path, monkeypatch):
    dataset, tasks = many(good, tmp_path), []
    shutil.copy(good / "metadata.json", dataset)
    dump = json.dump
    monkeypatch.setattr(json, "dump", lambda task, file: (tasks.append(task), dump(task, file)))
    validate(dataset)
    assert 1 <= len(tasks) <= 3 and all(task.keys() == {"folders", "cameras"} for task in tasks)
    assert sum(len(task["folders"]) for task in tasks) == 20
