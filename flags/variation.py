"""The flags that say what differs from episode to episode."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flags import FlagError, flag
from flags.isaac import Abilities
from simulators.variation import DEFAULT_KINDS, KINDS, VariationCfg

PoseRange = tuple[float, float, float, float]
DATA_POSE_RANGE = VariationCfg().pose_range


@dataclass(frozen=True, kw_only=True)
class PoseFlags:
    """How far the task's things move."""

    pose_range: PoseRange = flag(
        DATA_POSE_RANGE,
        "how far the task's things move to either side along x, y, z, and turn about z",
        unit="m, rad",
        metavar=("DX", "DY", "DZ", "DYAW"),
    )

    def check_pose_range(self) -> None:
        """Refuse what is no range.

        Raises:
            FlagError: it is none.
        """
        if not all(math.isfinite(side) and 0 <= side <= math.pi for side in self.pose_range):
            given = " ".join(map(str, self.pose_range))
            raise FlagError(f"--pose_range must be four numbers from 0 to pi, got {given}")


@dataclass(frozen=True, kw_only=True)
class VariationFlags(PoseFlags):
    """What varies."""

    randomize: str | None = flag(
        None,
        f"what differs between episodes: none, all, or some of {','.join(KINDS)}",
        metavar="KINDS",
        default_says=f"{','.join(DEFAULT_KINDS)}, as far as the simulator can",
    )

    def variation(self) -> VariationCfg:
        """What the flags ask for; `randomize` must have been chosen."""
        return VariationCfg(kinds_of(self.randomize or "none"), self.pose_range)

    def check_variation(self, able: Abilities) -> None:
        """Refuse what the simulator cannot vary.

        Raises:
            FlagError: it is asked for.
        """
        self.check_pose_range()
        if lacking := [kind for kind in kinds_of(self.randomize or "none") if kind not in able.kinds]:
            has = ",".join(able.kinds) or "none"
            raise FlagError(f"--randomize {self.randomize}: {able.name} cannot vary {lacking[0]}; give {has}")


def kinds_of(randomize: str) -> tuple[str, ...]:
    """The kinds of variation that a value of --randomize names, in their order.

    Raises:
        FlagError: there is no such kind.
    """
    named = {"none": (), "all": KINDS}.get(randomize, tuple(randomize.split(",")))
    if unknown := [kind for kind in named if kind not in KINDS]:
        raise FlagError(f"--randomize {randomize}: '{unknown[0]}' is unknown; give none, all, or {','.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in named)
