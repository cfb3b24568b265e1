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

from contextlib import suppress
from typing import Any

from vpl.catalog import Catalog, beginning
from vpl.episode import DatasetCfg, SaverError
from vpl.recorder import Recorder


class VPLSaver(Recorder):
    """Takes batches from the stepping thread into a dataset that it has for itself; see `vpl.recorder.Recorder`."""

    def __init__(self, cfg: DatasetCfg, resume: bool = False) -> None:
        """Create the dataset's folder, or with `resume` open it, dropping what an earlier run left in .partial/.

        Raises:
            FileExistsError: `cfg.root` exists and is not to be resumed.
            SaverError: another process writes into the dataset, or nothing can be written there.
        """
        self._catalog = Catalog(cfg, resume)
        try:
            super().__init__(cfg, self._catalog.folder)
            self.episodes = self._catalog.episodes
            with beginning(cfg.root):
                self.write_metadata()
        except BaseException:
            self._catalog.forget()
            raise

    def write_metadata(self) -> None:
        """Replace metadata.json; it repeats what the episodes' files say."""
        self._tell_catalog()
        self._catalog.write_metadata()

    def _tell_catalog(self) -> None:
        self._catalog.dropped, self._catalog.writer_wait_s = self.dropped, self.writer_wait_s

    def close(self) -> None:
        """Wait until every ended episode is published; drop those that have not ended.

        Raises:
            SaverError: a writer failed.
        """
        failure: SaverError | None = None
        try:
            super().close()
        except SaverError as error:
            failure = error
        except (KeyboardInterrupt, SystemExit):
            self._leave_quietly()
            raise
        try:
            self._leave()
        except SaverError as error:
            failure = failure or error  # after a worker's failure the folder may be what failed
        if failure is not None:
            raise failure

    def __enter__(self) -> VPLSaver:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        if exc_type is None:
            self.close()
        elif issubclass(exc_type, Exception):
            with suppress(SaverError):  # the first exception is the one to see
                self.close()
        else:  # a second Ctrl-C: leave at once
            self.abort()
            self._leave_quietly()

    def _submit(self, *batch: Any) -> None:
        super()._submit(*batch)
        self._tell_catalog()
        self._catalog.keep_up()

    def _leave(self) -> None:
        self._tell_catalog()
        self._catalog.leave()

    def _leave_quietly(self) -> None:
        with suppress(SaverError):  # another exception is on its way
            self._leave()
