"""Datasets of format version 1 stay readable by every command; ten, collected by the last commit that wrote it."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import pytest
from test_vpl_export import LEROBOT, export_with_lerobot

import replay_episode
import vpl_dataset
import vpl_export
from vpl.checks import validate
from vpl.columns import Role
from vpl_dataset import all_episode_folders, episode_folders, load_episode

NAMES = (
    *(
        "plain",
        "wrist",
        "all_cameras",
        "interval",
        "failed",
    ),  # failed: --only_success, of whose episodes none succeeded
    *("raw", "other_seed", "merged", "filmed", "split"),  # raw: --compress none; filmed: by replay_episode.py
)


@pytest.fixture(scope="session")
def version_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the ten datasets."""
    folder = tmp_path_factory.mktemp("datasets")
    with tarfile.open(Path(__file__).parent / "version_1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "version_1"


@pytest.mark.parametrize("name", NAMES)
def test_dataset_is_read_checked_and_shown(name, version_1, tmp_path, capsys):
    dataset = version_1 / name
    assert validate(dataset) == []
    assert vpl_dataset.main(["info", str(dataset)]) == vpl_dataset.main(["stats", str(dataset)]) == 0
    assert vpl_dataset.main(["view", str(dataset), "--output", str(tmp_path / "report.html")]) == 0
    assert f"{len(episode_folders(dataset))} episodes" in capsys.readouterr().out
    for folder in all_episode_folders(dataset):
        with load_episode(folder) as episode:
            assert episode.attrs["format_version"] == 1
            assert episode.columns(Role.STATE) == ["joint_pos", "joint_vel", "ee_position", "ee_rotation"]
            assert episode.columns(Role.ACTION) == ["action", "joint_pos_target"]
            assert "drawer_pos" in episode.columns(Role.PRIVILEGED)


@pytest.mark.parametrize("name", NAMES)
def test_dataset_is_exported(name, version_1, tmp_path):
    for form in ("robomimic", "act", *(["zarr"] if sys.version_info >= (3, 11) else [])):  # zarr 3 needs Python 3.11
        assert vpl_export.main([form, str(version_1 / name), "--output", str(tmp_path / form), "--failed"]) == 0


@pytest.mark.readers
@pytest.mark.parametrize("name", NAMES)
def test_dataset_is_exported_for_lerobot(name, version_1, tmp_path):
    export_with_lerobot(LEROBOT[0], version_1 / name, tmp_path / "out", "--failed")


@pytest.mark.parametrize("name", NAMES)
def test_dataset_is_filmed_and_simulated_again(name, version_1, tmp_path, capsys):
    dataset = version_1 / name
    if name == "failed":
        dataset = all_episode_folders(dataset)[0]
    assert replay_episode.main([str(dataset), "--data_root", str(tmp_path)]) == 0
    (filmed,) = tmp_path.iterdir()
    assert validate(filmed) == []
    if name not in ("interval", "filmed", "failed"):  # their rows are some of the steps
        assert replay_episode.main([str(dataset), "--mode", "actions"]) == 0
        count = len(episode_folders(dataset))
        assert f"{count} of {count} episodes came out exactly as they were recorded" in capsys.readouterr().out


def test_datasets_are_split_and_merged(version_1, tmp_path):
    wrist, other, merged = version_1 / "wrist", version_1 / "other_seed", tmp_path / "merged"
    assert vpl_dataset.main(["merge", str(wrist), str(other), "--output", str(merged)]) == 0
    assert vpl_dataset.main(["split", str(merged), "--val", "0.25"]) == 0
    assert validate(merged) == []
