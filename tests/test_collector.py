"""The command line: what it refuses, how it ends, and what it leaves."""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import collect_dataset

import collect_tiled_with_checkpoint as collector
import replay_episode
import vpl_dataset
from vpl.checks import validate
from vpl_dataset import episode_folders, load_episode

PROJECT = Path(collector.__file__).parent
FIXTURES = PROJECT / "tests" / "checkpoints"
FAST = "--num_envs 2 --num_episodes 1 --steps 4 --width 32 --height 32"


class RunsCode:
    """Unpickling it would create the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture
def bad_checkpoints(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    whole = (FIXTURES / "rsl_rl_5.5.1_plain.pt").read_bytes()
    (folder / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"weights": torch.zeros(3)}, folder / "foreign.pt")
    torch.save({"model_state_dict": RunsCode(folder / "it_ran"), "iter": 1}, folder / "malicious.pt")
    state = torch.load(FIXTURES / "rsl_rl_5.5.1_plain.pt", weights_only=True)
    state["actor_state_dict"]["mlp.0.weight"] = state["actor_state_dict"]["mlp.0.weight"][:, :30]
    torch.save(state, folder / "wrong_size.pt")
    return {path.stem: path for path in folder.iterdir()} | {"missing": folder / "no.pt"}


def test_activation_and_clipping_are_said_with_where_they_come_from(tmp_path, capsys):
    lone = shutil.copy(FIXTURES / "rsl_rl_5.5.1_plain.pt", tmp_path / "model.pt")
    collect_dataset(tmp_path / "data", *FAST.split(), "--checkpoint", str(lone), "--activation", "torch.nn.ReLU")
    said = "relu: --activation; actions not clipped: assumed, there is no params/agent.yaml beside it"
    assert f"activation  {said}\n" in capsys.readouterr().out
    (dataset,) = (tmp_path / "data").iterdir()
    row = json.loads((dataset / "metadata.json").read_text())["checkpoint"]
    assert (row["activation"], row["clip_actions"], row["settings"]) == ("relu", None, said)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--num_envs 0", ["--num_envs", "0"]),
        ("--num_envs -3", ["--num_envs", "-3"]),
        ("--num_envs many", ["--num_envs", "many"]),
        ("--num_episodes 0", ["--num_episodes", "0"]),
        ("--steps 0", ["--steps", "0"]),
        ("--video_interval 0", ["--video_interval", "0"]),
        ("--width 321", ["--width", "even", "321"]),
        ("--height 0", ["--height", "0"]),
        ("--fps 0", ["--fps", "0"]),
        ("--fps nan", ["--fps", "nan"]),
        ("--seed -1", ["--seed", "-1"]),
        ("--seed 18446744073709551616", ["--seed", "18446744073709551616"]),
        ("--fps 0.0001", ["--fps", "0.0001"]),
        ("--video_interval 61", ["--video_interval", "61", "60"]),
        ("--writer_workers 0", ["--writer_workers", "0"]),
        ("--device cpu:x", ["--device", "cpu:x"]),
        ("--activation snake", ["--activation", "snake", "elu"]),
        ("--clip_actions 0", ["--clip_actions", "0"]),
        ("--clip_actions inf", ["--clip_actions", "none", "inf"]),
        ("--device cuda:99", ["--device", "cuda:99"]),
        ("--robot_name " + "x" * 260, ["--robot_name"]),
        ("--data_root /tmp/" + "x" * 300, ["--data_root"]),
        ("--env_spacing inf", ["--env_spacing", "inf"]),
        (
            "--simulator mujoco_warp",
            ["--simulator mujoco_warp", "NVIDIA GPU", "torch finds none", "--simulator mujoco"],
        ),
        ("--simulator mujoco --samples_per_pixel 4", ["--samples_per_pixel", "mujoco_warp"]),
        ("--simulator mujoco --samples_per_pixel 3", ["--samples_per_pixel", "1, 4, 9 or 16", "got 3"]),
        ("--enable_wrist_camera --wrist_cam_offset nan 0 0", ["--wrist_cam_offset", "nan"]),
        ("--enable_wrist_camera --wrist_cam_look_offset 0.08 0.19 -0.05", ["wrist", "own eye"]),
        ("--overview_cam_eye 0.42 0 0.42", ["overview", "own eye"]),
        ("--overview_cam_eye 0.42 0 3", ["overview", "up direction"]),
        ("--task Isaac-Nonsense-v0", ["--task", "Isaac-Nonsense-v0", "Isaac-Open-Drawer-Franka-v0"]),
        ("--simulator gazebo", ["--simulator", "gazebo", "mujoco"]),
        ("--device tpu", ["--device", "tpu"]),
        ("--robot_name a/b", ["--robot_name", "a/b"]),
        ("--num_env 3", ["--num_env"]),
        ("--checkpoint {missing}", ["--checkpoint", "no.pt", "no such file"]),
        ("--checkpoint {truncated}", ["--checkpoint", "truncated.pt"]),
        ("--checkpoint {foreign}", ["--checkpoint", "foreign.pt", "weights"]),
        ("--checkpoint {malicious}", ["--checkpoint", "malicious.pt", "refused"]),
        ("--checkpoint {wrong_size}", ["--checkpoint", "wrong_size.pt", "30", "31"]),
        (f"--checkpoint {FIXTURES / 'rsl_rl_5.5.1_recurrent.pt'}", ["--checkpoint", "recurrent"]),
        ("--data_root /proc/nowhere", ["--data_root", "/proc"]),
        ("--data_root {foreign}/data", ["--data_root", "not a folder"]),
        ("--num_episodes 1000000000", ["--data_root", "GB free"]),
        ("--num_envs 100000000", ["--num_envs", "open files"]),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2_before_anything_is_written(
    flags, words, bad_checkpoints, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(collector, "load", lambda name: pytest.fail("the simulator was booted"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data_root = tmp_path / "data"
    with pytest.raises(SystemExit) as refusal:
        collector.main(["--data_root", str(data_root), *flags.format(**bad_checkpoints).split()])
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert refusal.value.code == 2
    assert all(word in error for word in words), error
    assert not data_root.exists()
    assert not (tmp_path / "checkpoints" / "it_ran").exists()


def test_colon_in_a_relative_path_is_no_protocol(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset = collect_dataset(Path("a:b"), *FAST.split())
    assert validate(dataset) == []
    episode = str(dataset / "episode_000")
    assert replay_episode.main([episode, "--mode", "actions", "--compare", "c:d.mp4"]) == 0
    assert vpl_dataset.main(["merge", str(dataset), "--output", "e:f"]) == 0
    assert validate(Path("e:f")) == []


def test_dataset_is_named_by_task_origin_robot_and_time(tmp_path, capsys):
    dataset = collect_dataset(tmp_path, *FAST.split(), "--robot_name", "panda")
    assert dataset.name.startswith("Isaac-Open-Drawer-Franka-v0_sim_panda_20")
    assert [folder.name for folder in episode_folders(dataset)] == ["episode_000", "episode_001"]
    output = capsys.readouterr().out
    assert output.splitlines()[0].startswith("simulator   mujoco")
    command = output.splitlines()[-1].removeprefix("next")
    info = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)
    assert "2 episodes" in info.stdout


def test_three_cameras_are_stored_in_the_order_that_the_names_say(tmp_path):
    dataset = collect_dataset(tmp_path, *FAST.split(), "--enable_wrist_camera", "--enable_top_camera")
    with load_episode(dataset / "episode_000") as episode:
        assert episode.camera_names == ["overview", "wrist", "top"]
        assert episode["color"].shape == (4, 3, 32, 32, 3)
        assert all(episode.video(camera).is_file() for camera in range(3))


def test_episode_ends_at_the_time_out_though_more_steps_are_allowed(tmp_path):
    flags = "--num_envs 2 --num_episodes 1 --steps 500 --width 16 --height 16"
    dataset = collect_dataset(tmp_path, *flags.split())
    with load_episode(dataset / "episode_001") as episode:
        assert episode.attrs["num_frames"] == 480
        assert (episode.attrs["terminated"], episode.attrs["truncated"]) == (False, True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_leaves_whole_episodes_only(tmp_path, number, code):
    flags = "--num_envs 2 --num_episodes 1000 --steps 10 --width 64 --height 48"
    command = [sys.executable, str(PROJECT / "collect_tiled_with_checkpoint.py"), *flags.split()]
    process = subprocess.Popen([*command, "--data_root", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/episode_003")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in error
    (dataset,) = tmp_path.iterdir()
    assert not (dataset / ".partial").exists()
    for folder in episode_folders(dataset):
        with load_episode(folder) as episode:
            assert len(episode["color"]) == 10


def test_scripts_run_from_any_folder_without_being_installed(tmp_path):
    for script in ("collect_tiled_with_checkpoint.py", "train_policy.py", "vpl_dataset.py"):
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [sys.executable, str(PROJECT / script), "--help"]
        result = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True)
        assert f"python {script}" in result.stdout and "--help" in result.stdout


def test_nothing_imports_a_script_and_only_simulators_know_mujoco():
    scripts = {"collect_tiled_with_checkpoint", "train_policy"}
    for path in [*PROJECT.glob("*.py"), *PROJECT.glob("simulators/*.py")]:
        tree = ast.walk(ast.parse(path.read_text()))
        imported = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
        tree = ast.walk(ast.parse(path.read_text()))
        imported |= {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module}
        if path.name not in ("evaluate_policy.py", "collect_on_ray.py"):  # they collect, with its loop
            assert not imported & scripts, path
        if path.parent == PROJECT:
            assert not {name for name in imported if name.split(".")[0] in ("mujoco", "isaaclab", "isaacsim")}, path
