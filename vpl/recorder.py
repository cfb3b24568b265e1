"""Arrays of all envs in, published episodes out: what a saver does, and a worker that shares its dataset with others.

    recorder = Recorder(cfg, folder)                                         # writes under `folder`, in .partial/
    recording = recorder.begin_round(0)
    recorder.store(columns, images, recording)                               # once per control step
    recorder.end_episodes(ended, terminated, truncated)
    recorder.flush()
    rows = recorder.episodes

vpl/round.py says what is refused, and which episodes are dropped: those in which a number is not finite.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vpl.catalog import beginning, failure
from vpl.episode import DatasetCfg
from vpl.round import Round
from vpl.rows import Rows
from vpl.workers import WorkerError, WriterPool
from vpl.writer import Drop, End, EpisodeWriter, Step

QUEUE_BYTES = 24 << 20
"""Frames that may wait for the writers; when they are full, the simulation waits."""


class Recorder:
    """Takes batches from the stepping thread; env i is written by writer i mod W."""

    def __init__(self, cfg: DatasetCfg, folder: Path) -> None:
        """Start the writers, which write in `folder` and publish into `cfg.root`.

        Raises:
            SaverError: they cannot be.
        """
        self.cfg = cfg
        self.episodes = Rows()
        """A row for each published episode, as in metadata.json."""
        self._folder = folder
        self._round = Round(cfg)
        self._gave_up = False
        self._variation: list[Mapping[str, Any]] = []
        self._intrinsics = cfg.intrinsics[None]
        bytes_per_env = cfg.batch_bytes // cfg.num_envs
        # without metadata: torch's version is an object of torch, which each process would import for it
        make_writer = functools.partial(EpisodeWriter, replace(cfg, metadata={}), folder)
        with beginning(cfg.root):
            self._pool = WriterPool(
                make_writer,
                cfg.writer_workers,
                cfg.use_processes,
                slots=max(1, QUEUE_BYTES // cfg.batch_bytes),
                array_bytes=[bytes_per_env * len(range(cfg.num_envs)[part]) for part in self._parts()],
            )

    @property
    def dropped(self) -> list[dict[str, Any]]:
        """A row for each episode that was left out: episode_index, round, env_index, step and reason."""
        return self._round.dropped

    @property
    def writer_wait_s(self) -> float:
        """Seconds that the stepping thread waited for the writers."""
        return self._pool.wait_s

    def begin_round(
        self,
        round_index: int,
        variation: Sequence[Mapping[str, Any]] = (),
        intrinsics: np.ndarray | None = None,
    ) -> np.ndarray:
        """Every env starts an episode, number round * num_envs + env; returns which are not on disk yet, (N,) bool.

        Args:
            round_index: the round's number.
            variation: `CameraEnv.episode_info` of the round's episodes, N of them; (): nothing was drawn.
            intrinsics: pinhole K of each episode's cameras, (N, C, 3, 3) px; None: those of `cfg`.

        Raises:
            RuntimeError: episodes of the last round are open, or this round was begun before.
        """
        done = {row["env_index"] for row in self.episodes.of_round(round_index)}
        on_disk = np.array([env in done for env in range(self.cfg.num_envs)])
        self._round.begin(round_index, on_disk)
        self._variation = list(variation) or [{}] * self.cfg.num_envs
        self._intrinsics = (
            np.tile(self.cfg.intrinsics, (self.cfg.num_envs, 1, 1, 1)) if intrinsics is None else intrinsics
        )
        return ~on_disk

    def wants_images(self, step: int) -> bool:
        """Whether control step `step` of a round is a row of `color`."""
        return step % self.cfg.video_interval == 0

    def store(
        self, columns: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], recording: np.ndarray
    ) -> list[dict[str, Any]]:
        """Hand over one control step; the arrays may be kept, do not write into them.

        An episode in which a number is not finite is dropped: it is not published, and rows of it are ignored.

        Args:
            columns: (N, *shape) of each of `cfg.columns`: the instant before the action, the action, what came of it.
            images: (N, C, H, W, ...) of each of `cfg.streams`; needed where `wants_images` says so.
            recording: (N,) bool; rows where it is False are ignored.

        Returns:
            What `dropped` has gained.

        Raises:
            RuntimeError: there is no such open episode.
            SaverError: a writer failed.
            ValueError: an array is not what `cfg.columns` declares.
        """
        index = self._round.step
        recording, lost = self._round.check(columns, images, recording)
        assert self._round.number is not None
        rows = {**columns, "timestamps": np.full(self.cfg.num_envs, index * self.cfg.step_dt)}
        parts = [
            Step(
                self._round.number,
                index,
                {name: array[part] for name, array in rows.items()},
                recording[part],
                self._variation[part],
                self._intrinsics[part],
            )
            for part in self._parts()
        ]
        self._submit(parts, images)
        return self._discard(lost)

    def drop_episodes(self, envs: np.ndarray, reason: str) -> list[dict[str, Any]]:
        """Leave out the episodes of `envs`, (N,) bool, for what the last step did; returns what `dropped` gained."""
        return self._discard(self._round.drop(envs, reason))

    def end_episodes(self, ended: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> None:
        """Close and publish the episodes of the envs where `ended` is True, in the background; (N,) bool each.

        Raises:
            RuntimeError: an env has no open episode; that its episode was dropped is no error.
            SaverError: a writer failed.
            ValueError: an episode ends in no way, or in both.
        """
        ended = self._round.end(ended, terminated, truncated)
        self._submit([End(ended[part], terminated[part], truncated[part]) for part in self._parts()])

    def flush(self) -> None:
        """Wait until every ended episode is published.

        Raises:
            SaverError: a writer failed.
        """
        self._take(self._pool.flush)

    def close(self) -> None:
        """`flush`, and end the writers; nothing is taken any more.

        Raises:
            SaverError: a writer failed.
        """
        self._round.close()
        self._take(self._pool.close)

    def give_up(self) -> None:
        """Let the writers drop what they have not published, so that `close` need not wait; for a signal's handler."""
        self._gave_up = True
        self._pool.give_up()

    def abort(self) -> None:
        """End the writers without waiting for what they have not begun."""
        self._pool.abort()

    def _discard(self, lost: np.ndarray) -> list[dict[str, Any]]:
        if not lost.any():
            return []
        self._submit([Drop(lost[part]) for part in self._parts()])
        return self.dropped[-int(lost.sum()) :]

    def _parts(self) -> list[slice]:
        return [slice(worker, None, self.cfg.writer_workers) for worker in range(self.cfg.writer_workers)]

    def _submit(self, items: list[Any], images: Mapping[str, np.ndarray] = MappingProxyType({})) -> None:
        arrays = [{name: array[part] for name, array in images.items()} for part in self._parts()]
        self._take(lambda: self._pool.submit(items, arrays))

    def _take(self, results: Callable[[], list[dict[str, Any]]]) -> None:
        """Add the rows that the writers give.

        Raises:
            SaverError: a writer failed.
        """
        try:
            self.episodes += results()
        except (WorkerError, OSError) as error:  # the second: of rows in a temporary file
            if not self._gave_up:
                raise failure(self.cfg.root, self._folder, error) from error
