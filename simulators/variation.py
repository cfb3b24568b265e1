"""What differs from episode to episode, drawn from random numbers of its own.

    drawn = draw(VariationCfg(("pose",)), movable=("cabinet",), seed=7, env=0)
    drawn["pose"]["cabinet"]                     # [x, y, z in m, yaw in rad] that it is moved by

Each kind has a spawn key of its own, so that the motion is the same bit by bit whichever looks are drawn. What was
drawn is JSON: it is an episode's `variation`, and puts the same scene back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("pose",)
"""In the order of their spawn keys: a new one comes last."""


@dataclass(frozen=True)
class VariationCfg:
    """What varies, and how far."""

    kinds: tuple[str, ...] = ()
    """Of KINDS."""
    pose_range: tuple[float, float, float, float] = (0.05, 0.10, 0.025, 0.1)
    """How far things move to either side along the env's x, y and z (m), and turn about its z (rad)."""


TRIES = 100
"""Poses that are drawn at most until one fits. With the default ranges one in seven does not."""
NOTHING_VARIES = VariationCfg()


def draw(
    cfg: VariationCfg, movable: Sequence[str], seed: int, env: int, fits: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """What env `env` gets in a round of seed `seed`, by kind; JSON types.

    Args:
        cfg: what is drawn.
        movable: the bodies that "pose" moves.
        seed: the round's.
        env: its index.
        fits: whether the robot may start in a scene with such a pose; if not, it is drawn again.
    """
    drawn: dict[str, Any] = {}
    if "pose" in cfg.kinds:
        rng = _generator(seed, env, "pose")
        for _ in range(TRIES):
            drawn["pose"] = {body: (rng.uniform(-1, 1, 4) * cfg.pose_range).tolist() for body in movable}
            if fits(drawn):
                break
    return drawn


def _generator(seed: int, env: int, kind: str) -> np.random.Generator:
    """Beside `seeds.episode_rng`, whose key is (env,)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(env, KINDS.index(kind))))
