"""The task's numbers, against values worked out by hand from Isaac Lab's formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from simulators.tasks.open_drawer import (
    CONTROL_DT,
    DEFAULT_JOINT_POS,
    OBS_TERMS,
    REWARD_WEIGHTS,
    DrawerState,
    joint_pos_target,
    observations,
    reward_terms,
)


@pytest.fixture
def grasped() -> DrawerState:
    """TCP 2 cm before the handle, hand straight at the front, fingers 1 cm above and below, drawer at 0.25 m."""
    handle = torch.tensor([[0.2, 0.0, 0.7]])
    hand = torch.tensor(
        [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    )  # columns: x = env y, y = env z, z = env x
    return DrawerState(
        joint_pos=torch.tensor([[*DEFAULT_JOINT_POS[:7], 0.01, 0.01]]),
        joint_vel=torch.full((1, 9), 0.5),
        drawer_pos=torch.tensor([0.25]),
        drawer_vel=torch.tensor([0.1]),
        tcp_pos=handle - torch.tensor([[0.02, 0.0, 0.0]]),
        tcp_rot=hand,
        handle_pos=handle,
        left_finger_pos=handle + torch.tensor([[0.0, 0.0, 0.01]]),
        right_finger_pos=handle - torch.tensor([[0.0, 0.0, 0.01]]),
    )


def test_observations_are_isaac_labs_31_in_order(grasped):
    last_action = torch.arange(8.0)[None]
    obs = observations(grasped, last_action)[0]
    assert sum(OBS_TERMS.values()) == len(obs) == 31
    assert obs[:9].tolist() == pytest.approx([0] * 7 + [-0.03] * 2)
    assert obs[9:18].tolist() == [0.5] * 9
    assert obs[18:20].tolist() == pytest.approx([0.25, 0.1])
    assert obs[20:23].tolist() == pytest.approx([0.02, 0, 0], abs=1e-7)
    assert obs[23:].tolist() == list(range(8))


def test_reward_terms_at_a_grasp(grasped):
    action, last_action = torch.full((1, 8), 0.5), torch.zeros(1, 8)
    terms = {name: value.item() for name, value in reward_terms(grasped, action, last_action).items()}
    assert list(terms) == list(REWARD_WEIGHTS)
    assert terms == pytest.approx({
        "approach_ee_handle": 2 * (1 / (1 + 0.02**2)) ** 2,
        "align_ee_handle": 1.0,
        "approach_gripper_handle": 0.06,
        "align_grasp_around_handle": 1.0,
        "grasp_handle": 0.06,
        "open_drawer_bonus": 0.5,
        "multi_stage_open_drawer": 1.5,
        "action_rate_l2": 2.0,
        "joint_vel_l2": 2.25,
    }, abs=1e-6)  # fmt: skip


def test_reward_terms_far_from_the_handle(grasped):
    away = replace(
        grasped,
        tcp_pos=grasped.handle_pos - torch.tensor([[0.3, 0, 0]]),
        right_finger_pos=grasped.handle_pos + torch.tensor([[0, 0, 0.2]]),
        drawer_pos=torch.zeros(1),
    )
    terms = {name: value.item() for name, value in reward_terms(away, torch.zeros(1, 8), torch.zeros(1, 8)).items()}
    assert terms["approach_ee_handle"] == pytest.approx((1 / 1.09) ** 2)
    for name in ("approach_gripper_handle", "align_grasp_around_handle", "grasp_handle", "multi_stage_open_drawer"):
        assert terms[name] == 0, name


def test_actions_are_offsets_from_the_default_pose_and_the_gripper_goes_by_sign():
    action = torch.zeros(2, 8)
    action[0, 1], action[0, 7], action[1, 7] = 0.25, -0.1, 0.1
    target = joint_pos_target(action)
    assert target[0].tolist() == pytest.approx([0, -0.319, 0, -2.810, 0, 3.037, 0.741, 0, 0])
    assert target[1, 7:].tolist() == pytest.approx([0.04, 0.04])


def test_step_rewards_are_scaled_by_the_control_period(make_env):
    env = make_env(num_envs=1)
    env.reset(0)
    action = torch.full((1, 8), 0.3)
    _, reward, *_ = env.step(action.to(env.device))
    terms = reward_terms(env._state, action, torch.zeros(1, 8))
    assert reward.item() == pytest.approx(CONTROL_DT * sum(REWARD_WEIGHTS[n] * v.item() for n, v in terms.items()))


def test_drawer_is_pulled_shut_and_its_range_is_the_sektions(make_env):
    env = make_env(num_envs=1)
    model = env.model
    joint = model.joint("drawer_top_joint")
    assert model.jnt_range[joint.id].tolist() == [0, 0.4]
    assert model.jnt_stiffness[joint.id] == 10
    assert env._state.handle_pos[0].tolist() == pytest.approx([0.4435, 0, 0.7272], abs=1e-6)
