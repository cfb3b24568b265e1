"""What is left of a run that was killed, and that --resume makes of it what an uninterrupted run would have made."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import collect_dataset, start_run, wait_for

import collect_tiled_with_checkpoint as collector
from vpl.checks import validate, validate_episode
from vpl_dataset import episode_folders, load_episode

PROJECT = Path(collector.__file__).parent
FLAGS = "--num_envs 3 --num_episodes 3 --steps 12 --enable_wrist_camera --width 64 --height 48".split()


def children(pid: int) -> list[int]:
    """The writer processes of a run."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if b"vpl.workers" in Path(f"/proc/{child}/cmdline").read_bytes()]


def assert_same_content(dataset: Path, reference: Path) -> None:
    names = [folder.name for folder in episode_folders(reference)]
    assert [folder.name for folder in episode_folders(dataset)] == names
    for name in names:
        with h5py.File(dataset / name / f"{name}.h5") as one, h5py.File(reference / name / f"{name}.h5") as two:
            assert set(one) == set(two)
            for column in two:
                assert np.array_equal(one[column][:], two[column][:]), (name, column)
        for video in sorted((reference / name).rglob("*.mp4")):
            assert (dataset / video.relative_to(reference)).read_bytes() == video.read_bytes(), video
    assert not (dataset / ".partial").exists()
    rows = [json.loads((root / "metadata.json").read_text())["episodes"] for root in (dataset, reference)]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect_dataset(tmp_path_factory.mktemp("reference"), *FLAGS)


def assert_whole_and_resumable(data_root: Path, reference: Path) -> None:
    (dataset,) = data_root.iterdir()
    for folder in episode_folders(dataset):
        assert validate_episode(folder) == []
    assert collector.main(["--resume", str(dataset)]) == 0
    assert validate(dataset) == []
    assert_same_content(dataset, reference)


def kill_group(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_run_that_is_ended_at_any_instant_resumes_to_what_an_uninterrupted_one_gives(
    tmp_path, reference, number, trial
):
    process = start_run(tmp_path, *FLAGS, "--writer", ("threads", "processes")[trial % 2], "--writer_workers", "2")
    wait_for("*/metadata.json", tmp_path, process)
    delay = random.Random(f"{number}{trial}").uniform(0, 2)
    time.sleep(delay)
    if number == signal.SIGKILL:
        process.kill()  # the writers live on for a moment
    else:
        kill_group(process, number)
    _, error = process.communicate(timeout=60)
    (dataset,) = tmp_path.iterdir()
    whole = len(episode_folders(dataset))
    print(f"{number.name} {delay:.2f} s after the beginning: exit code {process.returncode}, {whole} whole episodes")
    assert process.returncode in (0, -number if number == signal.SIGKILL else 128 + number), error
    if number != signal.SIGKILL:
        assert validate(dataset) == [] and not (dataset / ".partial").exists()
    assert_whole_and_resumable(tmp_path, reference)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("pause_s", [0, 0.01])
def test_signals_to_the_whole_group_end_the_run_gracefully_however_many_come(tmp_path, number, code, pause_s):
    process = start_run(tmp_path, *FLAGS, "--num_episodes", "1000", "--writer", "processes", "--writer_workers", "2")
    wait_for("*/episode_002", tmp_path, process)
    for _ in range(200):  # while it leaves the interpreter, too
        kill_group(process, number)
        time.sleep(pause_s)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in error and "error:" not in error
    (dataset,) = tmp_path.iterdir()
    assert not (dataset / ".partial").exists()
    assert validate(dataset) == []


def test_hangup_that_is_ignored_stays_ignored(tmp_path):
    process = start_run(tmp_path, *FLAGS, "--num_episodes", "1000", hangup=signal.SIG_IGN)
    wait_for("*/episode_002", tmp_path, process)
    (dataset,) = tmp_path.iterdir()
    kill_group(process, signal.SIGHUP)
    wait_for(f"episode_{len(episode_folders(dataset)) + 6:03d}", dataset, process)
    kill_group(process, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_run_whose_writer_is_killed_resumes_to_what_an_uninterrupted_one_gives(tmp_path, reference, trial):
    process = start_run(tmp_path, *FLAGS, "--writer", "processes", "--writer_workers", "2")
    wait_for("*/metadata.json", tmp_path, process)
    time.sleep(random.Random(trial).uniform(0, 3))
    writers = children(process.pid) if process.poll() is None else []
    for writer in writers[trial % 2 :][:1]:
        os.kill(writer, signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    assert_whole_and_resumable(tmp_path, reference)


def test_killed_writer_process_is_reported_and_leaves_no_orphan(tmp_path, reference):
    process = start_run(tmp_path, *FLAGS, "--writer", "processes", "--writer_workers", "2")
    wait_for("*/episode_000", tmp_path, process)
    writers = children(process.pid)
    assert len(writers) == 2
    os.kill(writers[1], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "writer process 1 was killed by SIGKILL" in error and "Traceback" not in error
    assert not any(Path(f"/proc/{writer}").exists() for writer in writers)
    (dataset,) = tmp_path.iterdir()
    assert collector.main(["--resume", str(dataset)]) == 0
    assert_same_content(dataset, reference)


def test_writer_processes_end_with_a_killed_run(tmp_path):
    process = start_run(tmp_path, *FLAGS, "--writer", "processes", "--writer_workers", "2")
    wait_for("*/episode_000", tmp_path, process)
    writers = children(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{writer}").exists() for writer in writers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_processes_write_the_same_as_threads(tmp_path, reference):
    dataset = collect_dataset(tmp_path, *FLAGS, "--writer", "processes", "--writer_workers", "2")
    assert_same_content(dataset, reference)


def test_second_interrupt_leaves_at_once_and_keeps_whole_episodes(tmp_path):
    process = start_run(tmp_path, *FLAGS, "--num_episodes", "1000")
    wait_for("*/episode_002", tmp_path, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error
    (dataset,) = tmp_path.iterdir()
    assert dataset / "episode_002" in episode_folders(dataset)  # others may have been about to be published
    for folder in episode_folders(dataset):
        with load_episode(folder) as episode:
            assert len(episode["color"]) == 12


def test_more_episodes_may_be_asked_for(tmp_path, reference):
    dataset = collect_dataset(tmp_path, *FLAGS, "--num_episodes", "1")
    assert len(episode_folders(dataset)) == 3
    assert collector.main(["--resume", str(dataset), "--num_episodes", "3"]) == 0
    assert_same_content(dataset, reference)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--steps 13", ["--steps", "13", "12"]),
        ("--seed 1", ["--seed", "1", "42"]),
        ("--enable_top_camera", ["--enable_top_camera"]),
        ("--num_episodes 2", ["--num_episodes", "2", "3"]),
        (f"--checkpoint {PROJECT / 'tests/checkpoints/rsl_rl_5.5.1_plain.pt'}", ["--checkpoint", "sha256"]),
        ("--task Isaac-Open-Drawer-Franka-Play-v0", ["--task", "Play"]),
        ("--compress none", ["--compress"]),
    ],
)
def test_resuming_with_anything_else_is_refused_by_name(reference, flags, words, capsys):
    before = (reference / "metadata.json").read_bytes()
    with pytest.raises(SystemExit) as refusal:
        collector.main(["--resume", str(reference), *flags.split()])
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert refusal.value.code == 2 and "--resume" in error
    assert all(word in error for word in words), error
    assert (reference / "metadata.json").read_bytes() == before


def test_folder_without_a_dataset_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        collector.main(["--resume", str(tmp_path)])
    assert "holds no metadata.json" in capsys.readouterr().err


def test_dataset_that_another_process_writes_into_is_refused(tmp_path, reference, capsys):
    process = start_run(tmp_path, *FLAGS, "--num_episodes", "1000")
    wait_for("*/metadata.json", tmp_path, process)
    (dataset,) = tmp_path.iterdir()
    assert collector.main(["--resume", str(dataset)]) == 1
    assert "another process writes into" in capsys.readouterr().err
    process.kill()
    process.communicate()
