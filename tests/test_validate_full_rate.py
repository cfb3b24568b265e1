"""What validate finds in `full_rate/`, where only every third control step is a row."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import collect_dataset
from test_vpl_validate import at, attribute, column, later

from vpl.checks import validate


@pytest.fixture(scope="module")
def sparse_dataset(tmp_path_factory) -> Path:
    """One episode of 60 control steps, of which every third is a row."""
    flags = "--num_envs 1 --num_episodes 1 --steps 60 --video_interval 3 --width 64 --height 48"
    return collect_dataset(tmp_path_factory.mktemp("sparse"), *flags.split())


@pytest.fixture
def sparse(sparse_dataset: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    assert validate(sparse_dataset) == []
    return Path(shutil.copytree(sparse_dataset, tmp_path / "sparse"))


def drop_last_step(file: h5py.File) -> None:
    for name in list(file["full_rate"]):
        if name != "frame_step":
            column(f"full_rate/{name}", lambda data: data[:57])(file)


FULL_RATE_FAULTS = {
    "all missing": (lambda file: file.__delitem__("full_rate"), "full_rate is missing"),
    "column missing": (lambda file: file.__delitem__("full_rate/action"), "full_rate: action is missing"),
    "state missing": (lambda file: file.__delitem__("full_rate/sim_state"), "full_rate: sim_state is missing"),
    "tool missing": (lambda file: file.__delitem__("full_rate/ee_position"), "full_rate: ee_position is missing"),
    "tool of no row": (lambda file: file.__delitem__("ee_position"), "ee_position is there, and no row has it"),
    "steps missing": (lambda file: file.__delitem__("full_rate/frame_step"), "full_rate: frame_step is missing"),
    "column short": (column("full_rate/reward", lambda data: data[:-1]), "full_rate: reward has the shape"),
    "column narrow": (column("full_rate/joint_vel", lambda data: data[:, 1:]), "full_rate: joint_vel has the shape"),
    "column of doubles": (column("full_rate/joint_pos", lambda data: data.astype(float)), "full_rate: joint_pos is 2"),
    "steps of doubles": (column("full_rate/frame_step", lambda data: data * 1.0), "full_rate: frame_step is 1-d"),
    "a step less": (drop_last_step, "57 control steps, which make 19 rows, not 20"),
    "not a number": (column("full_rate/reward", at(7, np.nan)), "row 7: full_rate: reward holds NaN"),
    "infinite": (column("full_rate/sim_state", at(8, np.inf)), "row 8: full_rate: sim_state holds NaN"),
    "steps zeroed": (column("full_rate/frame_step", lambda data: data * 0), "row 1: full_rate: frame_step is 0, not"),
    "steps one late": (column("full_rate/frame_step", lambda data: data + 1), "row 0: full_rate: frame_step is 1, not"),
    "other rewards": (column("full_rate/reward", lambda data: data + 1), "row 0: full_rate: reward is another one"),
    "another state": (column("full_rate/sim_state", at(30, 0.5)), "row 10: full_rate: sim_state is another one"),
    "actions late": (column("full_rate/action", later), "full_rate: proprio's last_action"),
    "interval": (attribute("video_interval", 1), "full_rate is wrong: video_interval is 1"),
}


@pytest.mark.parametrize("fault", FULL_RATE_FAULTS)
def test_planted_fault_at_the_full_rate_is_found(sparse, fault):
    plant, words = FULL_RATE_FAULTS[fault]
    with h5py.File(sparse / "episode_000" / "episode_000.h5", "a") as file:
        plant(file)
    problems = [str(problem) for problem in validate(sparse)]
    assert any(problem.startswith("episode_000") and words in problem for problem in problems), problems
