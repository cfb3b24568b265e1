"""Writes a visuomotor-policy-learning (VPL) dataset: one MP4 per camera and one HDF5 per episode, published whole.

    with VPLSaver(cfg) as saver:
        saver.begin_round(0)
        saver.store(columns, images, recording)                              # once per control step
        saver.end_episodes(ended, terminated, truncated)

vpl/round.py says what is refused, and which episodes are dropped: those in which a number is not finite.

Dataset format, version 2
-------------------------
    <data_root>/<task>_<sim_or_real>_<robot_name>_<YYYYMMDD_HHMMSS>/
        metadata.json                          derived from the episodes: runs, arguments, cameras, one row per episode
        episode_000/episode_000.h5             what follows
        episode_000/camera_0/episode_000.mp4   H.264 yuv420p of `color[:, 0]`, not rescaled, index up front, BT.709
        failed/episode_007/...                 with --only_success: the episodes without success
        .partial/<attempt>/                    episodes that a run is writing; never part of the dataset

T rows, C cameras. Row t holds the image and state that the policy saw, the action that it answered, and that action's
reward. SI units, radians; world = the env's own origin; quaternions x, y, z, w. `color` (T, C, H, W, 3) uint8 is
chunked by frame and camera and compressed with HDF5's stock gzip filter: any HDF5 reader opens it. So are, where
--streams asks for them, `depth` (T, C, H, W) uint16, millimetres along the optical axis, 0 where nothing was hit, after
HDF5's stock shuffle filter; and `segmentation` (T, C, H, W) uint8, whose attribute `ids` says by index what a pixel
shows. `intrinsics` (C, 3, 3) are one for each camera of this episode.

The other datasets are columns, (T, ...) each. Attribute `columns` of the file names them in order, and each has
attributes that declare it: role (state: what the robot itself feels; action; privileged: what only a simulator knows;
metric; calibration), unit, meaning; `names` of its elements where they have some; in_state where `sim_state` holds the
same numbers; observed_as, the part of `proprio` that is this column less a constant. Attribute `terms` of `proprio` has
the slice of each part of the observation, JSON. `vpl.format.declared` reads all of this, and knows the columns of
version 1, whose files do not declare them.
`--video_interval k` keeps every k-th row and adds the group `full_rate/`: the columns at every control step, and
`frame_step` (T,) int64, the control step of each row.

Attributes of a file: format_version, task, simulator, episode_index, env_index, round, seed, num_frames, fps (playback
rate), step_dt (s), video_interval, language_instruction, terminated (the task ended it), truncated (time-out, or
--steps reached), variation (what was drawn for the episode, JSON). `success` is the column of that name at the last
control step, where the task has a measure of success; where one number decides, success_metric, success_comparison and
success_threshold say which, and how. Attribute `run` (absent in earlier versions' files: 0) is an index in the list
`runs` of metadata.json: versions, machine, arguments, checkpoint and starts of what collected the episode. `versions`
and `checkpoint` beside that list are those of run 0. A merged dataset's episodes have `source`, the dataset and episode
that they were.

A state means what it does in its own scene: attribute `spec` of `sim_state` says what its numbers are, and attribute
`scene` is a hash of the scene's physics; Isaac Lab's episodes have none, nor have those of earlier versions.

An episode in which a number is not finite is not published: the list `dropped` in metadata.json names it, its step and
the reason.

An episode is written under .partial/<attempt>/, closed, checked, flushed to disk and then renamed: `episode_*` is
always whole.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vpl.episode import DatasetCfg, SaverError
from vpl.files import Claim, ClaimError
from vpl.format import FORMAT_VERSION
from vpl.listing import all_episode_folders, damage, read_row
from vpl.round import Round
from vpl.workers import WorkerError, WriterPool
from vpl.writer import Drop, End, EpisodeWriter, Step

QUEUE_BYTES = 24 << 20
"""Frames that may wait for the writers; when they are full, the simulation waits."""


class VPLSaver:
    """Takes batches from the stepping thread; env i is written by worker i mod W."""

    def __init__(self, cfg: DatasetCfg, resume: bool = False) -> None:
        """Create the dataset's folder, or with `resume` open it, dropping what an earlier run left in .partial/.

        Raises:
            FileExistsError: `cfg.root` exists and is not to be resumed.
            SaverError: another process writes into the dataset, or nothing can be written there.
        """
        self.cfg = cfg
        self.episodes: list[dict[str, Any]] = []
        """A row for each published episode, as in metadata.json."""
        self._round = Round(cfg)
        self._metadata_due = 0.0
        self._gave_up = False
        self._variation: list[Mapping[str, Any]] = []
        self._intrinsics = cfg.intrinsics[None]
        cfg.root.mkdir(parents=True, exist_ok=resume)
        with ExitStack() as undo:
            if not resume:
                undo.callback(_remove_empty, cfg.root)
            self._open(undo)
            undo.pop_all()

    def _open(self, undo: ExitStack) -> None:
        """Claim the dataset and start the writers; `undo` takes back what was done if the rest fails."""
        cfg = self.cfg
        try:
            self._claim = Claim(cfg.root / ".partial")
            undo.callback(self._claim.release)
            self._read_missing_rows()
            bytes_per_env = cfg.batch_bytes // cfg.num_envs
            # without metadata: torch's version is an object of torch, which each process would import for it
            make_writer = functools.partial(EpisodeWriter, replace(cfg, metadata={}), self._claim.folder)
            self._pool = WriterPool(
                make_writer,
                cfg.writer_workers,
                cfg.use_processes,
                slots=max(1, QUEUE_BYTES // cfg.batch_bytes),
                array_bytes=[bytes_per_env * len(range(cfg.num_envs)[part]) for part in self._parts()],
            )
            undo.callback(self._pool.abort)
            self.write_metadata()
        except ClaimError as error:
            raise SaverError(str(error)) from error
        except OSError as error:
            raise SaverError(f"nothing could be begun in {cfg.root}: {error}") from error

    @property
    def num_successes(self) -> int:
        """Successful among `episodes`."""
        return sum(row["success"] for row in self.episodes)

    @property
    def dropped(self) -> list[dict[str, Any]]:
        """A row for each episode that this run left out: episode_index, round, env_index, step and reason."""
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
        done = {row["env_index"] for row in self.episodes if row["round"] == round_index}
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

    def close(self) -> None:
        """Wait until every ended episode is published; drop those that have not ended.

        Raises:
            SaverError: a writer failed.
        """
        self._round.close()
        failure: SaverError | None = None
        try:
            self._pool.close()
        except WorkerError as error:
            failure = None if self._gave_up else self._failure(error)
        except (KeyboardInterrupt, SystemExit):
            self._leave_quietly()
            raise
        try:
            self._leave()
        except SaverError as error:
            failure = failure or error  # after a worker's failure the folder may be what failed
        if failure is not None:
            raise failure

    def give_up(self) -> None:
        """Let the writers drop what they have not published, so that `close` need not wait; for a signal's handler."""
        self._gave_up = True
        self._pool.give_up()

    def write_metadata(self) -> None:
        """Replace metadata.json; it repeats what the episodes' files say."""
        start = time.monotonic()
        episodes = sorted(self.episodes, key=lambda row: row["episode_index"])
        document = {
            "format_version": FORMAT_VERSION,
            "task": self.cfg.task,
            "simulator": self.cfg.simulator,
            "num_episodes": len(episodes),
            **({"num_successes": self.num_successes} if "success" in self.cfg.columns else {}),
            "writer_wait_s": round(self.writer_wait_s, 3),
            **self.cfg.metadata,
            **({"dropped": self.dropped} if self.dropped else {}),
            "episodes": episodes,
        }
        temporary = self._claim.folder / "metadata.json"
        with open(temporary, "w") as file:
            json.dump(document, file, indent=1, allow_nan=False)
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

    def _discard(self, lost: np.ndarray) -> list[dict[str, Any]]:
        if not lost.any():
            return []
        self._submit([Drop(lost[part]) for part in self._parts()])
        return self.dropped[-int(lost.sum()) :]

    def _parts(self) -> list[slice]:
        return [slice(worker, None, self.cfg.writer_workers) for worker in range(self.cfg.writer_workers)]

    def _submit(self, items: list[Any], images: Mapping[str, np.ndarray] = MappingProxyType({})) -> None:
        try:
            arrays = [{name: array[part] for name, array in images.items()} for part in self._parts()]
            self.episodes += self._pool.submit(items, arrays)
            if time.monotonic() > self._metadata_due:
                self.write_metadata()
        except WorkerError as error:
            if not self._gave_up:
                raise self._failure(error) from error
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> SaverError:
        if self.cfg.root.exists() and not self._claim.folder.exists():
            return SaverError(f"another run has taken {self.cfg.root} over; whole episodes are kept")
        return SaverError(f"writing failed: {error}; whole episodes are kept, go on with --resume {self.cfg.root}")

    def _leave(self) -> None:
        """Complete metadata.json from what is on disk, remove what is partial and let go of the dataset."""
        try:
            self._drop_partial()
            self._read_missing_rows()
            self.write_metadata()
        except OSError as error:
            raise self._failure(error) from error
        finally:
            self._claim.release()

    def _read_missing_rows(self) -> None:
        known = {row["path"] for row in self.episodes}
        folders = [f for f in all_episode_folders(self.cfg.root) if str(f.relative_to(self.cfg.root)) not in known]
        if damaged := next(filter(None, map(damage, folders)), None):
            raise SaverError(damaged)
        self.episodes += [read_row(folder, self.cfg.root) for folder in folders]

    def _leave_quietly(self) -> None:
        with suppress(SaverError):  # another exception is on its way
            self._leave()

    def _drop_partial(self) -> None:
        for path in self._claim.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # something is in it
        folder.rmdir()
