"""The task `Isaac-Open-Drawer-Franka-v0`: a Franka arm opens the top drawer of a cabinet.

Numbers are Isaac Lab 2.2.0's: "cfg" below is isaaclab_tasks/manager_based/manipulation/cabinet/cabinet_env_cfg.py,
"mdp" its mdp/rewards.py. What differs is marked "Deviation" and listed in WHAT_IT_DOES.md. The
joint numbers of the cabinet are the sektion cabinet's (Isaac Gym's sektion_cabinet_2.urdf); its shape is ours.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from simulators.tasks import SceneState, Task
from simulators.things import Body, Geom, Joint, Site, Surface, Vector
from vpl.columns import Column, Role, SuccessRule

DEFAULT_JOINT_POS = (0.0, -0.569, 0.0, -2.810, 0.0, 3.037, 0.741, 0.04, 0.04)  # isaaclab_assets/robots/franka.py:33-39
RESET_JOINT_OFFSET = 0.1  # cfg:187-196: all nine joints, uniform, then clamped to their range
GRIPPER_OPEN, GRIPPER_CLOSED = 0.04, 0.0  # config/franka/joint_pos_env_cfg.py:41-46
ROBOT_FRICTION = (0.8, 1.25)  # cfg:165-174
HANDLE_FRICTION = (1.0, 1.25)  # cfg:176-185, the static one
DRAWER_RANGE = 0.4
"""m. Rewards count no more: a drawer that a bad solver step has thrown out would pay without bound."""
BETWEEN_PADS, NEAR_TOOL = 0.015, 0.04
"""m: the bar lies between the pads if its axis passes the tool this closely, at a point of it this near."""
HELD_OPENING = (0.008, 0.03)
"""m: between the pads, of fingers that are closed on the bar of 12 mm."""
TOOL_SPEED, TOOL_DEPTH = 1.0, 0.015
"""m/s, and m beyond the bar towards the front, from which on they cost."""
CABINET_POS = (0.8, 0.0, 0.4)  # cfg:59, turned by 180 degrees about z
CABINET_QUAT_WXYZ = (0.0, 0.0, 0.0, 1.0)
HANDLE_OFFSET = (0.305, 0.0, 0.01)  # in the drawer's frame; cfg:96


@functools.cache
def _constant(values: tuple, device: torch.device) -> torch.Tensor:
    """A float32 tensor that is made once: bringing it to a GPU would wait for all that the GPU has to do."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


def held(state: SceneState) -> torch.Tensor:
    """Whether the fingers are closed on the bar, (N,) bool."""
    opening = state.joint_pos[:, 7:].sum(dim=1)
    return _between_pads(state) & (opening > HELD_OPENING[0]) & (opening < HELD_OPENING[1])


def _between_pads(state: SceneState) -> torch.Tensor:
    """Whether the bar lies between the fingers' pads, (N,) bool."""
    to_handle = _to_handle(state)
    across = torch.hypot(to_handle[:, 0], to_handle[:, 2])  # the bar lies along the handle's y
    return (across <= BETWEEN_PADS) & (to_handle.norm(dim=1) <= NEAR_TOOL)


def _to_handle(state: SceneState) -> torch.Tensor:
    """From the tool to the handle in the handle's frame (x out of the front, z up), (N, 3) m."""
    to_handle = state.site_pos["handle"] - state.tcp_pos
    return (to_handle.unsqueeze(1) @ state.site_rot["handle"])[:, 0]


class OpenDrawer(Task):
    """31 observations, 8 actions: offsets of the arm's seven joints from the default pose, and the gripper's sign."""

    num_actions = 8
    sign_actions = (7,)
    max_episode_length = 480
    step_dt = 1 / 60  # cfg:269-275
    language_instruction = "open the top drawer of the cabinet"
    success_rule = SuccessRule("drawer_pos", ">=", 0.30)  # the last stage of Isaac Lab's multi_stage_open_drawer reward
    obs_terms = {  # cfg:140-152
        "joint_pos_rel": 9,
        "joint_vel_rel": 9,
        "cabinet_joint_pos_rel": 1,
        "cabinet_joint_vel_rel": 1,
        "rel_ee_drawer_distance": 3,
        "last_action": 8,
    }
    columns = {
        "drawer_pos": Column(
            (),
            "float32",
            Role.PRIVILEGED,
            "m",
            "how far the drawer is open: its joint's position",
            in_state=True,
            observed_as="cabinet_joint_pos_rel",
        )
    }
    joints = ("drawer_top_joint",)
    sites = ("handle",)
    movable = ("cabinet",)
    surfaces = (Surface("cabinet", (-0.02, 0.0, 0.4), (0.25, 0.36)),)
    isaac_joints = {"drawer_pos": ("cabinet", "drawer_top_joint")}
    isaac_sites = {"handle": ("cabinet", "drawer_handle_top", HANDLE_OFFSET)}
    frictions = {"handle_friction": "drawer_top_handle"}
    reward_weights = {
        "grasp": {
            "approach_ee_handle": 2.0,
            "align_ee_handle": 0.5,
            "approach_gripper_handle": 5.0,
            "align_grasp_around_handle": 0.125,
            "grasp_handle": 50.0,
            "open_drawer_bonus": 7.5,
            "multi_stage_open_drawer": 1.0,
            "action_rate_l2": -0.4,
            "target_lead_l2": -0.1,
            "joint_vel_l2": -1e-3,
            "tool_speed": -100.0,
            "tool_depth": -30.0,
        },
        "isaac": {  # cfg:202-242
            "approach_ee_handle": 2.0,
            "align_ee_handle": 0.5,
            "approach_gripper_handle": 5.0,
            "align_grasp_around_handle": 0.125,
            "grasp_handle": 0.5,
            "open_drawer_bonus": 7.5,
            "multi_stage_open_drawer": 1.0,
            "action_rate_l2": -1e-2,
            "joint_vel_l2": -1e-4,
        },
    }

    early_weights = {"grasp": {"action_rate_l2": -0.3, "tool_speed": -5.0}}

    def things(self) -> list[Body]:
        """The cabinet."""
        return [_cabinet()]

    def initial_joint_pos(self, uniform: torch.Tensor) -> torch.Tensor:
        """See `Task.initial_joint_pos`: about the default pose, the drawer shut."""
        arm = _constant(DEFAULT_JOINT_POS, uniform.device) + RESET_JOINT_OFFSET * uniform[:, :9]
        return torch.cat([arm, torch.zeros_like(uniform[:, 9:])], dim=1)

    def draw_friction(self, rng: np.random.Generator) -> tuple[float, ...]:
        """PhysX's average of the robot's and the handle's coefficients."""
        return ((rng.uniform(*ROBOT_FRICTION) + rng.uniform(*HANDLE_FRICTION)) / 2,)

    def rows(self, state: SceneState) -> dict[str, torch.Tensor]:
        """See `Task.rows`."""
        return {"drawer_pos": state.task_joint_pos[:, 0]}

    def observations(self, state: SceneState, last_action: torch.Tensor) -> torch.Tensor:
        """See `Task.observations`."""
        return torch.cat(
            [
                state.joint_pos - _constant(DEFAULT_JOINT_POS, state.joint_pos.device),
                state.joint_vel,
                state.task_joint_pos,
                state.task_joint_vel,
                state.site_pos["handle"] - state.tcp_pos,
                last_action,
            ],
            dim=1,
        )

    def reward_terms(
        self, state: SceneState, action: torch.Tensor, last_action: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The nine terms of mdp, or what the set "grasp" makes of them."""
        terms = self._isaac_terms(state, action, last_action)
        return terms if self.rewards == "isaac" else terms | self._grasp_terms(state, action, last_action)

    def _isaac_terms(
        self, state: SceneState, action: torch.Tensor, last_action: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Deviation: the axes of the handle are such that `align_ee_handle` is 1 where the hand points at the front
        and the fingers open up and down; with the rotation of cfg:99 on the sektion's URDF axes it is 0 there."""
        handle = state.site_pos["handle"]
        distance = (handle - state.tcp_pos).norm(dim=1)
        handle_z, left_z, right_z = handle[:, 2], state.left_finger_pos[:, 2], state.right_finger_pos[:, 2]
        graspable = ((right_z < handle_z) & (left_z > handle_z)).float()
        approach = (1 / (1 + distance**2)) ** 2
        handle_rot = state.site_rot["handle"]
        align_z = (state.tcp_rot[:, :, 2] * -handle_rot[:, :, 0]).sum(dim=1)
        align_x = (state.tcp_rot[:, :, 0] * -handle_rot[:, :, 1]).sum(dim=1)
        drawer = state.task_joint_pos[:, 0]
        return {
            "approach_ee_handle": torch.where(distance <= 0.2, 2 * approach, approach),
            "align_ee_handle": 0.5 * (align_z * align_z.abs() + align_x * align_x.abs()),
            "approach_gripper_handle": graspable * (0.08 - (left_z - handle_z).abs() - (right_z - handle_z).abs()),
            "align_grasp_around_handle": graspable,
            "grasp_handle": (distance <= 0.03) * (GRIPPER_OPEN - state.joint_pos[:, 7:]).sum(dim=1),
            "open_drawer_bonus": (1 + graspable) * drawer,
            "multi_stage_open_drawer": 0.5 * (drawer > 0.01) + graspable * (drawer > 0.2) + graspable * (drawer > 0.3),
            "action_rate_l2": (action - last_action).square().sum(dim=1),
            "joint_vel_l2": state.joint_vel.square().sum(dim=1),
        }

    def _grasp_terms(
        self, state: SceneState, action: torch.Tensor, last_action: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Terms that reward fingers closed on the bar and a drawer that they pull, and make haste and blows dear."""
        depth = _to_handle(state)[:, 0]
        grasped, opening = held(state), state.joint_pos[:, 7:].sum(dim=1)
        drawer, share = state.task_joint_pos[:, 0].clamp(0, DRAWER_RANGE), torch.where(grasped, 1.0, 0.25)
        lead = (action - last_action)[:, :7] - state.joint_vel[:, :7] * self.step_dt
        return {
            "grasp_handle": _between_pads(state) * (0.01 + 2 * GRIPPER_OPEN - opening),
            "open_drawer_bonus": (share + grasped.float()) * drawer,
            "multi_stage_open_drawer": share * (0.5 * (drawer > 0.01) + 1.0 * (drawer > 0.2) + 1.0 * (drawer > 0.3)),
            "target_lead_l2": lead.square().sum(dim=1),
            "tool_speed": (state.tcp_vel.norm(dim=1) - TOOL_SPEED).clamp(min=0).square(),
            "tool_depth": (depth - TOOL_DEPTH).clamp(0, 0.1),
        }

    def joint_pos_target(self, action: torch.Tensor) -> torch.Tensor:
        """See `Task.joint_pos_target`: default pose + the arm's action; the gripper by its sign."""
        default = _constant(DEFAULT_JOINT_POS, action.device)
        gripper = torch.where(action[:, 7:8] < 0, GRIPPER_CLOSED, GRIPPER_OPEN)
        return torch.cat([default[:7] + action[:, :7], gripper, gripper], dim=1)

    def action_for_target(self, joint_pos_target: torch.Tensor) -> torch.Tensor:
        """See `Task.action_for_target`: a gripper that is asked for less than half of its opening closes."""
        arm = joint_pos_target[:, :7] - _constant(DEFAULT_JOINT_POS, joint_pos_target.device)[:7]
        closes = joint_pos_target[:, 7:9].mean(dim=1, keepdim=True) < (GRIPPER_OPEN + GRIPPER_CLOSED) / 2
        return torch.cat([arm, torch.where(closes, -1.0, 1.0)], dim=1)


def _cabinet() -> Body:
    """A carcass of 0.80 x 0.60 x 0.80 m, two drawers above two doors; in its own frame x points out of the front."""
    boxes = [
        *(((-0.001, y, 0.03), (0.299, 0.009, 0.37)) for y in (-0.391, 0.391)),
        ((0.004, 0, 0.391), (0.314, 0.412, 0.009)),
        ((-0.295, 0, 0.03), (0.005, 0.382, 0.37)),
        *(((-0.001, 0, z), (0.296, 0.382, 0.006)) for z in (-0.341, 0.093, 0.249)),
    ]
    return Body(
        "cabinet",
        CABINET_POS,
        CABINET_QUAT_WXYZ,
        geoms=(
            *(Geom("box", size, "wood", pos) for pos, size in boxes),
            Geom("box", (0.27, 0.39, 0.03), "steel", (-0.02, 0, -0.37)),
        ),
        children=(
            _drawer("drawer_top", z=0.3172, half_height=0.0595),
            _drawer("drawer_bottom", z=0.1725, half_height=0.0755),
            _door("door_left", hinge_y=-0.3757, inward=1),
            _door("door_right", hinge_y=0.3757, inward=-1),
        ),
    )


def _drawer(name: str, z: float, half_height: float) -> Body:
    """Slides out along +x by 0.4 m; Isaac Lab's drive (kp 10, kd 1) pulls it shut (cfg:71-76)."""
    side = (0.249, 0.006, half_height - 0.022)
    return Body(
        name,
        (0.0515, 0, z),
        joints=(Joint(f"{name}_joint", "slide", (1, 0, 0), (0, DRAWER_RANGE), stiffness=10, damping=1, friction=0.01),),
        geoms=(
            Geom("box", (0.009, 0.391, half_height), "front", (0.2575, 0, 0), mass=2.0),
            Geom("box", (0.249, 0.36, 0.005), "inside", (0, 0, -half_height + 0.016), mass=1.0),
            Geom("box", side, "inside", (0, -0.36, -0.010), mass=0.5),
            Geom("box", side, "inside", (0, 0.36, -0.010), mass=0.5),
            Geom("box", (0.006, 0.36, half_height - 0.022), "inside", (-0.243, 0, -0.010), mass=0.5),
            *_handle(name, HANDLE_OFFSET, (0.0, 0.085, 0.0)),
        ),
        sites=(Site("handle", HANDLE_OFFSET),) if name == "drawer_top" else (),
    )


def _door(name: str, hinge_y: float, inward: int) -> Body:
    """Turns outward by up to 1.57 rad about a vertical hinge; drive kp 10, kd 2.5 (cfg:77-82).

    The panel is set back from the drawers' fronts and its handle is low: no start pose (+-0.1 rad) touches them.
    """
    reach = (0, 1.57) if inward < 0 else (-1.57, 0)
    return Body(
        name,
        (0.3162, hinge_y, -0.12973),
        joints=(Joint(f"{name}_joint", "hinge", (0, 0, 1), reach, stiffness=10, damping=2.5),),
        geoms=(
            Geom("box", (0.009, 0.1885, 0.2130), "front", (-0.0502, inward * 0.1855, 0), mass=2.5),
            *_handle(name, (-0.0027, inward * 0.335, -0.08), (0.0, 0.0, 0.06)),
        ),
    )


def _handle(name: str, center: Vector, half_length: Vector) -> list[Geom]:
    """A bar of 12 mm on two posts, standing off the front by 39 mm: room for a fingertip behind it."""
    middle, along = np.array(center), np.array(half_length)
    bar = Geom(
        "capsule",
        (0.006,),
        "steel",
        ends=(_vector(middle - along), _vector(middle + along)),
        mass=0.05,
        name=f"{name}_handle",
        decides_friction=True,
    )
    feet = (middle - 0.9 * along, middle + 0.9 * along)
    posts = [
        Geom("capsule", (0.005,), "steel", ends=(_vector(foot), _vector(foot - (0.039, 0, 0))), mass=0.05)
        for foot in feet
    ]
    return [bar, *posts]


def _vector(point: np.ndarray) -> Vector:
    x, y, z = point.tolist()
    return x, y, z
