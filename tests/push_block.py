"""A task of the tests: the hand pushes a block; nothing else of the project knows of it."""

from __future__ import annotations

import torch

from simulators.tasks import SceneState, Task
from simulators.things import Body, Geom, Joint, Site
from vpl.columns import Column, Role, SuccessRule

HOME = (0.0, -0.3, 0.0, -2.5, 0.0, 2.2, 0.785, 0.0, 0.0)
START_X, GOAL_X = 0.62, 0.57


class PushBlock(Task):
    """7 actions, offsets of the arm's joints; the block slides on a rail along x and has to come near the robot."""

    num_actions = 7
    max_episode_length = 100
    step_dt = 1 / 60
    language_instruction = "push the block towards you"
    success_rule = SuccessRule("block_x", "<=", GOAL_X)
    obs_terms = {"joint_pos_rel": 9, "joint_vel_rel": 9, "block_x": 1, "to_block": 3, "last_action": 7}
    columns = {
        "block_x": Column((), "float32", Role.PRIVILEGED, "m", "the block's place along x", observed_as="block_x"),
        "block_speed": Column((), "float32", Role.METRIC, "m/s", "how fast the block slides", in_state=True),
    }
    joints = ("block_slide",)
    sites = ("block",)
    reward_weights = {"own": {"near": 1.0, "pushed": 10.0, "action_rate_l2": -1e-2}}

    def things(self) -> list[Body]:
        return [
            Body(
                "block",
                (START_X, 0.0, 0.3),
                joints=(Joint("block_slide", "slide", (1, 0, 0), (-0.4, 0.2), damping=2.0),),
                geoms=(Geom("box", (0.04, 0.06, 0.1), "wood", mass=0.5),),
                sites=(Site("block", (0, 0, 0)),),
            )
        ]

    def initial_joint_pos(self, uniform: torch.Tensor) -> torch.Tensor:
        home = torch.tensor([*HOME, 0.0], device=uniform.device)
        return home + uniform * torch.tensor([0.1] * 7 + [0.0] * 2 + [0.04], device=uniform.device)

    def rows(self, state: SceneState) -> dict[str, torch.Tensor]:
        return {"block_x": state.site_pos["block"][:, 0], "block_speed": state.task_joint_vel[:, 0]}

    def observations(self, state: SceneState, last_action: torch.Tensor) -> torch.Tensor:
        home = torch.tensor(HOME, device=state.joint_pos.device)
        block = state.site_pos["block"]
        parts = [state.joint_pos - home, state.joint_vel, block[:, :1], block - state.tcp_pos, last_action]
        return torch.cat(parts, dim=1)

    def reward_terms(
        self, state: SceneState, action: torch.Tensor, last_action: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        block = state.site_pos["block"]
        return {
            "near": 1 / (1 + (block - state.tcp_pos).square().sum(dim=1)),
            "pushed": START_X - block[:, 0],
            "action_rate_l2": (action - last_action).square().sum(dim=1),
        }

    def joint_pos_target(self, action: torch.Tensor) -> torch.Tensor:
        home = torch.tensor(HOME, device=action.device)
        return torch.cat([home[:7] + action, torch.zeros_like(action[:, :2])], dim=1)

    def action_for_target(self, joint_pos_target: torch.Tensor) -> torch.Tensor:
        return joint_pos_target[:, :7] - torch.tensor(HOME[:7], device=joint_pos_target.device)
