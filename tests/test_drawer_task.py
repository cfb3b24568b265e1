"""The task's numbers, against values worked out by hand from Isaac Lab's formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from simulators.tasks import SceneState
from simulators.tasks.open_drawer import DEFAULT_JOINT_POS, OpenDrawer

TASK = OpenDrawer(rewards="isaac")
WEIGHTS = TASK.reward_weights["isaac"]


@pytest.fixture
def grasped() -> SceneState:
    """TCP 2 cm before the handle, hand straight at the front, fingers 1 cm above and below, drawer at 0.25 m."""
    handle = torch.tensor([[0.2, 0.0, 0.7]])
    hand = torch.tensor(
        [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    )  # columns: x = env y, y = env z, z = env x
    return SceneState(
        joint_pos=torch.tensor([[*DEFAULT_JOINT_POS[:7], 0.01, 0.01]]),
        joint_vel=torch.full((1, 9), 0.5),
        joint_effort=torch.zeros(1, 9),
        task_joint_pos=torch.tensor([[0.25]]),
        task_joint_vel=torch.tensor([[0.1]]),
        tcp_pos=handle - torch.tensor([[0.02, 0.0, 0.0]]),
        tcp_rot=hand,
        tcp_vel=torch.tensor([[0.0, 0.6, 0.8]]),
        site_pos={"handle": handle},
        site_rot={"handle": torch.tensor([[[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]])},
        left_finger_pos=handle + torch.tensor([[0.0, 0.0, 0.01]]),
        right_finger_pos=handle - torch.tensor([[0.0, 0.0, 0.01]]),
    )


def test_observations_are_isaac_labs_31_in_order(grasped):
    last_action = torch.arange(8.0)[None]
    obs = TASK.observations(grasped, last_action)[0]
    assert TASK.num_obs == len(obs) == 31
    assert obs[:9].tolist() == pytest.approx([0] * 7 + [-0.03] * 2)
    assert obs[9:18].tolist() == [0.5] * 9
    assert obs[18:20].tolist() == pytest.approx([0.25, 0.1])
    assert obs[20:23].tolist() == pytest.approx([0.02, 0, 0], abs=1e-7)
    assert obs[23:].tolist() == list(range(8))


def test_reward_terms_at_a_grasp(grasped):
    action, last_action = torch.full((1, 8), 0.5), torch.zeros(1, 8)
    terms = {name: value.item() for name, value in TASK.reward_terms(grasped, action, last_action).items()}
    assert list(terms) == list(WEIGHTS)
    assert terms == pytest.approx(
        {
            "approach_ee_handle": 2 * (1 / (1 + 0.02**2)) ** 2,
            "align_ee_handle": 1.0,
            "approach_gripper_handle": 0.06,
            "align_grasp_around_handle": 1.0,
            "grasp_handle": 0.06,
            "open_drawer_bonus": 0.5,
            "multi_stage_open_drawer": 1.5,
            "action_rate_l2": 2.0,
            "joint_vel_l2": 2.25,
        },
        abs=1e-6,
    )


def test_reward_terms_far_from_the_handle(grasped):
    away = replace(
        grasped,
        tcp_pos=grasped.site_pos["handle"] - torch.tensor([[0.3, 0, 0]]),
        right_finger_pos=grasped.site_pos["handle"] + torch.tensor([[0, 0, 0.2]]),
        task_joint_pos=torch.zeros(1, 1),
    )
    terms = {
        name: value.item() for name, value in TASK.reward_terms(away, torch.zeros(1, 8), torch.zeros(1, 8)).items()
    }
    assert terms["approach_ee_handle"] == pytest.approx((1 / 1.09) ** 2)
    for name in ("approach_gripper_handle", "align_grasp_around_handle", "grasp_handle", "multi_stage_open_drawer"):
        assert terms[name] == 0, name


def test_actions_are_offsets_from_the_default_pose_and_the_gripper_goes_by_sign():
    action = torch.zeros(2, 8)
    action[0, 1], action[0, 7], action[1, 7] = 0.25, -0.1, 0.1
    target = TASK.joint_pos_target(action)
    assert target[0].tolist() == pytest.approx([0, -0.319, 0, -2.810, 0, 3.037, 0.741, 0, 0])
    assert target[1, 7:].tolist() == pytest.approx([0.04, 0.04])


def test_step_rewards_are_scaled_by_the_control_period(make_env):
    env = make_env(num_envs=1, rewards="isaac")
    env.reset(0)
    action = torch.full((1, 8), 0.3)
    _, reward, *_ = env.step(action.to(env.device))
    terms = TASK.reward_terms(env._state, action, torch.zeros(1, 8))
    expected = sum(WEIGHTS[name] * value.item() for name, value in terms.items())
    assert reward.item() == pytest.approx(TASK.step_dt * expected)


def test_drawer_is_pulled_shut_and_its_range_is_the_sektions(make_env):
    env = make_env(num_envs=1)
    model = env.model
    joint = model.joint("drawer_top_joint")
    assert model.jnt_range[joint.id].tolist() == [0, 0.4]
    assert model.jnt_stiffness[joint.id] == 10
    assert env._state.site_pos["handle"][0].tolist() == pytest.approx([0.4435, 0, 0.7272], abs=1e-6)


def test_action_for_a_target_is_the_inverse_of_the_target_of_an_action():
    action = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    action[:, 7] = action[:, 7].sign()
    assert torch.allclose(TASK.action_for_target(TASK.joint_pos_target(action)), action, atol=1e-6)


def test_success_is_a_drawer_that_is_open_by_30_cm(grasped):
    for drawer_m, success in ((0.29, False), (0.30, True), (0.35, True)):
        assert TASK.succeeded(replace(grasped, task_joint_pos=torch.tensor([[drawer_m]]))).tolist() == [success]
