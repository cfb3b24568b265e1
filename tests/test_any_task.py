"""A task that nothing of the project knows goes through every command, by what it declares."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import GPU, collect_dataset

import collect_tiled_with_checkpoint as collector
import replay_episode
import train_policy
import vpl_dataset
import vpl_export
from simulators import SimulatorCfg, load
from vpl.checks import validate
from vpl.columns import Role
from vpl_dataset import episode_folders, load_episode

TASK = "push_block:PushBlock"
SMALL = "--num_envs 2 --num_episodes 1 --steps 12 --enable_wrist_camera --width 48 --height 32".split()


@pytest.fixture(scope="module", params=["mujoco", pytest.param("mujoco_warp", marks=[pytest.mark.gpu, GPU])])
def pushed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the toy task under a checkpoint of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    engine = ["--task", TASK, "--simulator", request.param]
    trained = ["--num_envs", "4", "--max_iterations", "1", "--log_dir", str(folder / "log")]
    assert train_policy.main([*engine, *trained]) == 0
    return collect_dataset(folder / "data", *engine, "--checkpoint", str(folder / "log" / "model_0.pt"), *SMALL)


def test_files_hold_the_tasks_own_columns_and_its_success(pushed):
    assert len(episode_folders(pushed)) == 2 and validate(pushed) == []
    with load_episode(pushed / "episode_000") as episode:
        assert episode.attrs["language_instruction"] == "push the block towards you"
        rule = [episode.attrs[f"success_{name}"] for name in ("metric", "comparison", "threshold")]
        assert rule == ["block_x", "<=", 0.57]
        assert np.array_equal(episode["success"][:], episode["block_x"][:] <= 0.57)
        assert episode.declared["block_x"].role is Role.PRIVILEGED and episode.declared["block_speed"].unit == "m/s"
        assert episode["action"].shape == (12, 7) and "drawer_pos" not in episode.h5


def test_report_statistics_and_exports_go_by_what_is_declared(pushed, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert vpl_dataset.main(["view", str(pushed), "--output", str(page)]) == 0
    assert vpl_dataset.main(["info", str(pushed)]) == vpl_dataset.main(["stats", str(pushed), "--json"]) == 0
    said = capsys.readouterr().out
    assert "success is block_x of at most 0.57 m at the end" in said
    assert {"block_x", "block_speed"} <= json.loads(said[said.index("{") :])["columns"].keys()
    assert "block_speed" in page.read_text()
    for flags, columns in (([], set()), (["--privileged"], {"block_x", "proprio"})):
        out = tmp_path / f"out{len(flags)}.hdf5"
        assert vpl_export.main(["robomimic", str(pushed), "--output", str(out), *flags]) == 0
        with h5py.File(out) as file:
            observed = set(file["data/demo_0/obs"])
            assert {"joint_pos", "joint_effort", "overview_image", "wrist_image"} <= observed
            assert observed & {"block_x", "proprio"} == columns


def test_its_episodes_are_resumed_and_filmed_again(pushed, tmp_path):
    assert collector.main(["--resume", str(pushed)]) == 0
    assert replay_episode.main([str(pushed), "--data_root", str(tmp_path), "--width", "64"]) == 0
    (filmed,) = tmp_path.iterdir()
    assert validate(filmed) == []


def test_both_engines_tell_the_same_of_it():
    cfg = SimulatorCfg(task=TASK, num_envs=2, device="cpu")
    with load("mujoco", cfg) as one, load("mujoco_warp", cfg) as other:
        assert one.columns == other.columns and (one.scene, one.state_spec) == (other.scene, other.state_spec)
        one.reset(3)
        for _ in range(10):
            one.step(torch.zeros(2, 7))
        other.set_state(one.get_state())
        first, second = one.capture(), other.capture()
        for name in first.columns:
            assert first[name] == pytest.approx(second[name], abs=1e-4), name
