"""How recorded data is declared: what a column of an episode is to somebody who trains on it.

    Column(("T", "J"), "float32", Role.STATE, "rad, fingers m", "joint positions")

Readers go by this, not by names of their own: exports, statistics, the report and the checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Role(str, Enum):
    """What a column is to somebody who trains on it."""

    IMAGE = "image"
    """What the cameras saw."""
    STATE = "state"
    """What the robot itself feels: it may be a student's input."""
    ACTION = "action"
    """What was wanted of the robot: it may be a student's label."""
    PRIVILEGED = "privileged"
    """What only a simulator knows, such as the pose of an object."""
    METRIC = "metric"
    """How the episode goes: reward, time."""
    CALIBRATION = "calibration"
    """Where the cameras are and how they project."""


@dataclass(frozen=True)
class Column:
    """One dataset of an episode's HDF5."""

    shape: tuple[str | int, ...]
    """Letters stand for sizes that differ from file to file: T rows, C cameras, J joints, ..."""
    dtype: str
    role: Role
    unit: str
    """SI; "1" for what has none, "mixed" where elements differ."""
    meaning: str
    optional: bool = False
    """Whether it is absent where the task has no such thing."""
    in_state: bool = False
    """Whether `sim_state` of the same row holds the same numbers, in the same order."""
    observed_as: str = ""
    """The term of the policy's observation that is this column less a constant; "": there is none."""
