"""Release 2.2's definition of the drawer task in Isaac Lab 3.0, whose own definition is another task.

3.0 moves the targets slowly (a moving average over 100 steps), damps the arm twenty times as much and starts elsewhere,
because the old task did not learn well enough (IsaacLab 6896). A policy of the one does nothing in the other. Here is
what 2.2 has: its actions, gains, speed limits, start, observations and rewards, on 3.0's physics.
"""

from __future__ import annotations

from isaaclab.utils import clone, configclass
from isaaclab_assets.robots.franka import FRANKA_PANDA_LEGACY_CFG
from isaaclab_tasks.core.cabinet import mdp
from isaaclab_tasks.core.cabinet.config.franka.joint_pos_env_cfg import FrankaCabinetEnvCfg

from simulators.scene import JOINT_VEL_LIMIT
from simulators.tasks.open_drawer import OpenDrawer

SPEED_LIMITS = dict(zip(("panda_shoulder", "panda_forearm", "panda_hand"), JOINT_VEL_LIMIT[[0, 4, 7]], strict=True))
"""rad/s and m/s, by actuator. In 2.2 the robot's file says so; PhysX enforces them."""


@configclass
class OpenDrawerCfg(FrankaCabinetEnvCfg):
    """`Isaac-Open-Drawer-Franka-v0` of release 2.2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        legacy = clone(FRANKA_PANDA_LEGACY_CFG)
        self.scene.robot.spawn = legacy.spawn
        self.scene.robot.actuators, self.scene.robot.init_state = legacy.actuators, legacy.init_state
        self.scene.robot.soft_joint_pos_limit_factor = 1.0
        for name, limit in SPEED_LIMITS.items():
            self.scene.robot.actuators[name].joint_velocity_limit = float(limit)
        self.actions.arm_action = mdp.JointPositionActionCfg(
            asset_name="robot", joint_names=["panda_joint.*"], scale=1.0, use_default_offset=True
        )
        self.observations.policy.actions.clip = None
        self.rewards.joint_pos_limits = self.rewards.joint_vel_limits = None
        weights = OpenDrawer.reward_weights["isaac"]
        self.rewards.action_rate_l2.weight, self.rewards.joint_vel.weight = (
            weights["action_rate_l2"],
            weights["joint_vel_l2"],
        )
        self.episode_length_s = OpenDrawer.max_episode_length * OpenDrawer.step_dt
