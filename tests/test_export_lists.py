"""Exports go by the lists of episodes to train and to validate on, which may have become old."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import collect_dataset
from test_vpl_export import NEEDS_ZARR, export

from vpl_dataset import main


@pytest.fixture(scope="module")
def partly_successful(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A dataset of four episodes, and the names of those with success; the others are still on their way."""
    flags = "--num_envs 4 --num_episodes 1 --steps 57 --width 32 --height 32 --seed 3"
    dataset = collect_dataset(tmp_path_factory.mktemp("partly"), *flags.split())
    rows = json.loads((dataset / "metadata.json").read_text())["episodes"]
    successful = [row["path"] for row in rows if row["success"]]
    assert 1 < len(successful) < 4
    return dataset, successful


@NEEDS_ZARR
def test_episodes_without_success_are_left_out_on_demand(partly_successful, tmp_path, capsys):
    import zarr

    dataset, successful = partly_successful
    root = zarr.open_group(str(export("zarr", dataset, tmp_path / "out", "--only_success")), mode="r")
    assert root.attrs["vpl"]["episodes"] == successful
    assert f"{len(successful)} episodes ({4 - len(successful)} left out)" in capsys.readouterr().out


@NEEDS_ZARR
def test_lists_without_failures_are_whole(partly_successful, tmp_path):
    import zarr

    copy = tmp_path / "copy"
    shutil.copytree(partly_successful[0], copy, copy_function=os.link)
    assert main(["split", str(copy), "--val", "0.5", "--only_success"]) == 0
    root = zarr.open_group(str(export("zarr", copy, tmp_path / "out")), mode="r")
    assert sorted(root.attrs["vpl"]["episodes"]) == partly_successful[1]


@pytest.fixture
def grown(splits: Path, tmp_path: Path) -> Path:
    """A dataset with the lists that were drawn when its last episode was not there yet."""
    copy = tmp_path / "grown"
    shutil.copytree(splits, copy, copy_function=os.link, ignore=shutil.ignore_patterns("splits.json"))
    shutil.move(copy / "episode_009", tmp_path)
    assert main(["split", str(copy), "--val", "0.2"]) == 0
    shutil.move(tmp_path / "episode_009", copy)
    return copy


def test_episodes_that_were_collected_after_the_split_do_not_vanish(grown, tmp_path, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        export("act", grown, tmp_path / "out")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()
    assert re.search(r"splits.json lacks 1 of 10 episodes, .* episode_009; .* or take one list: --split train", error)
    export("act", grown, tmp_path / "train", "--split", "train")
    assert "7 episodes (3 left out)" in capsys.readouterr().out


def test_statistics_say_what_they_are_of(grown, capsys):
    assert main(["stats", str(grown), "--split", "train"]) == 0
    assert "1 of 10 episodes are in no list of splits.json" in capsys.readouterr().err
    assert main(["stats", str(grown)]) == 0
    assert "also of those to validate on; normalize with --split train" in capsys.readouterr().err
