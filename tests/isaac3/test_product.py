"""The commands on Isaac Lab 3.0: collect, validate, film again, export, check the machine; and planted faults."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import test_seam
from conftest import BOTH, PROJECT
from planted import functions_run, plant
from test_self_check import AlteredEnv, late, mirrored, misplaced

import collect_tiled_with_checkpoint as collector
import replay_episode
import simulators.isaac as isaac
import vpl_export
from checks.self_check import self_check, table
from policies.rsl_rl import load_policy
from simulators.isaac import lab3, state
from vpl.checks import validate
from vpl.variation import variation_of
from vpl_dataset import episode_folders, load_episode

FLAGS = "--simulator isaac --num_envs 3 --num_episodes 2 --steps 25 --enable_wrist_camera --width 96 --height 72"


def collect(data_root: Path, *flags: str) -> Path:
    """Run the collector in this process; returns the dataset."""
    assert collector.main([*FLAGS.split(), "--data_root", str(data_root), *flags]) == 0
    return max(data_root.iterdir(), key=lambda folder: folder.stat().st_mtime)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of 25 steps, with depth, in which pose and looks vary."""
    return collect(tmp_path_factory.mktemp("data"), "--streams", "color,depth")


def differing(one: Path, other: Path) -> float:
    """The largest share of a picture's pixels in which two datasets of the same motion differ."""
    shares = []
    for folder in episode_folders(one):
        with load_episode(folder) as a, load_episode(other / folder.name) as b:
            shares.append(float((a["color"][:] != b["color"][:]).any(axis=-1).mean(axis=(2, 3)).max()))
    return max(shares)


def test_dataset_is_whole_and_validate_finds_nothing(dataset):
    assert len(episode_folders(dataset)) == 6 and list(validate(dataset)) == []
    with load_episode(episode_folders(dataset)[0]) as episode:
        assert episode["depth"].dtype == np.uint16 and set(variation_of(episode.h5)) == {"pose", "looks"}


def test_recorded_states_are_filmed_again(dataset, tmp_path):
    assert replay_episode.main([str(dataset), "--data_root", str(tmp_path)]) == 0
    (again,) = tmp_path.iterdir()
    assert list(validate(again)) == [] and differing(dataset, again) == 0
    assert replay_episode.main([str(dataset), "--data_root", str(tmp_path / "b"), "--randomize", "looks"]) == 0
    (other,) = (tmp_path / "b").iterdir()
    assert differing(dataset, other) > 0.1


def test_dataset_is_exported(dataset, tmp_path):
    assert vpl_export.main(["robomimic", str(dataset), "--output", str(tmp_path / "robomimic.hdf5")]) == 0
    with h5py.File(tmp_path / "robomimic.hdf5") as file:
        assert len(file["data"]) == 6


def test_noise_and_labels_of_another_policy_are_recorded(tmp_path):
    noisy = collect(tmp_path, "--action_noise", "0.05", "--num_episodes", "1", "--randomize", "none")
    assert list(validate(noisy)) == []
    with load_episode(episode_folders(noisy)[0]) as episode:
        assert not np.array_equal(episode["joint_pos_target"][:], episode["joint_pos_target_executed"][:])


def test_same_command_gives_the_same_bytes_in_two_processes(tmp_path):
    folders = []
    for name in ("a", "b"):
        command = [sys.executable, PROJECT / "collect_tiled_with_checkpoint.py", *FLAGS.split()]
        done = subprocess.run(
            [*command, "--num_episodes", "1", "--data_root", tmp_path / name], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / name).iterdir()
        folders.append(folder)
    for folder in episode_folders(folders[0]):
        with load_episode(folder) as a, load_episode(folders[1] / folder.name) as b:
            for name in a.h5:
                assert np.array_equal(a.h5[name][()], b.h5[name][()]), name


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--streams color,segmentation", "--simulator isaac with newton_warp has no segmentation; give some of"),
        ("--randomize light", "--simulator isaac with newton_warp cannot vary light; give pose,looks"),
        ("--isaac_renderer isaac_rtx", "isaac_rtx runs in Kit, ovphysx does not"),
        ("--isaac_physics isaacsim_physx", "no package 'isaacsim'; install Isaac Sim 6"),
        ("--env_spacing 0", "--env_spacing must be above 0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_boots(flags, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(collector, "load", None)
    with pytest.raises(SystemExit) as refusal:
        collector.main([*FLAGS.split(), "--data_root", str(tmp_path), *flags.split()])
    assert refusal.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("alter", "failing"),
    [
        (lambda sample: sample, []),
        (lambda sample, previous=[]: late(sample, previous), ["lag"]),
        (misplaced, ["calibration wrist"]),
        (mirrored, ["calibration overview", "calibration wrist"]),
    ],
    ids=["sound", "late", "misplaced", "mirrored"],
)
def test_self_check_fails_where_something_is_wrong_and_nowhere_else(make_env, alter, failing, tmp_path):
    policy = load_policy(PROJECT / "checkpoints" / "open_drawer_physx" / "model.pt", 31, 8)
    checks = self_check(AlteredEnv(make_env(num_envs=2, cameras=BOTH), alter), policy, tmp_path / "sheet.png")
    print(table(checks))
    assert [check.name for check in checks if not check.passed] == failing


def check_pictures(make_env: Callable, tmp_path: Path) -> None:
    env = make_env(num_envs=2, cameras=BOTH)
    env.reset(4)
    test_seam.roll(env, 15)
    sample = env.capture(["color"])
    env.reset(5)
    env.capture(["color"])
    env.set_state(sample["sim_state"])
    assert np.array_equal(env.capture(["color"])["color"], sample["color"])


def check_rows(make_env: Callable, tmp_path: Path) -> None:
    dataset = collect(tmp_path, "--num_episodes", "1")
    assert list(validate(dataset)) == []
    assert replay_episode.main([str(dataset), "--data_root", str(tmp_path / "again")]) == 0
    (again,) = (tmp_path / "again").iterdir()
    assert differing(dataset, again) == 0


def of_seam(name: str) -> Callable[[Callable, Path], None]:
    return lambda make_env, tmp_path: getattr(test_seam, name)(make_env)


STARTS = of_seam("test_a_round_starts_as_in_mujoco_whatever_the_number_of_envs")
OWN = of_seam("test_own_definition_of_release_3_has_its_targets_and_their_inverse")
FAULTS = {
    "capture after step": (
        collector,
        "sample = sample or finish_capture()",
        "sample = env.capture(saver.cfg.streams)",
        check_rows,
    ),
    "camera's first pose": (lab3, "update_latest_camera_pose=True", "update_latest_camera_pose=False", check_pictures),
    "drives left at a set state": (
        lab3,
        "asset.set_joint_position_target_index(target=position)",
        "pass",
        of_seam("test_drives_do_not_aim_at_a_state_that_was_set"),
    ),
    "view instead of copy": (
        isaac,
        "return host.copy_(tensor, non_blocking=True)",
        "return tensor",
        of_seam("test_samples_are_copies"),
    ),
    "w, x, y, z stored": (lab3, "return quat *", "return quat[:, [3, 0, 1, 2]] *", STARTS),
    "env origin not subtracted": (
        isaac,
        "place[:, self._tool_index] - self._env.scene.env_origins",
        "place[:, self._tool_index]",
        STARTS,
    ),
    "finger as end effector": (isaac, '("ee_tcp", "end_effector")', '("tool_leftfinger",)', STARTS),
    "things where they always are": (lab3, "self._placement.draw(seed)", "pass", STARTS),
    "effort of the last episode": (
        isaac,
        "self.episode_length_buf == 0",
        "self.episode_length_buf < 0",
        of_seam("test_effort_at_an_episodes_start_is_none_of_the_last_episodes"),
    ),
    "diverged env goes on": (
        isaac,
        "if left.any():",
        "if False:",
        of_seam("test_env_that_diverged_is_reported_and_starts_anew"),
    ),
    "colours as authored": (
        lab3,
        "self._colors.put(",
        "list(",
        of_seam("test_looks_change_colours_and_not_the_motion"),
    ),
    "average not in the state": (state, "*previous_targets(env.action_manager), ", "", OWN),
    "Newton's frames of the last episode": (
        lab3,
        "frames.update(NewtonManager.backend.state_0)",
        "pass",
        of_seam("test_newton_begins_with_the_observation_of_its_own_episode"),
    ),
}
"""Name: the module, what is replaced in its source, by what, and the check that must fail."""


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault, make_env, tmp_path, monkeypatch):
    altered, right, wrong, check = FAULTS[fault]
    plant(monkeypatch, altered, right, wrong)
    with pytest.raises(AssertionError) as failure:
        check(make_env, tmp_path)
    print(f"{fault}: {failure.value}")


def test_how_much_of_isaac_lab_this_goes_through(tmp_path, capsys):
    with functions_run("/site-packages/isaaclab", capsys) as names:
        collect(tmp_path, "--num_episodes", "1")
    assert {"ManagerBasedRLEnv.step", "Camera._update_buffers_impl", "NewtonWarpRenderer.render"} <= names
