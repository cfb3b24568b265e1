"""Numbers that are not finite: the env and the step are named, its episode is left out, the others come out as ever."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import collect_dataset
from test_resume import assert_same_content
from test_vpl_saver import COLUMNS, ENVS, make_cfg, make_step, store

import collect_tiled_with_checkpoint as collector
import replay_episode
from policies.rsl_rl import CheckpointPolicy
from simulators import Sample
from vpl.checks import validate
from vpl_dataset import episode_folders
from vpl_saver import VPLSaver

FLAGS = "--num_envs 4 --num_episodes 2 --steps 8 --width 32 --height 32".split()
QPOS, QVEL, ACTION = 1, 14, None
"""Where they begin in a state, which begins with the time."""


@pytest.mark.parametrize(
    ("place", "value"),
    [(QPOS, np.nan), (QPOS, 1e12), (QVEL, np.inf), (QVEL, 1e12), (QVEL + 9, 1e12), (ACTION, np.nan), (ACTION, -1e12)],
)
def test_env_that_diverges_is_done_and_starts_anew_alone(make_env, place, value):
    env, other = make_env(num_envs=3), make_env(num_envs=3)
    env.reset(7), other.reset(7)
    state, action = env.get_state(), torch.zeros(3, 8, device=env.device)
    if place is ACTION:
        action[1, 2] = value
    else:
        state[1, place + 1] = value
        env.set_state(state)
    obs, reward, dones, extras = env.step(action)
    expected, *_ = other.step(torch.zeros_like(action))
    assert dones.tolist() == extras["diverged"].tolist() == [False, True, False]
    assert not extras["time_outs"].any() and env.episode_length_buf.tolist() == [1, 0, 1]
    assert reward[1] == 0 and reward.isfinite().all() and obs["policy"].isfinite().all()
    assert torch.equal(obs["policy"][[0, 2]], expected["policy"][[0, 2]])
    assert np.isfinite(env.get_state()).all()
    for _ in range(3):
        *_, dones, extras = env.step(torch.zeros_like(action))
        assert not dones.any() and not extras["diverged"].any(), "it did not recover"


@pytest.fixture
def odd_policy(monkeypatch) -> None:
    """Answers NaN for env 1 in the first round's step 3, and what no drive can follow for env 2 in its last step."""
    act, calls = CheckpointPolicy.act, iter(range(1000))

    def odd(self: CheckpointPolicy, sample: Sample | None, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        action, call = act(self, sample, obs).clone(), next(calls)
        if call == 3:
            action[1, 5] = torch.nan
        if call == 7:
            action[2] = 1e11
        return action

    monkeypatch.setattr(CheckpointPolicy, "act", odd)


def strictly(path: Path) -> dict:
    """The JSON of a reader that takes no NaN."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{path.name} holds a bare {name}"))


def test_run_names_the_episodes_it_leaves_out_and_completes_the_others(tmp_path, odd_policy, monkeypatch, capsys):
    assert collector.main(["--data_root", str(tmp_path), "--simulator", "mujoco", *FLAGS]) == 1
    said = capsys.readouterr()
    assert "left out    episode_001: action is not finite (round 0, env 1, step 3)" in said.err
    assert "left out    episode_002: the simulation diverged (round 0, env 2, step 7)" in said.err
    assert "left out    2 episodes" in said.out
    (dataset,) = tmp_path.iterdir()
    assert [folder.name for folder in episode_folders(dataset)] == [f"episode_{i:03d}" for i in (0, 3, 4, 5, 6, 7)]
    assert validate(dataset) == [] and not (dataset / ".partial").exists()
    dropped = strictly(dataset / "metadata.json")["dropped"]
    assert [(row["episode_index"], row["round"], row["env_index"], row["step"]) for row in dropped] == [
        (1, 0, 1, 3),
        (2, 0, 2, 7),
    ]
    monkeypatch.undo()
    assert collector.main(["--resume", str(dataset)]) == 0
    assert "dropped" not in strictly(dataset / "metadata.json")
    assert_same_content(dataset, collect_dataset(tmp_path / "whole", *FLAGS))


@pytest.mark.parametrize("use_processes", [False, True])
@pytest.mark.parametrize("column", [name for name, column in COLUMNS.items() if column.dtype != "bool"])
def test_saver_publishes_no_episode_with_a_number_that_is_not_finite(tmp_path, column, use_processes):
    rng = np.random.default_rng(0)
    everyone, nobody = np.ones(ENVS, bool), np.zeros(ENVS, bool)
    said = []
    with VPLSaver(make_cfg(tmp_path / "set", use_processes=use_processes)) as saver:
        for round_index in range(2):
            saver.begin_round(round_index)
            for step in range(4):
                rows = make_step(rng, step)
                if (round_index, step) == (0, 2):
                    rows[column][1] = np.nan
                said += store(saver, rows, everyone)
            saver.end_episodes(everyone, nobody, everyone)
    assert said == saver.dropped == strictly(tmp_path / "set" / "metadata.json")["dropped"]
    assert said == [{"episode_index": 1, "round": 0, "env_index": 1, "step": 2, "reason": f"{column} is not finite"}]
    assert [folder.name for folder in episode_folders(tmp_path / "set")] == [
        f"episode_{i:03d}" for i in (0, 2, 3, 4, 5)
    ]
    assert not (tmp_path / "set" / ".partial").exists()


def test_numbers_of_envs_that_do_not_record_may_be_anything(tmp_path):
    recording = np.array([True, False, True])
    with VPLSaver(make_cfg(tmp_path / "set")) as saver:
        saver.begin_round(0)
        rows = make_step(np.random.default_rng(0), 0)
        rows["proprio"][1] = np.nan
        assert store(saver, rows, recording) == []
        saver.end_episodes(recording, ~recording, recording)
    assert len(episode_folders(tmp_path / "set")) == 2


def test_calibration_that_is_not_finite_is_refused(tmp_path):
    cfg = make_cfg(tmp_path / "set")
    with pytest.raises(ValueError, match="intrinsics"):
        replace(cfg, intrinsics=np.full_like(cfg.intrinsics, np.nan))


def test_recorded_states_that_are_not_finite_are_not_filmed(tmp_path, capsys):
    """As older versions published them."""
    recorded = collect_dataset(tmp_path / "old", *FLAGS, "--num_episodes", "1")
    with h5py.File(recorded / "episode_001" / "episode_001.h5", "a") as file:
        file["sim_state"][5:] = np.nan
        file["drawer_pos"][5:] = np.nan
    assert replay_episode.main([str(recorded), "--data_root", str(tmp_path / "new")]) == 1
    assert "episode_001: drawer_pos is not finite (round 0, env 1, step 5)" in capsys.readouterr().err
    (filmed,) = (tmp_path / "new").iterdir()
    assert len(episode_folders(filmed)) == 3 and validate(filmed) == []
    document = json.loads((recorded / "metadata.json").read_text())
    document["arguments"]["num_episodes"] = 2
    (recorded / "metadata.json").write_text(json.dumps(document))
    assert collector.main(["--resume", str(recorded)]) == 0
    assert strictly(recorded / "metadata.json")["episodes"][1]["final_drawer_pos"] is None
