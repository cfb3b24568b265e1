"""What simulators/__init__.py promises of a simulator, asked of Isaac Lab's real code; run as contract.py is."""

from __future__ import annotations

import json
import signal

import pytest
from started import REACH, TASK

# isort: split
import numpy as np
import pixels
import torch
import world
from isaaclab_tasks.utils.parse_cfg import parse_env_cfg

from simulators import CameraEnv, SimulatorCfg, SimulatorError, load
from simulators.cameras import CameraCfg
from simulators.isaac import lab2

OVERVIEW = CameraCfg("overview", (-0.92, 1.22, 1.28), (0.42, 0, 0.42), width=64, height=48)
WRIST = CameraCfg("wrist", (-0.05, 0, 0.08), (0.25, 0, 0), frame="gripper", width=64, height=48)


def start(task: str = TASK) -> CameraEnv:
    return load("isaac", SimulatorCfg(task=task, num_envs=4, cameras=(OVERVIEW, WRIST)))


@pytest.mark.parametrize("task", [TASK, REACH])
def test_columns_are_what_capture_and_step_deliver(task):
    with start(task) as env:
        sample = env.capture(env.streams)
        action = torch.zeros(4, env.num_actions)
        observations, reward, dones, extras = env.step(action)
        absent = {"ee_position", "ee_rotation", "drawer_pos", "success"} if task == REACH else set()
        assert absent.isdisjoint(env.columns) and len(env.columns) == 13 - len(absent)
        of_step = {"action": action, "joint_pos_target": extras["joint_pos_target"], "reward": reward}
        rows = {**sample.columns, **{name: tensor.numpy() for name, tensor in of_step.items()}}
        assert rows.keys() == env.columns.keys()
        for name, column in env.columns.items():
            assert (rows[name].shape, rows[name].dtype) == ((4, *column.shape), column.dtype), name
        assert {name: images.shape for name, images in sample.images.items()} == {"color": (4, 2, 48, 64, 3)}
        assert sample["color"].dtype == env.streams["color"].dtype and env.capture().images == {}
        assert observations["policy"].shape == (4, env.task.num_obs) == (4, sum(env.obs_terms.values()))
        for flags in (dones, extras["time_outs"], extras["diverged"]):
            assert (flags.shape, flags.dtype) == ((4,), torch.bool)
        json.dumps([env.episode_info(), env.describe()])


def test_success_is_the_rule_on_its_column():
    with start() as env:
        for _ in range(40):
            env.step(-torch.ones(4, 8))  # a closed gripper: the drawers open, each at its own speed
        sample, rule = env.capture(), env.task.success_rule
        assert np.array_equal(sample["success"], sample[rule.column] >= 0.30) and len(set(sample["success"])) == 2
        assert np.array_equal(env.succeeded().numpy(), sample["success"])


def test_action_for_target_is_the_inverse_of_the_target_of_an_action():
    with start() as env:
        action = 0.1 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
        action[:, 7] = action[:, 7].sign()
        *_, extras = env.step(action)
        assert torch.allclose(env.action_for_target(extras["joint_pos_target"]), action, atol=1e-6)


def test_effort_at_an_episodes_start_is_none_of_the_last_episodes():
    with start() as env:
        env.step(torch.ones(4, 8))
        moved = env.capture()["joint_effort"]
        env.reset(1)
        assert moved.any(axis=1).all() and not env.capture()["joint_effort"].any()


@pytest.mark.parametrize("cause", ["physics", "action"])
def test_env_that_diverged_is_reported_and_starts_anew(cause):
    with start() as env:
        env.step(torch.zeros(4, 8))
        action = torch.zeros(4, 8)
        if cause == "action":
            action[2, 3] = torch.inf
        else:
            world.World.instance().joint_vel["robot"][2] = torch.nan
            world.World.instance().joint_pos["robot"][2] = torch.nan
        observations, reward, dones, extras = env.step(action)
        assert extras["diverged"].tolist() == dones.tolist() == [False, False, True, False]
        assert not extras["time_outs"].any() and env.episode_length_buf.tolist() == [2, 2, 0, 2]
        sample = env.capture(["color"])
        numbers = (reward.numpy(), observations["policy"].numpy(), *sample.columns.values())
        assert all(np.isfinite(part).all() for part in numbers)
        assert np.array_equal(pixels.decode(sample["color"][2, 0])[1:10], sample["joint_pos"][2])
        *_, dones, extras = env.step(torch.zeros(4, 8))
        assert not dones.any() and not extras["diverged"].any()


def test_env_that_diverged_in_its_last_step_is_reported_too():
    """Isaac Lab has reset it already: nothing but the reward tells."""
    with start() as env:
        env.episode_length_buf[:] = env.max_episode_length - 1
        world.World.instance().joint_pos["robot"][1] = torch.nan
        _, reward, dones, extras = env.step(torch.zeros(4, 8))
        assert dones.all() and reward.isfinite().all()
        assert extras["diverged"].tolist() == [False, True, False, False]
        assert extras["time_outs"].tolist() == [True, False, True, True]


def test_state_that_is_set_shows_in_the_next_picture():
    with start() as env:
        first, state = env.capture(["color"]), env.get_state()
        for _ in range(5):
            env.step(-torch.ones(4, 8))  # a closed gripper: the drawer opens
        moved = env.capture(["color"])
        env.set_state(state)
        _ = env._sensors[0].data  # as an observation of images would: the old picture is cached now
        again = env.capture(["color"])
        env.set_state(moved["sim_state"])
        env.reset(7)
        for _ in range(3):
            env.step(torch.ones(4, 8))  # an open gripper
        shut = env.capture()["drawer_pos"]
    assert not np.array_equal(first["color"], moved["color"])
    assert np.array_equal(first["color"], again["color"]) and np.array_equal(first["sim_state"], again["sim_state"])
    assert np.array_equal(first["proprio"], again["proprio"])
    assert (shut == 0).all(), "the cabinet's drives aim at where the drawer was"


def changes(before: dict, after: dict, path: str = "") -> dict[str, tuple]:
    """Where two nested dictionaries differ."""
    found = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= changes(old, new, f"{path}{key}.")
        elif old != new:
            found[f"{path}{key}"] = (old, new)
    return found


def test_registered_configuration_is_changed_only_where_collecting_needs_it():
    theirs = parse_env_cfg(TASK, device="cpu", num_envs=4)
    ours = parse_env_cfg(TASK, device="cpu", num_envs=4)
    cfg = SimulatorCfg(task=TASK, num_envs=4, cameras=(OVERVIEW, WRIST), seed=7)
    lab2.configure(ours, cfg, lab2.IsaacOptions(env_spacing=3.0))
    found = changes(theirs.to_dict(), ours.to_dict())
    assert {key: pair for key, pair in found.items() if not key.endswith("_cam")} == {
        "seed": (None, 7),
        "scene.env_spacing": (2.0, 3.0),
        "scene.cabinet_frame.debug_vis": (True, False),
        "sim.render.antialiasing_mode": (None, "FXAA"),
    }
    added = {key: new for key, (_, new) in found.items() if key.endswith("_cam")}
    assert set(added) == {"scene.overview_cam", "scene.wrist_cam"}
    assert added["scene.overview_cam"]["prim_path"] == "{ENV_REGEX_NS}/overview_cam"
    assert added["scene.wrist_cam"]["prim_path"] == "{ENV_REGEX_NS}/Robot/panda_hand/wrist_cam"
    assert ours.validate() is None or ours.validate() == []


def test_signals_mean_what_they_did_before_kit():
    with load("isaac", SimulatorCfg(task=TASK, num_envs=1)):
        assert signal.getsignal(signal.SIGSEGV) == signal.getsignal(signal.SIGABRT) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143


def test_other_releases_are_refused_by_name(monkeypatch):
    assert lab2.extension_version()[:2] in ((0, 44), (0, 54))
    for version in ((0, 36, 21), (4, 6, 0)):
        monkeypatch.setattr(lab2, "extension_version", lambda version=version: version)
        with pytest.raises(SimulatorError, match=r"2\.2 and 2\.3"):
            load("isaac", SimulatorCfg(task=TASK, num_envs=1))
