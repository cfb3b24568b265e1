"""Writes a visuomotor-policy-learning (VPL) dataset: one MP4 a camera and one HDF5 an episode, published whole.

    with VPLSaver(cfg) as saver:
        saver.begin_round(0)
        saver.store(sample, action, joint_pos_target, reward, recording)     # once a control step
        saver.end_episodes(ended, terminated, truncated)

Dataset format, version 1
-------------------------
    <data_root>/<task>_<sim_or_real>_<robot_name>_<YYYYMMDD_HHMMSS>/
        metadata.json                          derived from the episodes: versions, arguments, cameras, a row an episode
        episode_000/episode_000.h5             the table SCHEMA of vpl_episode.py
        episode_000/camera_0/episode_000.mp4   H.264 yuv420p of `color[:, 0]`, not rescaled, index up front, BT.709
        failed/episode_007/...                 with --only_success: the episodes without success
        .partial/                              episodes being written; never part of the dataset

T rows, C cameras, J joints, O observations, A actions. Row t holds the image and state that the policy saw, the action
that it answered, and that action's reward. SI units, radians; world = the env's own origin; quaternions x, y, z, w.
`color` is chunked by frame and camera and compressed with HDF5's stock gzip filter: any HDF5 reader opens it.
`--video_interval k` keeps every k-th row and adds the group `full_rate/`: all datasets but `color` and `intrinsics` at
every control step, and `frame_step` (T,) int64, the control step of each row.

Attributes of a file: format_version, task, simulator, episode_index, env_index, round, seed, num_frames, fps (playback
rate), step_dt (s), video_interval, language_instruction, terminated (the task ended it), truncated (time-out, or
--steps reached); and where the task has a measure of success: success_metric, success_threshold and success, which is
`<success_metric>[-1] >= success_threshold`, of `full_rate/` where it is. OPTIONAL columns are absent where the task has
no such thing. A merged dataset's episodes have `source`, the dataset and episode that they were.

An episode is written under .partial/, closed, checked, flushed to disk and then renamed: `episode_*` is always whole.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from av.video.reformatter import VideoReformatter

from vpl_episode import FORMAT_VERSION, DatasetCfg, EpisodeFile, SaverError, all_episode_folders, fsync, read_row
from vpl_workers import WorkerError, WriterPool

if TYPE_CHECKING:
    from simulators import Sample

QUEUE_BYTES = 24 << 20
"""Frames that may wait for the writers; when they are full, the simulation waits."""


@dataclass(frozen=True)
class _Step:
    """One control step of one writer's envs."""

    round: int
    index: int
    low_dim: dict[str, np.ndarray]
    recording: np.ndarray


@dataclass(frozen=True)
class _End:
    """Which of one writer's envs' episodes end here, and how; bool each."""

    ended: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class VPLSaver:
    """Takes batches from the stepping thread; env i is written by worker i mod W."""

    def __init__(self, cfg: DatasetCfg, resume: bool = False) -> None:
        """Create the dataset's folder, or with `resume` open it, dropping what an earlier run left in .partial/.

        Raises:
            FileExistsError: `cfg.root` exists and is not to be resumed.
            SaverError: another process writes into the dataset.
        """
        self.cfg = cfg
        self.episodes: list[dict[str, Any]] = []
        """A row for each published episode, as in metadata.json."""
        self._partial = cfg.root / ".partial"
        cfg.root.mkdir(parents=True, exist_ok=resume)
        self._partial.mkdir(exist_ok=resume)
        self._lock = _lock(self._partial)
        if resume:
            self._drop_partial()
            self._read_missing_rows()
        self._round = self._step = 0
        self._metadata_due = 0.0
        bytes_per_env = cfg.batch_bytes // cfg.num_envs
        # without metadata: torch's version is an object of torch, which each process would import for it
        self._pool = WriterPool(
            functools.partial(EpisodeWriter, replace(cfg, metadata={})), cfg.writer_workers, cfg.use_processes,
            slots=max(1, QUEUE_BYTES // cfg.batch_bytes),
            frame_bytes=[bytes_per_env * len(range(cfg.num_envs)[part]) for part in self._parts()],
        )  # fmt: skip
        self.write_metadata()

    @property
    def num_successes(self) -> int:
        """Successful among `episodes`."""
        return sum(row["success"] for row in self.episodes)

    @property
    def writer_wait_s(self) -> float:
        """Seconds that the stepping thread waited for the writers."""
        return self._pool.wait_s

    def begin_round(self, round_index: int) -> np.ndarray:
        """Every env starts an episode, number round * num_envs + env; returns which are not on disk yet, (N,) bool."""
        self._round, self._step = round_index, 0
        done = {row["env_index"] for row in self.episodes if row["round"] == round_index}
        return np.array([env not in done for env in range(self.cfg.num_envs)])

    def wants_images(self, step: int) -> bool:
        """Whether control step `step` of a round is a row of `color`."""
        return step % self.cfg.video_interval == 0

    def store(
        self,
        sample: Sample,
        action: np.ndarray,
        joint_pos_target: np.ndarray,
        reward: np.ndarray,
        recording: np.ndarray,
    ) -> None:
        """Hand over one control step; the arrays may be kept, do not write into them.

        Args:
            sample: the instant before the action, with images where `wants_images` says so.
            action: (N, A) float32.
            joint_pos_target: (N, J) float32, rad and m.
            reward: (N,) float32.
            recording: (N,) bool; rows where it is False are ignored.

        Raises:
            SaverError: a writer failed.
        """
        low_dim = {name: array for name, array in vars(sample).items() if name != "color" and array is not None}
        low_dim |= {"action": action, "joint_pos_target": joint_pos_target, "reward": reward}
        low_dim["timestamps"] = np.full(self.cfg.num_envs, self._step * self.cfg.step_dt)
        parts = [
            _Step(self._round, self._step, {name: array[part] for name, array in low_dim.items()}, recording[part])
            for part in self._parts()
        ]
        self._submit(parts, sample.color)
        self._step += 1

    def end_episodes(self, ended: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> None:
        """Close and publish the episodes of the envs where `ended` is True, in the background; (N,) bool each."""
        self._submit([_End(ended[part], terminated[part], truncated[part]) for part in self._parts()], None)

    def close(self) -> None:
        """Wait until every ended episode is published; drop those that have not ended.

        Raises:
            SaverError: a writer failed.
        """
        failure: Exception | None = None
        try:
            self._pool.close()
        except WorkerError as error:
            failure = error
        except KeyboardInterrupt:
            self._leave_quietly()
            raise
        try:
            self._leave()
        except OSError as error:
            failure = failure or error  # after a worker's failure the folder may be what failed
        if failure is not None:
            raise self._failure(failure) from failure

    def write_metadata(self) -> None:
        """Replace metadata.json; it repeats what the episodes' files say."""
        start = time.monotonic()
        episodes = sorted(self.episodes, key=lambda row: row["episode_index"])
        document = {
            "format_version": FORMAT_VERSION,
            "task": self.cfg.task,
            "simulator": self.cfg.simulator,
            "num_episodes": len(episodes),
            **({"num_successes": self.num_successes} if self.cfg.success_metric else {}),
            "writer_wait_s": round(self.writer_wait_s, 3),
            **self.cfg.metadata,
            "episodes": episodes,
        }
        temporary = self._partial / "metadata.json"
        with open(temporary, "w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.cfg.root / "metadata.json")
        # at most 1 % of the time: it is derived, and close() completes it
        self._metadata_due = time.monotonic() + max(1.0, 100 * (time.monotonic() - start))

    def __enter__(self) -> VPLSaver:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        if exc_type is None:
            self.close()
        elif issubclass(exc_type, Exception):
            with suppress(SaverError):  # the first exception is the one to see
                self.close()
        else:  # a second Ctrl-C: leave at once
            self._pool.abort()
            self._leave_quietly()

    def _parts(self) -> list[slice]:
        return [slice(worker, None, self.cfg.writer_workers) for worker in range(self.cfg.writer_workers)]

    def _submit(self, items: list[Any], frames: np.ndarray | None) -> None:
        try:
            parts = [None if frames is None else frames[part] for part in self._parts()]
            self.episodes += self._pool.submit(items, parts)
            if time.monotonic() > self._metadata_due:
                self.write_metadata()
        except (WorkerError, OSError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> SaverError:
        return SaverError(f"writing failed: {error}; whole episodes are kept, go on with --resume {self.cfg.root}")

    def _leave(self) -> None:
        """Complete metadata.json from what is on disk, remove what is partial and let go of the dataset."""
        try:
            self._drop_partial()
            self._read_missing_rows()
            self.write_metadata()
            self._partial.rmdir()
        finally:
            os.close(self._lock)

    def _read_missing_rows(self) -> None:
        known = {row["path"] for row in self.episodes}
        folders = [f for f in all_episode_folders(self.cfg.root) if str(f.relative_to(self.cfg.root)) not in known]
        self.episodes += [read_row(folder, self.cfg.root) for folder in folders]

    def _leave_quietly(self) -> None:
        with suppress(OSError):  # another exception is on its way
            self._leave()

    def _drop_partial(self) -> None:
        for path in self._partial.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


class EpisodeWriter:
    """What a worker does: writes and publishes the episodes of its envs. A `vpl_workers.Handler`."""

    def __init__(self, cfg: DatasetCfg, worker: int) -> None:
        self._cfg = cfg
        self._envs = range(worker, cfg.num_envs, cfg.writer_workers)
        self._reformatter = VideoReformatter()
        self._open: dict[int, EpisodeFile] = {}

    def handle(self, item: _Step | _End, frames: np.ndarray | None) -> list[dict[str, Any]]:
        """Write a step, or publish what ends and return its rows of metadata.json."""
        if isinstance(item, _End):
            return self._publish(item)
        for i, env in enumerate(self._envs):
            if not item.recording[i]:
                continue
            if env not in self._open:
                self._open[env] = EpisodeFile(self._cfg, self._reformatter, item.round, env)
            color = None if frames is None else frames[i]
            self._open[env].append(item.index, color, {name: array[i] for name, array in item.low_dim.items()})
        return []

    def abandon(self) -> None:
        """Close the episodes that have not ended; their files stay in .partial/ until the saver drops them."""
        for episode in self._open.values():
            with suppress(OSError, RuntimeError):  # h5py's, where the disk is full; the first failure is the one to see
                episode.h5.close()
        self._open = {}

    def _publish(self, item: _End) -> list[dict[str, Any]]:
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
        episode.folder.rename(parent / episode.name)
        fsync(parent)
        del self._open[env]
        return {**row, "path": str((parent / episode.name).relative_to(self._cfg.root))}


def _lock(folder: Path) -> int:
    """Hold `folder` for this process; returns what to close."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SaverError(f"another process writes into {folder.parent}; wait for it or stop it") from error
    return descriptor
