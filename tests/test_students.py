"""From demonstrations to a student that drives: evaluation, relabelling, and what a student may know."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BOTH, TASK, collect_dataset
from torch import nn

import collect_tiled_with_checkpoint as collector
import evaluate_policy
from evaluate_policy import wilson
from flags.collect import SHIPPED_CHECKPOINT
from policies import PolicyError
from policies.kinds import load as load_policy
from policies.rsl_rl import load_policy as load_checkpoint
from policies.visuomotor import Student, StudentCfg, StudentNet, save_student
from simulators import SimulatorCfg, load
from vpl.checks import validate
from vpl_dataset import episode_folders, load_episode

PROJECT = Path(collector.__file__).parent
SHIPPED_STUDENT = PROJECT / "checkpoints" / "open_drawer_student" / "student.pt"
TINY = ("--width", "48", "--height", "32")


def evaluated(tmp_path: Path, *flags: str) -> list[dict]:
    output = tmp_path / "results.json"
    assert evaluate_policy.main(["--simulator", "mujoco", "--output", str(output), *flags]) == 0
    return json.loads(output.read_text())


def test_chain_from_demonstrations_to_an_evaluated_student(tmp_path):
    """It is a smoke test: a student that opens drawers takes minutes of a GPU, see checkpoints/open_drawer_student."""
    data = collect_dataset(tmp_path / "data", "--num_envs", "50", "--num_episodes", "2", "--steps", "30", *TINY)
    output = tmp_path / "student"
    command = [sys.executable, PROJECT / "examples" / "train_student.py", data, "--output", output, "--with_failures"]
    done = subprocess.run([*command, "--iterations", "100", "--batch", "32"], capture_output=True, text=True)
    assert done.returncode == 0 and "100 episodes" in done.stdout, done.stderr
    stored = torch.load(output / "student.pt", weights_only=True)
    (_, first), *_, (last_iteration, last) = stored["about"]["losses"]
    assert last_iteration == 100 and last < 0.8 * first
    policy = ("--policy", f"student:{output / 'student.pt'}", "--num_scenes", "20", "--num_envs", "20", "--steps", "40")
    (result,) = evaluated(tmp_path, *policy)
    assert result["scenes"] == 20 and 0 <= result["interval"][0] <= result["successes"] / 20 <= result["interval"][1]


def test_seeds_that_a_student_was_trained_on_are_no_unseen_scenes(capsys):
    with pytest.raises(SystemExit) as error:
        evaluate_policy.main(["--policy", f"student:{SHIPPED_STUDENT}", "--seed", "42"])
    assert error.value.code == 2 and "was trained on scenes of the seeds [42]" in capsys.readouterr().err


def test_shipped_student_opens_drawers_and_a_blind_one_none(tmp_path):
    policy = ("--policy", f"student:{SHIPPED_STUDENT}", "--num_scenes", "6", "--num_envs", "6", "--steps", "90")
    (seeing,) = evaluated(tmp_path, *policy)
    (tmp_path / "results.json").unlink()
    (blind,) = evaluated(tmp_path, *policy, "--blind")
    assert seeing["successes"] >= 4 and blind["successes"] <= 1  # of 6: 94 % and 0 % of many
    assert blind["blind"] and blind["about"]["blind"]


def test_expert_and_chance_are_the_ends_of_the_scale(tmp_path):
    flags = ("--policy", f"rsl_rl:{SHIPPED_CHECKPOINT}", "--policy", "random", "--num_scenes", "20", "--num_envs", "10")
    expert, chance = evaluated(tmp_path, *flags, "--chart", str(tmp_path / "chart.png"))
    assert expert["successes"] >= 19 and 0.5 < expert["median_s"] < 1.5
    assert chance["successes"] == 0 and chance["median_s"] is None
    assert (tmp_path / "chart.png").stat().st_size > 5000


def test_rollouts_are_recorded_as_an_ordinary_dataset(tmp_path, capsys):
    flags = ("--num_scenes", "4", "--num_envs", "2", "--record", str(tmp_path / "data"), *TINY)
    (result,) = evaluated(tmp_path, "--policy", f"rsl_rl:{SHIPPED_CHECKPOINT}", *flags)
    (dataset,) = (tmp_path / "data").iterdir()
    assert validate(dataset) == []
    rows = json.loads((dataset / "metadata.json").read_text())["episodes"]
    with pytest.raises(SystemExit):
        collector.main(["--resume", str(dataset)])
    assert "rollouts of evaluate_policy.py; evaluate again" in capsys.readouterr().err
    assert [row["success"] for row in rows].count(True) == result["successes"] and len(rows) == 4


def test_student_drives_and_the_expert_labels(tmp_path, capsys):
    """A round of DAgger (Ross et al., 2011): the student's states, the expert's actions."""
    driven = ("--policy", f"student:{SHIPPED_STUDENT}", "--relabel_with", str(SHIPPED_CHECKPOINT))
    size = ("--enable_wrist_camera", "--width", "128", "--height", "96", "--num_envs", "2", "--num_episodes", "1")
    dataset = collect_dataset(tmp_path / "data", *driven, *size, "--steps", "12")
    assert validate(dataset) == []
    expert = load_checkpoint(SHIPPED_CHECKPOINT, 31, 8)
    with load_episode(dataset / "episode_001") as episode:
        labels = expert(torch.from_numpy(episode["proprio"][:])).numpy()
        assert np.allclose(episode["action"][:], labels, atol=1e-5)
        assert not np.allclose(episode["action_executed"][:], labels, atol=0.01)
        assert np.array_equal(episode["proprio"][1:, 23:], episode["action_executed"][:-1])
    with pytest.raises(SystemExit):  # another labeller than the dataset's
        collector.main(["--resume", str(dataset), "--clip_actions", "1"])
    assert "--relabel_with" in capsys.readouterr().err
    assert collector.main(["--resume", str(dataset), "--num_episodes", "2"]) == 0
    assert validate(dataset) == [] and len(episode_folders(dataset)) == 4
    metadata = json.loads((dataset / "metadata.json").read_text())
    assert metadata["checkpoint"]["path"] == driven[1]
    assert metadata["checkpoint"]["relabelled_with"]["sha256"] == expert.sha256


CFG = StudentCfg(cameras=(), height=32, width=48, state={"joint_pos": 9}, joints=9, horizon=3)


@pytest.mark.parametrize(
    "cfg, reason",
    [
        (replace(CFG, state={"joint_pos": 9, "drawer_pos": 1}), "drawer_pos, which is privileged"),
        (replace(CFG, state={"proprio": 31}), "proprio, which is privileged"),
        (replace(CFG, state={"tactile": 9}), "tactile, which is missing"),
        (replace(CFG, state={"joint_pos": 7}), "joint_pos of 7 numbers"),
        (replace(CFG, joints=7), "7 joint targets"),
        (replace(CFG, cameras=({**asdict(BOTH[0]), "eye": [1.0, 1.0, 1.0]},)), "overview is missing or elsewhere"),
    ],
)
def test_student_that_knows_what_a_robot_does_not_or_fits_not_is_refused(cfg, reason):
    with load("mujoco", SimulatorCfg(TASK, 1, BOTH)) as env, pytest.raises(PolicyError, match=reason):
        Student(StudentNet(cfg), cfg, {}).bind(env)


def test_training_on_what_a_robot_does_not_feel_is_refused(dataset, tmp_path):
    command = [sys.executable, PROJECT / "examples" / "train_student.py", dataset, "--output", tmp_path / "x"]
    done = subprocess.run([*command, "--state", "joint_pos,drawer_pos"], capture_output=True, text=True)
    assert done.returncode == 2 and "drawer_pos is not something that a robot feels" in done.stderr


class Still(nn.Module):
    """Answers with the joint positions that it feels, three times."""

    def forward(self, color: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return state[:, None].repeat(1, 3, 1)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_network_of_ones_own_drives_through_torchscript_and_looks_every_third_step(tmp_path):
    path = tmp_path / "still.pt"
    cfg = replace(CFG, execute=3, cameras=(asdict(BOTH[0]),))
    torch.jit.save(torch.jit.script(Still()), str(path), {"student.json": json.dumps(asdict(cfg))})
    policy = load_policy(f"torchscript:{path}")
    with load("mujoco", SimulatorCfg(TASK, 2, BOTH)) as env:
        obs, needed = env.reset(3), []
        policy.bind(env).reset(torch.arange(2))
        for _ in range(6):
            needed.append(bool(policy.needs))
            sample = env.capture(policy.needs)
            start = sample["joint_pos"] if needed[-1] else start  # noqa: F821
            obs, _, _, extras = env.step(policy.act(sample, obs))
            assert np.allclose(extras["joint_pos_target"][:, :7], start[:, :7], atol=1e-5)
    assert needed == [True, False, False, True, False, False]


def test_checkpoint_gives_back_the_same_student(tmp_path):
    net = StudentNet(replace(CFG, cameras=(asdict(BOTH[0]),)))
    save_student(tmp_path / "a.pt", net, {"seeds": [3]})
    student = load_policy(f"student:{tmp_path / 'a.pt'}")
    color, state = torch.rand(2, 1, 3, 32, 48), torch.rand(2, 9)
    with torch.inference_mode():
        assert torch.allclose(student.net(color, state), net.eval()(color, state), atol=0.01)
    assert student.describe()["seeds"] == [3]


@pytest.mark.parametrize(
    "spec, reason",
    [
        ("student:nowhere.pt", "nowhere.pt cannot be read: No such file"),
        (f"student:{SHIPPED_CHECKPOINT}", "is not a 'isaac-data-gen student 1'"),
        (f"student:{__file__}", "is no checkpoint of torch"),
        (f"torchscript:{SHIPPED_STUDENT}", "has no network and student.json"),
        ("rsl_rl:nowhere.pt", "nowhere.pt"),
        ("lerobot:nowhere", "has no model.safetensors"),
        ("something", "'something' names no policy; give rsl_rl:"),
        ("math:pi", "'math:pi' is not a function"),
        (":x", "Python finds no such function"),
        ("no_such_module:make", "Python finds no such function"),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_policies_that_are_none_are_one_line(spec, reason, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        evaluate_policy.main(["--policy", spec])
    said = capsys.readouterr().err
    assert error.value.code == 2 and reason in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "flags, reason",
    [
        (("--execute", "13"), "--execute 13: --policy student:"),
        (("--chart", "chart.doc"), "must end in .png"),
        (("--num_scenes", "150"), "no multiple of --num_envs"),
    ],
)
def test_evaluations_that_cannot_be_are_refused(flags, reason, capsys):
    with pytest.raises(SystemExit) as error:
        evaluate_policy.main(["--policy", f"student:{SHIPPED_STUDENT}", *flags])
    assert error.value.code == 2 and reason in capsys.readouterr().err


def test_student_without_cameras_drives(tmp_path):
    save_student(tmp_path / "felt.pt", StudentNet(CFG), {"seeds": []})
    (result,) = evaluated(
        tmp_path, "--policy", f"student:{tmp_path / 'felt.pt'}", "--num_scenes", "2", "--num_envs", "2"
    )
    assert result["scenes"] == 2


def test_interval_is_wilsons():
    assert np.allclose(wilson(90, 100), (0.8256, 0.9448), atol=1e-4)
    assert np.allclose((wilson(0, 100)[0], wilson(100, 100)[1]), (0, 1))


def test_images_are_read_past_hdf5_as_they_are_stored(dataset):
    for folder in episode_folders(dataset)[:2]:
        with load_episode(folder) as episode:
            assert np.array_equal(episode.read_images(), episode["color"][:])
            videos = episode.read_videos()
            assert videos.shape == episode["color"].shape
            assert np.abs(videos.astype(int) - episode["color"][:]).mean() < 5
