"""Our Isaac Lab simulator against Isaac Lab's real code: run by tests/test_isaac.py in an environment of its own.

    ISAAC_SITE=<folder with the wheel's files> python -m pytest tests/isaac/contract.py

AppLauncher, configurations, managers, ManagerBasedRLEnv, articulations and tiled cameras are Isaac Lab's; Kit (kit.py),
physics and the renderer (world.py) are stand-ins. What this cannot show is what RTX draws: --self_check does, there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from started import HERE, PROJECT, REACH, TASK

# isort: split
import gymnasium
import kit
import numpy as np
import pixels
import seam
import torch
import world
from isaaclab.managers import TerminationTermCfg
from isaaclab.utils import configclass
from isaaclab.utils.math import matrix_from_quat
from isaaclab_tasks.manager_based.manipulation.cabinet.config.franka.joint_pos_env_cfg import FrankaCabinetEnvCfg
from planted import functions_run, plant

import collect_tiled_with_checkpoint as collector
import simulators.isaac as isaac
from flags.collect import SHIPPED_CHECKPOINT
from policies.rsl_rl import load_policy
from simulators.cameras import HAND_R_GRIPPER, CameraCfg
from simulators.isaac import lab2
from vpl.checks import validate
from vpl_dataset import Episode, iter_episodes

FLAGS = "--simulator isaac --device cpu --num_envs 4 --steps 24 --enable_wrist_camera --headless --width 64 --height 48"
EARLY = "Early-Open-Drawer-Franka-v0"
DEFAULT_JOINT_POS = [0.0, -0.569, 0.0, -2.810, 0.0, 3.037, 0.741]  # isaaclab_assets/robots/franka.py
TCP_OFFSET = 0.1034


def drawer_passes(env, threshold: float):
    return env.scene["cabinet"].data.joint_pos[:, 3] > threshold


@configclass
class EarlyCfg(FrankaCabinetEnvCfg):
    """The task, ended for an env as soon as its drawer is open: at a different step in each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.terminations.opened = TerminationTermCfg(func=drawer_passes, params={"threshold": 0.1})


gymnasium.register(
    EARLY,
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={**gymnasium.spec(TASK).kwargs, "env_cfg_entry_point": EarlyCfg},
)


def closing_checkpoint() -> Path:
    """The shipped policy with its gripper closed, which is what opens drawers in this world."""
    checkpoint = torch.load(SHIPPED_CHECKPOINT, map_location="cpu", weights_only=True)
    actor = checkpoint["actor_state_dict"]
    actor["mlp.6.weight"][7], actor["mlp.6.bias"][7] = 0.0, -1.0
    path = Path(tempfile.mkdtemp()) / "closing.pt"
    torch.save(checkpoint, path)
    return path


CLOSING = closing_checkpoint()


def collect(data_root: Path, *flags: str) -> Path:
    """Run the collector; returns the dataset."""
    if "--checkpoint" not in flags:
        flags = (*flags, "--checkpoint", str(CLOSING))
    sys.argv = ["collect_tiled_with_checkpoint.py", *FLAGS.split(), *flags]  # as a shell would; Kit reads it
    assert collector.main(["--data_root", str(data_root), *sys.argv[1:]]) == 0
    return max(data_root.iterdir(), key=lambda folder: folder.stat().st_mtime)


MADE_UP = re.compile("jumps by more than joint_vel allows|off the tool of joint_pos|does not change where the tool")
"""What validate says of a world whose joints go anywhere in a step, whose hand hangs on no arm and shows nowhere."""


def problems(dataset: Path) -> Iterator[str]:
    """Everything that is not as the renderer's numbers say, and actions that are not the policy's answer to the row."""
    yield from (str(problem) for problem in validate(dataset) if not MADE_UP.search(problem.reason))
    policy = load_policy(json.loads((dataset / "metadata.json").read_text())["checkpoint"]["path"], None, None)
    for episode in iter_episodes(dataset):
        answer = policy(torch.from_numpy(episode["proprio"][:])).numpy()
        if not np.allclose(answer, episode["action"][:], rtol=1e-3, atol=1e-3):
            yield f"{episode.folder.name}: the actions are not the policy's answers to the observations"
        for row in range(len(episode["color"])):
            yield from (f"{episode.folder.name} row {row}: {problem}" for problem in row_problems(episode, row))


def row_problems(episode: Episode, row: int) -> Iterator[str]:
    for camera, picture in enumerate(episode["color"][row]):
        numbers = pixels.decode(picture)
        env, joint_pos, joint_vel, drawer, hand = np.split(numbers, [1, 10, 16, 17])
        if env != episode.attrs["env_index"] or (picture[-1, -1, 0] == 150) != (camera == 1):
            yield f"camera {camera} shows env {env}"
        if not (np.array_equal(joint_pos, episode["joint_pos"][row]) and joint_pos[0] == state(episode, row)[0]):
            yield f"camera {camera} shows other joint positions"
        if not np.array_equal(joint_vel, episode["joint_vel"][row, :6]):
            yield f"camera {camera} shows other joint speeds"
        if "drawer_pos" in episode.h5 and drawer != episode["drawer_pos"][row]:
            yield f"camera {camera} shows another drawer"
    pose = np.eye(4)
    pose[:3, :3] = matrix_from_quat(torch.from_numpy(hand[3:].astype(np.float64))).numpy()
    pose[:3, 3] = hand[:3]
    if not np.allclose(episode["extrinsics"][row, 1], pose @ wrist_mount(), atol=1e-5):
        yield "the wrist camera is elsewhere"
    if "ee_position" in episode.h5:
        if not np.allclose(episode["ee_position"][row], (pose @ [0, 0, TCP_OFFSET, 1])[:3], atol=1e-5):
            yield "the tool centre point is elsewhere"
        x, y, z, w = episode["ee_rotation"][row].astype(np.float64)
        if not np.allclose(matrix_from_quat(torch.tensor([w, x, y, z])).numpy(), pose[:3, :3], atol=1e-5):
            yield "the tool is turned otherwise"
        action, target = episode["action"][row], episode["joint_pos_target"][row]
        asked = [*(action[:7] + np.float32(DEFAULT_JOINT_POS)), *[0.0 if action[7] < 0 else 0.04] * 2]
        if not np.allclose(target, asked, rtol=1e-5, atol=1e-6):
            yield "the drives were asked for something else"


def state(episode: Episode, row: int) -> np.ndarray:
    """The robot's joint positions in `sim_state`."""
    start = 0
    for part in episode["sim_state"].attrs["spec"].split(", "):
        name, width = part[:-1].split("[")
        if name == "articulation/robot/joint_position":
            return episode["sim_state"][row, start : start + int(width)].astype(np.float32)
        start += int(width)
    raise KeyError(name)


def wrist_mount() -> np.ndarray:
    """The wrist camera's default pose in the hand's frame."""
    camera = CameraCfg("wrist", (0.08, 0.19, -0.05), (0.0, -0.02, 0.08), frame="gripper")
    mount = camera.pose
    mount[:3] = HAND_R_GRIPPER @ mount[:3]
    return mount


def test_pictures_states_and_calibration_of_every_row_belong_together(tmp_path):
    dataset = collect(tmp_path, "--num_episodes", "3")
    assert list(problems(dataset)) == []
    lengths = [episode.attrs["num_frames"] for episode in iter_episodes(dataset)]
    assert lengths == [24] * 12


def test_rounds_in_which_single_envs_reset_early(tmp_path):
    dataset = collect(tmp_path, "--num_episodes", "2", "--task", EARLY)
    assert list(problems(dataset)) == []
    rows = [episode.attrs for episode in iter_episodes(dataset)]
    assert len({row["num_frames"] for row in rows}) > 2, "the envs end together: nothing was tested"
    assert all(row["terminated"] != row["truncated"] for row in rows)


def test_task_without_a_drawer_records_what_it_has_and_invents_nothing(tmp_path, capfd):
    checkpoint = tmp_path / "reach.pt"
    layers = {"actor.0.weight": torch.zeros(8, 32), "actor.0.bias": torch.zeros(8)}
    layers |= {"actor.2.weight": torch.zeros(7, 8), "actor.2.bias": torch.zeros(7), "std": torch.ones(7)}
    torch.save({"model_state_dict": layers, "optimizer_state_dict": {}, "iter": 1, "infos": None}, checkpoint)
    dataset = collect(tmp_path / "data", "--num_episodes", "1", "--task", REACH, "--checkpoint", str(checkpoint))
    assert list(problems(dataset)) == []
    for episode in iter_episodes(dataset):
        assert "success" not in episode.attrs and "drawer_pos" not in episode.h5
    absent = ["ee_position", "ee_rotation", "success"]
    assert json.loads((dataset / "metadata.json").read_text())["not_recorded"] == absent
    fitting = ["--checkpoint", str(checkpoint), "--only_success"]
    for flags, words in (([], "31 observations"), (fitting, "no measure of success")):
        with pytest.raises(SystemExit) as refusal:
            collector.main([*FLAGS.split(), "--task", REACH, "--data_root", str(tmp_path), *flags])
        assert refusal.value.code == 2 and words in capfd.readouterr().err


def test_checkpoint_of_rsl_rl_2_runs(tmp_path):
    checkpoint = next((PROJECT / "tests" / "checkpoints").glob("rsl_rl_2.3*.pt"))
    assert list(problems(collect(tmp_path, "--num_episodes", "1", "--checkpoint", str(checkpoint)))) == []


def test_only_what_is_meant_for_kit_reaches_it(tmp_path):
    collect(tmp_path, "--num_episodes", "1", "--kit_args", "--/log/level=error --x", "--rendering_mode", "quality")
    config, argv = kit.SimulationApp.started[-1]
    assert not {"width", "height", "window_width", "window_height"} & set(config)
    assert argv[1:] == ["--/log/level=error", "--x"]
    assert config["headless"] is True and kit.settings["/isaaclab/cameras_enabled"]
    assert kit.settings["/isaaclab/rendering/rendering_mode"] == "quality"


def test_self_check_runs_to_its_end(tmp_path, capfd):
    """Its verdicts on calibration mean nothing here: the pictures are numbers."""
    collector.main([*FLAGS.split(), "--self_check", "--data_root", str(tmp_path)])
    lines = capfd.readouterr().out.splitlines()  # AppLauncher goes around sys.stdout
    for name in ("renderer", "encoder", "lag"):
        assert any(line.startswith(f"ok    {name} ") for line in lines), name
    assert any("calibration wrist" in line for line in lines) and list(tmp_path.glob("self_check_*.png"))


def test_self_check_finds_a_late_renderer(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(world.World, "late", True)
    assert collector.main([*FLAGS.split(), "--self_check", "--data_root", str(tmp_path)]) == 1
    assert any(line.startswith("FAIL  lag ") for line in capfd.readouterr().out.splitlines())


@pytest.mark.parametrize(("name", "words"), [("ENABLE_CAMERAS", "true"), ("HEADLESS", "yes"), ("LIVESTREAM", "3")])
def test_environment_variables_that_kit_would_choke_on_are_refused(name, words, monkeypatch, capsys):
    monkeypatch.setenv(name, words)
    with pytest.raises(SystemExit) as refusal:
        collector.main(FLAGS.split())
    assert refusal.value.code == 2 and name in capsys.readouterr().err


def check_rows(data_root: Path) -> None:
    assert list(problems(collect(data_root, "--num_episodes", "2", "--task", EARLY))) == []


def check_launch(data_root: Path) -> None:
    test_only_what_is_meant_for_kit_reaches_it(data_root)


def check_state(_data_root: Path) -> None:
    seam.test_state_that_is_set_shows_in_the_next_picture()


def check_divergence(_data_root: Path) -> None:
    seam.test_env_that_diverged_is_reported_and_starts_anew("physics")
    seam.test_env_that_diverged_in_its_last_step_is_reported_too()


def check_effort(_data_root: Path) -> None:
    seam.test_effort_at_an_episodes_start_is_none_of_the_last_episodes()


def check_columns(_data_root: Path) -> None:
    seam.test_columns_are_what_capture_and_step_deliver(TASK)


SENSOR_POSES = (
    "torch.stack([torch.cat([torch.cat([self._mounts[i, :3, :3].repeat(self.num_envs, 1, 1), (self._sensors[i].data."
    "pos_w - self._env.scene.env_origins)[:, :, None]], 2), self._mounts[i, 3:].repeat(self.num_envs, 1, 1)], 1) "
    "for i in self._on_hand], 1)"
)
START = """
import runpy, sys
sys.path.insert(0, {here!r})
import started, isaacsim, world
{before}
sys.argv = ["collect_tiled_with_checkpoint.py", *{flags!r}]
runpy.run_path({project!r} + "/collect_tiled_with_checkpoint.py", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("before", "flags", "code", "last_line"),
    [
        ("", "--num_episodes 1", 0, ""),
        ("", "--task Isaac-Nonsense-v0", 1, "error: --task 'Isaac-Nonsense-v0' is not registered"),
        ("", "--num_envs 0", 2, "--num_envs must be at least 1"),
        ("world.World.step = lambda *a, **k: 1 / 0", "", 1, "ZeroDivisionError"),
        ("import os, signal; world.World.step = lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM)", "", 143, ""),
    ],
)
def test_exit_status_tells_the_truth_in_spite_of_kits_fast_shutdown(before, flags, code, last_line, tmp_path):
    words = [*FLAGS.split(), "--data_root", str(tmp_path), *flags.split()]
    program = START.format(here=str(HERE), project=str(PROJECT), before=before, flags=words)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert last_line in (done.stderr.strip().splitlines() or [""])[-1]


FAULTS = {
    "capture after step": (
        collector,
        "sample = sample or finish_capture()",
        "sample = env.capture(saver.cfg.streams)",
        check_rows,
    ),
    "no re-render after reset": (isaac, "self._options.rerenders if self._stale", "0 if self._stale", check_rows),
    "drives left at a set state": (lab2, "asset.set_joint_position_target(position)", "pass", check_state),
    "buffer not refreshed": (isaac, "sensor.update(0.0, force_recompute=True)  #", "pass  #", check_state),
    "view instead of copy": (isaac, "return host.copy_(tensor, non_blocking=True)", "return tensor", check_rows),
    "camera's own pose": (
        isaac,
        "self._hand_poses()[:, None] @ self._mounts[self._on_hand]",
        SENSOR_POSES,
        check_rows,
    ),
    "w, x, y, z stored": (lab2, "[:, [1, 2, 3, 0]]", "", check_rows),
    "env origin not subtracted": (
        isaac,
        "self._tool_index] - self._env.scene.env_origins",
        "self._tool_index]",
        check_rows,
    ),
    "finger as end effector": (isaac, '("ee_tcp", "end_effector")', '("tool_leftfinger",)', check_rows),
    "column of another type": (isaac, '"extrinsics": self._extrinsics()', '"extrinsics": self._mounts', check_columns),
    "effort of the last episode": (isaac, "self.episode_length_buf == 0", "self.episode_length_buf < 0", check_effort),
    "diverged env goes on": (isaac, "if left.any():", "if False:", check_divergence),
    "only the observation diverges": (isaac, "reward[:, None], ", "", check_divergence),
    "temporal anti-aliasing": (lab2, 'ANTI_ALIASING = "FXAA"', 'ANTI_ALIASING = "DLAA"', check_rows),
    "own --width leaked": (lab2, "AppLauncher(flags)", "AppLauncher({**flags, 'width': 64})", check_launch),
    "own command line leaked": (lab2, "sys.argv[1:] = []", "pass", check_launch),
}
"""Name: the module, what is replaced in its source, by what, and the check that must fail."""


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault, tmp_path, monkeypatch):
    altered, right, wrong, check = FAULTS[fault]
    plant(monkeypatch, altered, right, wrong)
    with pytest.raises(AssertionError) as failure:
        check(tmp_path)
    print(f"{fault}: {failure.value}")


def test_how_much_of_isaac_lab_this_goes_through(tmp_path, capsys):
    with functions_run("/isaaclab/source/isaaclab", capsys) as names:
        collect(tmp_path, "--num_episodes", "2", "--task", EARLY)
    for name in (
        "ManagerBasedRLEnv.step",
        "TiledCamera._update_buffers_impl",
        "AppLauncher.__init__",
        "Articulation.write_joint_position_to_sim",
        "ObservationManager.compute_group",
    ):
        assert name in names
