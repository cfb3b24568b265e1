"""What a saver takes of a round: calls in their order, arrays of the format's shapes, and numbers that are finite.

    round_ = Round(cfg)
    round_.begin(0, on_disk)
    recording, dropped = round_.check(columns, images, recording)    # once a control step
    ended = round_.end(ended, terminated, truncated)

All of it is checked in the stepping thread, where the caller's own line is in the traceback. A wrong call raises. A
number that is not finite is not the caller's fault: a simulation diverges, a policy answers NaN. It costs the episode
that it is in, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vpl.episode import DatasetCfg


class Round:
    """Which episodes of the present round may be stored, are open, have ended or were dropped."""

    def __init__(self, cfg: DatasetCfg) -> None:
        self.number: int | None = None
        """The present round; None: none was begun, or the saver is closed."""
        self.step = 0
        self.dropped: list[dict[str, Any]] = []
        """A row for each episode that was dropped, of all rounds, as metadata.json lists them."""
        self._cfg = cfg
        self._begun: set[int] = set()
        self._open, self._over, self._lost = np.zeros((3, cfg.num_envs), bool)

    def begin(self, number: int, on_disk: np.ndarray) -> None:
        """Every env starts an episode but where it is `on_disk`, (N,) bool."""
        if self._open.any():
            raise RuntimeError(
                f"begin_round({number}): round {self.number} is still open in env {_listed(self._open)}; "
                "end_episodes or drop_episodes comes first"
            )
        if number in self._begun:
            raise RuntimeError(f"begin_round({number}): this round was begun before; its episodes are its only ones")
        self._begun.add(number)
        self.number, self.step = number, 0
        self._over, self._lost = on_disk.copy(), np.zeros_like(on_disk)

    def close(self) -> None:
        """Nothing more is taken."""
        self.number = None

    def check(
        self, columns: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], recording: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take a control step; returns the envs whose rows are to be written and those dropped by it, (N,) bool each.

        Raises:
            RuntimeError: no round was begun, or an env's episode is over.
            ValueError: an array is missing, or has another shape or dtype than the format's.
        """
        self._check_envs("store", "recording", recording)
        if (again := recording & self._over).any():
            raise RuntimeError(f"store: round {self.number} is over or on disk already in env {_listed(again)}")
        self._check_columns(columns)
        self._check_images(images, needed=self.step % self._cfg.video_interval == 0 and bool(recording.any()))
        recording = recording & ~self._lost
        self._open |= recording
        lost = np.zeros_like(recording)
        for name, array in columns.items():
            if not np.isfinite(array).all():
                bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
                lost |= self._drop(bad & recording & ~lost, f"{name} is not finite", self.step)
        self.step += 1
        return recording & ~lost, lost

    def drop(self, envs: np.ndarray, reason: str) -> np.ndarray:
        """Leave out the episodes of `envs` for what the last step did; returns those not dropped before, (N,) bool."""
        self._check_envs("drop_episodes", "envs", envs)
        if (over := envs & self._over).any():
            raise RuntimeError(f"drop_episodes: round {self.number} is over or on disk already in env {_listed(over)}")
        return self._drop(envs & ~self._lost, reason, max(0, self.step - 1))

    def end(self, ended: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> np.ndarray:
        """Close the episodes of `ended` but of those that were dropped; returns which are to be published, (N,) bool.

        Raises:
            RuntimeError: there is no open episode.
            ValueError: an array has another shape or dtype, or an episode ends in no way, or in both.
        """
        for name, envs in (("ended", ended), ("terminated", terminated), ("truncated", truncated)):
            self._check_envs("end_episodes", name, envs)
        if (unclear := ended & (terminated == truncated)).any():
            raise ValueError(f"end_episodes: env {_listed(unclear)} must be either terminated or truncated")
        ended = ended & ~self._lost
        if (absent := ended & ~self._open).any():
            raise RuntimeError(f"end_episodes: round {self.number} has no open episode in env {_listed(absent)}")
        self._open &= ~ended
        self._over |= ended
        return ended

    def _drop(self, envs: np.ndarray, reason: str, step: int) -> np.ndarray:
        assert self.number is not None
        self._open &= ~envs
        self._lost |= envs
        for env in map(int, np.flatnonzero(envs)):
            index = self.number * self._cfg.num_envs + env
            identity = {"episode_index": index, "round": self.number, "env_index": env}
            self.dropped.append({**identity, "step": step, "reason": reason})
        return envs

    def _check_envs(self, call: str, name: str, envs: np.ndarray) -> None:
        if self.number is None:
            raise RuntimeError(f"{call}: no round is open; begin_round comes first, and nothing after close")
        if envs.shape != (self._cfg.num_envs,) or envs.dtype != bool:
            raise ValueError(
                f"{call}: {name} is {envs.dtype} {envs.shape}, the dataset takes bool ({self._cfg.num_envs},)"
            )

    def _check_columns(self, columns: Mapping[str, np.ndarray]) -> None:
        if missing := [name for name in self._cfg.columns if name not in columns]:
            raise ValueError(f"store: {', '.join(missing)} is missing; the dataset declares it")
        if unknown := [name for name in columns if name not in self._cfg.columns]:
            raise ValueError(f"store: {', '.join(unknown)} is not among the columns that the dataset declares")
        for name, column in self._cfg.columns.items():
            self._check_array(name, columns[name], column.shape, column.dtype)

    def _check_images(self, images: Mapping[str, np.ndarray], needed: bool) -> None:
        cfg = self._cfg
        if unknown := [name for name in images if name not in cfg.streams]:
            raise ValueError(f"store: {', '.join(unknown)} is not among the streams that the dataset declares")
        for name, stream in cfg.streams.items():
            if name in images:
                shape = (len(cfg.camera_names), *stream.shape(cfg.height, cfg.width))
                self._check_array(name, images[name], shape, stream.dtype)
            elif needed:
                raise ValueError(f"store: step {self.step} is a row and has no images of {name}")

    def _check_array(self, name: str, array: np.ndarray, shape: tuple[int | str, ...], dtype: str) -> None:
        expected = (self._cfg.num_envs, *shape)
        if array.shape != expected or array.dtype != dtype:
            raise ValueError(f"store: {name} is {array.dtype} {array.shape}, the dataset takes {dtype} {expected}")


def said_of(dropped: Mapping[str, Any]) -> str:
    """A row of `Round.dropped` in words."""
    where = f"round {dropped['round']}, env {dropped['env_index']}, step {dropped['step']}"
    return f"left out    episode_{dropped['episode_index']:03d}: {dropped['reason']} ({where})"


def _listed(envs: np.ndarray) -> str:
    """Envs (N,) bool in words."""
    return ", ".join(map(str, np.flatnonzero(envs)))
