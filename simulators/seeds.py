"""The one derivation of all random numbers that an episode depends on."""

from __future__ import annotations

import numpy as np


def round_seed(seed: int, round_index: int) -> int:
    """The seed of round `round_index` of a run with `--seed seed`: SeedSequence(seed, spawn_key=(round,))."""
    return int(np.random.SeedSequence(seed, spawn_key=(round_index,)).generate_state(1, np.uint64)[0])


def copy_seed(seed: int, round_index: int, copy: int) -> int:
    """The seed of what is drawn anew for copy number `copy` of a round that is filmed again."""
    return int(np.random.SeedSequence(seed, spawn_key=(round_index, copy)).generate_state(1, np.uint64)[0])


def noise_rng(seed: int, env_index: int) -> np.random.Generator:
    """The generator of the noise on one env's actions in a round of seed `seed`, beside what `episode_rng` and the
    kinds of variation draw."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(env_index, 0, 0)))


def episode_rng(seed: int, env_index: int) -> np.random.Generator:
    """The generator of one env's draws in a round of seed `seed`, independent of how many envs there are."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(env_index,)))
