"""Disks that fill or vanish while a run writes: a line that says so, whole episodes only, and --resume completes it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import collect_dataset, start_run, wait_for

import collect_tiled_with_checkpoint as collector
from vpl.checks import validate, validate_episode
from vpl_dataset import episode_folders

FLAGS = (
    "--num_envs 3 --num_episodes 40 --steps 12 --enable_wrist_camera --width 160 --height 120 --compress none".split()
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs needs root: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("writer", ["threads", "processes"])
def test_full_disk_is_reported_and_the_run_goes_on_when_there_is_room(small_disk, writer):
    # 50 MB; the check of free space expects gzip's share of it
    process = start_run(small_disk, *FLAGS, "--num_episodes", "12", "--writer", writer)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "No space left on device" in error and "--resume" in error and "Traceback" not in error
    (dataset,) = small_disk.iterdir()
    whole = episode_folders(dataset)
    assert 0 < len(whole) < 36
    for folder in whole:
        assert validate_episode(folder) == []
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    assert collector.main(["--resume", str(dataset)]) == 0
    assert validate(dataset) == [] and len(episode_folders(dataset)) == 36


@pytest.mark.parametrize("writer", ["threads", "processes"])
def test_vanished_folder_is_reported_and_not_begun_anew(tmp_path, writer):
    process = start_run(tmp_path, *FLAGS, "--num_episodes", "8", "--writer", writer)
    wait_for("*/episode_002", tmp_path, process)
    (dataset,) = tmp_path.iterdir()
    moved = tmp_path.parent / f"{tmp_path.name}_moved"
    dataset.rename(moved)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "No such file or directory" in error and "Traceback" not in error
    assert not dataset.exists()
    for folder in episode_folders(moved):
        assert validate_episode(folder) == []
    assert collector.main(["--resume", str(moved)]) == 0
    assert validate(moved) == [] and len(episode_folders(moved)) == 24
    shutil.rmtree(moved)


def test_read_only_disk_is_refused_before_anything_is_booted(small_disk, monkeypatch, capsys):
    dataset = collect_dataset(small_disk, "--num_envs", "2", "--num_episodes", "1", "--steps", "2")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    monkeypatch.setattr(collector, "load", lambda name: pytest.fail("the simulator was booted"))
    for flags in (["--data_root", str(small_disk / "data")], ["--resume", str(dataset), "--num_episodes", "2"]):
        with pytest.raises(SystemExit) as refusal:
            collector.main(flags)
        (error,) = capsys.readouterr().err.strip().splitlines()
        assert refusal.value.code == 2
        assert f"{flags[0]} {flags[1]} cannot be written: Read-only file system" in error
