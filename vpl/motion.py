"""Recorded episodes as the motion that they are: their numbers by round and env, to drive a simulator with.

Example:
    for number, episodes in rounds(folders, single=False):
        env.set_state(batch(episodes, 0, env.num_envs)["sim_state"])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vpl.format import column_names
from vpl.reader import load_episode
from vpl.variation import variation_of


@dataclass(frozen=True)
class Recorded:
    """What an episode's file says at every control step."""

    name: str
    env: int
    attrs: dict[str, Any]
    rows: dict[str, np.ndarray]
    """Its columns, (T, ...)."""
    variation: dict[str, Any]
    """What was drawn for it."""

    def __len__(self) -> int:
        return len(self.rows["sim_state"])


def rounds(folders: Sequence[Path], single: bool) -> Iterator[tuple[int, list[Recorded]]]:
    """The recorded episodes, by round; a `single` one is env 0 of a round of its own number."""
    by_round: dict[int, list[Path]] = {}
    for folder in folders:
        with load_episode(folder) as episode:
            key = "episode_index" if single else "round"
            by_round.setdefault(episode.attrs[key], []).append(folder)
    for round_index, of_round in sorted(by_round.items()):
        yield round_index, [read(folder, single) for folder in of_round]


def read(folder: Path, alone: bool) -> Recorded:
    """An episode's numbers."""
    with load_episode(folder) as episode:
        table = episode.h5.get("full_rate", episode.h5)
        rows = {name: table[name][:] for name in column_names(episode.h5)}
        env = 0 if alone else episode.attrs["env_index"]
        return Recorded(folder.name, env, episode.attrs, rows, variation_of(episode.h5))


def batch(episodes: list[Recorded], step: int, num_envs: int) -> dict[str, np.ndarray]:
    """A step of all envs, (N, ...) each: the last row of what has ended, the first episode's where there is none."""
    chosen = of_envs(episodes, num_envs)
    return {name: np.stack([e.rows[name][min(step, len(e) - 1)] for e in chosen]) for name in episodes[0].rows}


def of_envs(episodes: list[Recorded], num_envs: int) -> list[Recorded]:
    """Each env's episode; the first one where an env has none."""
    chosen = [episodes[0]] * num_envs
    for episode in episodes:
        chosen[episode.env] = episode
    return chosen


def variations(episodes: list[Recorded], num_envs: int) -> list[dict[str, Any]]:
    """What was drawn for each env's episode."""
    return [episode.variation for episode in of_envs(episodes, num_envs)]
