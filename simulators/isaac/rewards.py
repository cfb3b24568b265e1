"""Our own task's rewards in the place of Isaac Lab's: `train_policy.py --simulator isaac --rewards grasp`.

use(env_cfg, load_task("Isaac-Open-Drawer-Franka-v0", "grasp"))       # before the env is made
"""

from __future__ import annotations

from typing import Any

import torch

from simulators.scene import FINGERTIP_OFFSET, JOINT_NAMES, TCP_OFFSET
from simulators.tasks import SceneState, Task


def use(env_cfg: Any, task: Task) -> None:
    """Have the reward manager compute the set that `task` was loaded with, as one term, with its weights of the end:
    there are no gentler ones for a beginner, so go on from a policy that can."""
    from isaaclab.managers import RewardTermCfg

    def of_set(env: Any) -> torch.Tensor:
        manager = env.action_manager
        return task.reward(scene_state(env, task), manager.action, manager.prev_action) / task.step_dt

    env_cfg.rewards = {f"set_{task.rewards}": RewardTermCfg(func=of_set, weight=1.0)}


def scene_state(env: Any, task: Task) -> SceneState:
    """The present state as the tasks of the embedded simulators see it."""
    robot = env.scene["robot"]
    joints = [robot.joint_names.index(name) for name in JOINT_NAMES]
    of_task = [(env.scene[asset], joint) for asset, joint in task.isaac_joints.values()]
    task_joints = [(asset.data, asset.joint_names.index(joint)) for asset, joint in of_task]
    tcp_pos, tcp_rot = _point(env, "robot", "panda_hand", TCP_OFFSET)
    sites = {name: _point(env, *place) for name, place in task.isaac_sites.items()}
    return SceneState(
        joint_pos=robot.data.joint_pos.torch[:, joints],
        joint_vel=robot.data.joint_vel.torch[:, joints],
        joint_effort=robot.data.applied_torque.torch[:, joints],
        tcp_pos=tcp_pos,
        tcp_vel=_hand_velocity(robot, tcp_rot),
        tcp_rot=tcp_rot,
        left_finger_pos=_point(env, "robot", "panda_leftfinger", FINGERTIP_OFFSET)[0],
        right_finger_pos=_point(env, "robot", "panda_rightfinger", FINGERTIP_OFFSET)[0],
        task_joint_pos=torch.stack([data.joint_pos.torch[:, i] for data, i in task_joints], dim=1),
        task_joint_vel=torch.stack([data.joint_vel.torch[:, i] for data, i in task_joints], dim=1),
        site_pos={name: pos for name, (pos, _) in sites.items()},
        site_rot={name: rot for name, (_, rot) in sites.items()},
    )


def _point(env: Any, asset: str, body: str, offset: tuple[float, float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a point of a body is, (N, 3) m in the env frame, and the body's axes, (N, 3, 3)."""
    from isaaclab.utils.math import matrix_from_quat

    found = env.scene[asset]
    pose = found.data.body_link_pose_w.torch[:, found.body_names.index(body)]
    rotation = matrix_from_quat(pose[:, 3:])
    return pose[:, :3] + rotation @ torch.tensor(offset).to(pose) - env.scene.env_origins, rotation


def _hand_velocity(robot: Any, tcp_rot: torch.Tensor) -> torch.Tensor:
    """Of the tool centre point, (N, 3) m/s."""
    linear, angular = robot.data.body_link_vel_w.torch[:, robot.body_names.index("panda_hand")].split(3, dim=1)
    return linear + torch.linalg.cross(angular, tcp_rot @ torch.tensor(TCP_OFFSET).to(tcp_rot))
