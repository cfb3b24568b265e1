"""What a worker of the saver does: it writes and publishes the episodes of its envs.

Example:
    writer = EpisodeWriter(cfg, attempt, worker=0)
    writer.handle(Step(...), images)          # once per control step
    rows = writer.handle(End(...), {})        # the rows of metadata.json of what was published
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter

from vpl.episode import DatasetCfg, EpisodeFile
from vpl.files import publish
from vpl.listing import read_row


@dataclass(frozen=True)
class Step:
    """One control step of one writer's envs."""

    round: int
    index: int
    columns: dict[str, np.ndarray]
    recording: np.ndarray
    variation: list[Mapping[str, Any]]
    """Of each of the writer's envs' episodes."""
    intrinsics: np.ndarray
    """(n, C, 3, 3), of the same."""


@dataclass(frozen=True)
class Drop:
    """Which of one writer's envs' episodes are left out, (N,) bool."""

    envs: np.ndarray


@dataclass(frozen=True)
class End:
    """Which of one writer's envs' episodes end here, and how; bool each."""

    ended: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class EpisodeWriter:
    """What a worker does: writes and publishes the episodes of its envs. A `vpl.workers.Handler`."""

    def __init__(self, cfg: DatasetCfg, attempt: Path, worker: int) -> None:
        self._cfg = cfg
        self._attempt = attempt
        self._envs = range(worker, cfg.num_envs, cfg.writer_workers)
        self._reformatter = VideoReformatter()
        self._open: dict[int, EpisodeFile] = {}

    def handle(self, item: Step | Drop | End, images: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Write a step, remove what is dropped, or publish what ends and return its rows of metadata.json."""
        if isinstance(item, End):
            return self._publish(item)
        if isinstance(item, Drop):
            for i, env in enumerate(self._envs):
                if item.envs[i] and env in self._open:
                    self._open.pop(env).discard()
            return []
        for i, env in enumerate(self._envs):
            if not item.recording[i]:
                continue
            if env not in self._open:
                self._open[env] = EpisodeFile(
                    self._cfg, self._attempt, self._reformatter, item.round, env, item.variation[i], item.intrinsics[i]
                )
            pictures, row = ({name: array[i] for name, array in part.items()} for part in (images, item.columns))
            self._open[env].append(item.index, pictures, row)
        return []

    def abandon(self) -> None:
        """Close the episodes that have not ended; their files stay in .partial/ until the saver drops them."""
        for episode in self._open.values():
            with suppress(OSError, RuntimeError):  # h5py's, where the disk is full; the first failure is the one to see
                episode.h5.close()
        self._open = {}

    def _publish(self, item: End) -> list[dict[str, Any]]:
        published = []
        with ThreadPoolExecutor(1) as flusher:  # the disk works on one episode while the next is completed
            for i, env in enumerate(self._envs):
                if item.ended[i] and env in self._open:
                    episode = self._open[env]
                    row = episode.finish(bool(item.terminated[i]), bool(item.truncated[i]))
                    published.append((env, row, flusher.submit(episode.flush_to_disk)))
            return [self._rename(env, row, flushed) for env, row, flushed in published]

    def _rename(self, env: int, row: dict[str, Any], flushed: Future[None]) -> dict[str, Any]:
        flushed.result()
        episode, parent = self._open[env], self._cfg.root
        if self._cfg.only_success and not row["success"]:
            parent = parent / "failed"
            parent.mkdir(exist_ok=True)
        del self._open[env]
        target = parent / episode.name
        if not publish(episode.folder, target):
            return read_row(target, self._cfg.root)  # a run that seemed dead has published it meanwhile
        return {**row, "path": str(target.relative_to(self._cfg.root))}
