"""The contract of the seam, kept by Isaac Lab 3.0: the tests of the other simulators, and what is only here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import BOTH, TASK
from test_simulators import (  # noqa: F401  with the `make_env` of this folder
    roll,
    test_action_for_target_is_the_inverse_of_the_target_of_an_action,
    test_env_that_times_out_resets_alone,
    test_members_of_a_vec_env,
    test_sample_has_the_promised_shapes,
    test_samples_are_copies,
    test_wrist_camera_is_rigid_on_the_hand,
)

from simulators import SimulatorCfg, SimulatorError, load
from simulators.isaac import IsaacOptions
from simulators.scene import JOINT_VEL_LIMIT
from simulators.variation import VariationCfg

OWN = "Isaac-Open-Drawer-Franka"
LOOKS = VariationCfg(("pose", "looks"))


def test_a_round_starts_as_in_mujoco_whatever_the_number_of_envs(make_env):
    mujoco = load("mujoco", SimulatorCfg(task=TASK, num_envs=3, variation=LOOKS))
    mujoco.reset(7)
    expected, drawn = mujoco.capture(), mujoco.episode_info()
    mujoco.close()
    for num_envs in (3, 2):
        env = make_env(num_envs=num_envs, variation=LOOKS)
        for seed in (8, 7):
            env.reset(seed)
            roll(env, 2)
        assert env.draw_variation(8) != env.episode_info()
        env.reset(7)
        sample = env.capture()
        assert env.episode_info() == drawn[:num_envs]
        assert np.array_equal(sample["joint_pos"], expected["joint_pos"][:num_envs])
        for name in ("ee_position", "ee_rotation", "drawer_pos"):
            assert sample[name] == pytest.approx(expected[name][:num_envs], abs=2e-6), name
        handle = slice(20, 23)  # of the observation: from the tool to the handle, so the cabinet stands there too
        assert sample["proprio"][:, handle] == pytest.approx(expected["proprio"][:num_envs, handle], abs=2e-6)


def test_what_was_drawn_stays_in_automatic_resets_and_is_put_back_with_a_state(make_env):
    env = make_env(num_envs=2, cameras=BOTH, variation=LOOKS)
    env.reset(7)
    before = env.capture(["color", "depth"])
    state, info = env.get_state(), env.episode_info()
    env.episode_length_buf[:] = env.max_episode_length - 1
    *_, dones, extras = env.step(torch.zeros(2, 8))
    assert dones.all() and extras["time_outs"].all() and env.episode_info() == info
    pose = slice(31, 38)  # of sim_state
    assert env.state_spec.split(", ")[4] == "articulation/cabinet/root_pose[7]"
    assert np.array_equal(env.get_state()[:, pose], state[:, pose])
    env.reset(8)
    assert not np.array_equal(env.get_state()[:, pose], state[:, pose])
    env.set_state(state, info)
    again = env.capture(["color", "depth"])
    for name in ("color", "depth", "sim_state", "proprio", "extrinsics"):
        assert np.array_equal(again[name], before[name]), name
    with pytest.raises(ValueError, match="has light, but the simulator was built to vary pose, looks"):
        env.set_state(state, [{"light": {}}] * 2)


def test_looks_change_colours_and_not_the_motion(make_env):
    seen = []
    for kinds in (("pose",), ("pose", "looks")):
        env = make_env(num_envs=2, cameras=BOTH, variation=VariationCfg(kinds))
        env.reset(3)
        roll(env, 10)
        seen.append(env.capture(["color", "depth"]))
    plain, painted = seen
    assert np.array_equal(plain["sim_state"], painted["sim_state"])
    assert np.array_equal(plain["depth"], painted["depth"])
    assert (plain["color"] != painted["color"]).any(axis=-1).mean() > 0.05


def test_own_definition_of_release_3_has_its_targets_and_their_inverse(make_env):
    env = make_env(num_envs=2, task=OWN)
    assert (env.max_episode_length, env.num_actions, env.task.num_obs) == (960, 8, 31)
    assert env.task.language_instruction and env.capture()["joint_pos"][:, 1] == pytest.approx(-1.1, abs=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        action = 2 * torch.rand(2, 8, generator=generator) - 1
        action[:, 7] = action[:, 7].sign()
        target = env.joint_pos_target(action)
        assert torch.allclose(env.action_for_target(target), action, atol=2e-4)  # it asks for a hundredth of the way
        *_, extras = env.step(action)
        assert torch.equal(extras["joint_pos_target"], target)
    state, expected = env.get_state(), env.joint_pos_target(action)
    env.reset(9)
    env.set_state(state)
    assert torch.equal(env.joint_pos_target(action), expected), "the average is part of the state"


def test_positions_keep_to_the_speed_limits_but_for_blows(make_env):
    """Speeds themselves do not: PhysX gives a blow's impulse as the speed of a light link."""
    env = make_env(num_envs=16)
    generator = torch.Generator().manual_seed(0)
    positions, speeds = [], []
    for step in range(120):
        if step % 12 == 0:
            action = 2 * torch.randn(16, 8, generator=generator)
        sample = env.capture()
        positions.append(sample["joint_pos"])
        speeds.append(np.abs(sample["joint_vel"]) / JOINT_VEL_LIMIT)
        env.step(action)
    moved = np.abs(np.diff(positions, axis=0)) / (JOINT_VEL_LIMIT * env.step_dt)
    assert np.quantile(moved, 0.95) < 1.1 and moved.max() < 3 < np.max(speeds)


def test_drives_do_not_aim_at_a_state_that_was_set(make_env):
    env = make_env(num_envs=2)
    env.reset(1)
    state = env.get_state()
    columns = env.state_spec.split(", ")
    start = sum(int(name[:-1].split("[")[1]) for name in columns[:6])
    assert columns[6] == "articulation/cabinet/joint_position[4]"
    opened = state.copy()
    opened[:, start + 3] = 0.2
    env.set_state(opened)
    assert env.capture()["drawer_pos"] == pytest.approx(0.2)
    env.reset(1)
    for _ in range(40):
        env.step(torch.zeros(2, 8))
    assert np.abs(env.capture()["drawer_pos"]).max() < 0.01


def test_effort_at_an_episodes_start_is_none_of_the_last_episodes(make_env):
    env = make_env(num_envs=2)
    roll(env, 3)
    moved = env.capture()["joint_effort"]
    env.reset(1)
    assert moved.any(axis=1).all() and not env.capture()["joint_effort"].any()


def test_env_that_diverged_is_reported_and_starts_anew(make_env):
    env = make_env(num_envs=3)
    action = torch.zeros(3, 8)
    action[1, 3] = torch.inf
    _, reward, dones, extras = env.step(action)
    assert extras["diverged"].tolist() == dones.tolist() == [False, True, False]
    assert reward.isfinite().all() and env.episode_length_buf.tolist() == [1, 0, 1]
    for _ in range(3):
        observations, *_ = env.step(torch.zeros(3, 8))
    assert observations["policy"].isfinite().all()


def test_newton_begins_with_the_observation_of_its_own_episode(make_env):
    """Its frame sensors hold the last episode until they are refreshed; seen in the distance to the handle."""
    env = make_env(num_envs=2, options=IsaacOptions(isaac_physics="newton_mjwarp"))
    roll(env, 10)
    fresh = env.reset(5)["policy"].clone()
    mujoco = load("mujoco", SimulatorCfg(task=TASK, num_envs=2))
    expected = mujoco.reset(5)["policy"]
    mujoco.close()
    assert torch.allclose(fresh[:, 20:23], expected[:, 20:23], atol=1e-4)


def test_rewards_of_our_own_are_those_of_mujoco(make_env):
    env = make_env(num_envs=2, rewards="grasp")
    mujoco = load("mujoco", SimulatorCfg(task=TASK, num_envs=2, rewards="grasp"))
    rewards = []
    for simulator in (env, mujoco):
        simulator.reset(4)
        for _ in range(3):  # gently: what differs is how either engine holds speed limits
            _, reward, _, _ = simulator.step(torch.full((2, 8), 0.02))
        rewards.append(reward)
    mujoco.close()
    assert torch.allclose(*rewards, atol=2e-3)


def test_tasks_that_cannot_be_collected_from_are_refused_in_one_line(make_env):
    with pytest.raises(SimulatorError, match="--task 'Isaac-Nonsense' is not registered in Isaac Lab"):
        make_env(task="Isaac-Nonsense")
    with pytest.raises(SimulatorError, match=r"cartpole\.usd; where NVIDIA's server .* ISAACSIM_ASSET_ROOT"):
        make_env(task="Isaac-Cartpole")
