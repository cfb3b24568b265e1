"""The columns that every simulator of a robot arm records, whichever the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vpl.columns import Column, Role

EXECUTED = {"action_executed": "action", "joint_pos_target_executed": "joint_pos_target"}
"""Columns that are there where noise was added to actions, and whose noisy double each is."""
OF_ANY_ARM = ("ee_position", "ee_rotation", "success")
"""Columns that a reader expects and that a task of Isaac Lab's may lack."""


def with_executed(columns: Mapping[str, Column]) -> dict[str, Column]:
    """`columns`, and what was executed in the place of what the policy wanted."""
    added = {
        name: replace(columns[wanted], role=Role.METRIC, meaning=f"{wanted} that was executed, with noise or another's")
        for name, wanted in EXECUTED.items()
    }
    reward = columns["reward"]
    of_executed = replace(reward, meaning=reward.meaning.replace("this row's action", "what was executed"))
    return {**columns, "reward": of_executed, **added}


def recorded_columns(
    joint_names: Sequence[str],
    obs_terms: Mapping[str, int],
    num_actions: int,
    num_cameras: int | str,
    state_size: int | str,
    of_task: Mapping[str, Column],
) -> dict[str, Column]:
    """All columns of a simulator in the order of the file, `of_task` among them.

    Args:
        joint_names: J names, of `joint_pos`, `joint_vel`, `joint_effort` and `joint_pos_target`.
        obs_terms: name and width of each part of the observation, in order.
        num_actions: A.
        num_cameras: C, or the letter.
        state_size: S, numbers of the simulator's state, or the letter.
        of_task: what the task adds.
    """
    joints, names = (len(joint_names),), tuple(joint_names)
    terms = tuple(f"{term}_{i}" for term, width in obs_terms.items() for i in range(width))
    rad, rad_s, newton_m = "rad, fingers m", "rad/s, fingers m/s", "N m, fingers N"
    f4, f8, state = "float32", "float64", Role.STATE
    target = "joint positions that the action asks of the drives"
    tool = "tool centre point in the env frame, 0.1034 m along z from panda_hand"
    columns = {
        "action": Column((num_actions,), f4, Role.ACTION, "1", "the policy's answer to this row"),
        "joint_pos_target": Column(joints, f4, Role.ACTION, rad, target, names),
        "proprio": Column((len(terms),), f4, Role.PRIVILEGED, "mixed", "the observation that the policy saw", terms),
        "joint_pos": Column(joints, f4, state, rad, "joint positions", names, True, "joint_pos_rel"),
        "joint_vel": Column(joints, f4, state, rad_s, "joint velocities", names, True, "joint_vel_rel"),
        "joint_effort": Column(joints, f4, state, newton_m, "what the drives applied in the step before", names),
        "ee_position": Column((3,), f4, state, "m", tool, tuple("xyz")),
        "ee_rotation": Column((4,), f4, state, "1", "the tool's orientation, a unit quaternion", tuple("xyzw")),
        **of_task,
        "success": Column((), "bool", Role.METRIC, "1", "whether the task has succeeded at this instant"),
        "reward": Column((), f4, Role.METRIC, "1", "the task's reward for this row's action"),
        "extrinsics": Column(
            (num_cameras, 4, 4), f8, Role.CALIBRATION, "m", "T_world_cam (camera to world), OpenCV axes, env frame"
        ),
        "sim_state": Column((state_size,), f8, Role.PRIVILEGED, "mixed", "the simulator's complete state"),
    }
    return {  # a task of Isaac Lab's may observe otherwise, or under other names
        name: column if column.observed_as in obs_terms else replace(column, observed_as="")
        for name, column in columns.items()
    }
