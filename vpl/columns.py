"""How recorded data is declared: the columns of an episode, the image streams of its cameras, and success.

    Column((9,), "float32", Role.STATE, "rad, fingers m", "joint positions", names=JOINT_NAMES)

A simulator and its task declare what they record. The saver writes exactly that, with each declaration beside its data,
and whatever reads a dataset goes by what the files declare. Only numpy's names of types are used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Role(str, Enum):
    """What a column is to somebody who trains on it."""

    STATE = "state"
    """What the robot itself feels: it may be a student's input."""
    ACTION = "action"
    """What was wanted of the robot: it may be a student's label."""
    PRIVILEGED = "privileged"
    """What only a simulator knows, such as the pose of an object."""
    METRIC = "metric"
    """How the episode goes: reward, success, time."""
    CALIBRATION = "calibration"
    """Where the cameras are and how they project."""


@dataclass(frozen=True)
class Column:
    """One row of numbers per control step and env."""

    shape: tuple[int | str, ...]
    """Of one env's row; () is a single number. Letters stand for sizes that differ from file to file."""
    dtype: str
    role: Role
    unit: str
    """SI; "1" for what has none, "mixed" where elements differ."""
    meaning: str
    names: tuple[str, ...] = ()
    """Of the row's elements, where they have names."""
    in_state: bool = False
    """Whether `sim_state` of the same row holds the same numbers, in the same order."""
    observed_as: str = ""
    """The term of the policy's observation that is this column less a constant; "": there is none."""


@dataclass(frozen=True)
class Stream:
    """One kind of image that every camera gives."""

    dtype: str
    channels: int
    """1: the images are (H, W), else (H, W, channels)."""
    role: Role
    unit: str
    meaning: str
    ids: tuple[str, ...] = ()
    """Where pixels are ids: what each is, by its number."""

    def shape(self, height: Any, width: Any) -> tuple[Any, ...]:
        """Of an image."""
        return (height, width) if self.channels == 1 else (height, width, self.channels)


STREAMS: dict[str, Stream] = {
    "color": Stream("uint8", 3, Role.STATE, "1", "RGB images, lossless"),
    "depth": Stream("uint16", 1, Role.STATE, "mm", "distance along the optical axis; 0 where nothing was hit"),
    "segmentation": Stream("uint8", 1, Role.PRIVILEGED, "1", "what is seen, an index of attribute `ids`"),
}
"""All that a simulator may have; which of them it has is `CameraEnv.streams`."""


@dataclass(frozen=True)
class SuccessRule:
    """Success that one number decides."""

    column: str
    comparison: str
    """">=" or "<="."""
    threshold: float

    def holds(self, values: Any) -> Any:
        """Whether values (N,) of the column mean success, (N,) bool; numpy's or torch's."""
        return values >= self.threshold if self.comparison == ">=" else values <= self.threshold
