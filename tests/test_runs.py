"""What collected an episode is on record, also after a run was resumed with something else, merged or filmed again."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import h5py
import pytest
from conftest import collect_dataset

import collect_tiled_with_checkpoint as collector
import replay_episode
import vpl_dataset
import vpl_runs
from vpl_dataset import episode_folders, load_episode
from vpl_validate import validate

FLAGS = "--num_envs 2 --num_episodes 1 --steps 3 --width 32 --height 32".split()


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect_dataset(tmp_path_factory.mktemp("collected"), *FLAGS)


@pytest.fixture
def recorded(collected: Path, tmp_path: Path) -> Path:
    """A dataset of two episodes that a test may alter."""
    shutil.copytree(collected, tmp_path / "set")
    return tmp_path / "set"


def read(dataset: Path) -> dict:
    return json.loads((dataset / "metadata.json").read_text())


def write(dataset: Path, document: dict) -> None:
    (dataset / "metadata.json").write_text(json.dumps(document))


def make_older(dataset: Path, torch: str) -> None:
    """As if another version of torch had collected it."""
    document = read(dataset)
    document["versions"]["torch"] = document["runs"][0]["versions"]["torch"] = torch
    write(dataset, document)


def make_of_an_earlier_version(dataset: Path) -> None:
    """As this project wrote it before it recorded runs."""
    document = read(dataset)
    del document["runs"], document["versions"]["project"]
    document["versions"].pop("commit", None)
    for row in document["episodes"]:
        del row["run"]
    write(dataset, document)
    for folder in episode_folders(dataset):
        with h5py.File(folder / f"{folder.name}.h5", "a") as file:
            del file.attrs["run"]


def runs_of(dataset: Path) -> list[int | None]:
    """Of each episode, as its file and its row of metadata.json say."""
    rows = [row.get("run") for row in read(dataset)["episodes"]]
    for folder, run in zip(episode_folders(dataset), rows, strict=True):
        with load_episode(folder) as episode:
            assert episode.attrs.get("run") == run
    return rows


def resume(dataset: Path) -> None:
    assert collector.main(["--resume", str(dataset), "--num_episodes", "2"]) == 0


def test_run_says_what_made_it(collected):
    document = read(collected)
    (run,) = document["runs"]
    assert run["versions"]["project"] == "0.1.0" and {"torch", "mujoco", "numpy"} <= run["versions"].keys()
    assert run["machine"].keys() == {"system", "libc", "cpu"} and len(run["starts"]) == 1
    assert run["arguments"]["seed"] == 42 and run["checkpoint"]["sha256"]
    assert (document["versions"], document["checkpoint"]) == (run["versions"], run["checkpoint"])
    assert runs_of(collected) == [0, 0]


def test_resumed_with_the_same_it_is_the_same_run(recorded, capsys):
    resume(recorded)
    (run,) = read(recorded)["runs"]
    assert len(run["starts"]) == 2 and runs_of(recorded) == [0, 0, 0, 0]
    assert "note" not in capsys.readouterr().out


def test_resumed_with_another_version_what_is_there_keeps_its_own(recorded, capsys):
    make_older(recorded, torch="1.0")
    resume(recorded)
    (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    document = read(recorded)
    now = document["runs"][1]["versions"]["torch"]
    assert note.endswith(f"for what differs: torch 1.0 -> {now}")
    assert document["versions"]["torch"] == document["runs"][0]["versions"]["torch"] == "1.0" != now
    assert runs_of(recorded) == [0, 0, 1, 1] and validate(recorded) == []


def test_dataset_of_an_earlier_version_is_resumed_as_run_0(recorded, capsys):
    make_of_an_earlier_version(recorded)
    assert validate(recorded) == []
    resume(recorded)
    assert "project not recorded -> 0.1.0" in capsys.readouterr().out
    document = read(recorded)
    assert [sorted(run) for run in document["runs"]] == [
        ["arguments", "checkpoint", "versions"],
        ["arguments", "checkpoint", "machine", "starts", "versions"],
    ]
    assert document["versions"] == document["runs"][0]["versions"] and "project" not in document["versions"]
    assert runs_of(recorded) == [None, None, 1, 1] and validate(recorded) == []


def test_merged_episodes_keep_their_runs(recorded, tmp_path):
    make_older(recorded, torch="1.0")
    resume(recorded)
    other = collect_dataset(tmp_path / "other", *FLAGS, "--seed", "5")
    make_of_an_earlier_version(other)
    third = collect_dataset(tmp_path / "third", *FLAGS, "--seed", "6")
    parts = [str(part) for part in (recorded, other, third)]
    assert vpl_dataset.main(["merge", *parts, "--output", str(tmp_path / "merged")]) == 0
    document = read(tmp_path / "merged")
    assert runs_of(tmp_path / "merged") == [0, 0, 1, 1, 2, 2, 3, 3] and validate(tmp_path / "merged") == []
    assert [run["arguments"]["seed"] for run in document["runs"]] == [42, 42, 5, 6]
    assert not any("runs" in source for source in document["sources"])


def test_filmed_episodes_keep_the_run_of_their_motion(recorded, tmp_path):
    make_older(recorded, torch="1.0")
    resume(recorded)
    assert replay_episode.main([str(recorded), "--data_root", str(tmp_path / "filmed")]) == 0
    (filmed,) = (tmp_path / "filmed").iterdir()
    assert runs_of(filmed) == [0, 0, 1, 1] and read(filmed)["runs"] == read(recorded)["runs"]
    assert read(filmed)["versions"]["torch"] != "1.0"


def test_commit_is_that_of_the_scripts_own_repository(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    assert "commit" not in vpl_runs.project_versions(folder)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    (folder / "a.py").write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"], ["tag", "v9"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert vpl_runs.project_versions(folder)["commit"] == commit
    (folder / "a.py").write_text("2")
    assert vpl_runs.project_versions(folder)["commit"] == f"{commit}-dirty"
    (folder / "vendored").mkdir()
    assert "commit" not in vpl_runs.project_versions(folder / "vendored"), "it is another project's"
