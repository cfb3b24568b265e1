"""One episode on disk: its columns and the files being written. vpl_saver.py documents the format as a whole.

Example:
    episode = EpisodeFile(cfg, attempt, reformatter, round_index=0, env_index=3)     # in the folder `attempt`
    episode.append(step, images, columns)
    row = episode.finish(terminated=False, truncated=True)
    episode.flush_to_disk()
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from av.video.reformatter import VideoReformatter

from vpl import deflate
from vpl.columns import STREAMS, Column, Stream, SuccessRule
from vpl.files import fsync
from vpl.format import (
    FORMAT_VERSION,
    FRAME_STEP,
    IMAGES,
    INTRINSICS,
    TIMESTAMPS,
    column_names,
    write_declaration,
)
from vpl.listing import describe, final_value
from vpl.video import VideoEncoder, count_frames, write_mp4

ROWS_PER_BLOCK = 64
"""Rows of numbers and of videos that are written at once, so that memory does not grow with the episode."""


class SaverError(RuntimeError):
    """An episode could not be written; says which and why."""


@dataclass(frozen=True)
class DatasetCfg:
    """What all episodes of a dataset share."""

    root: Path
    """The dataset's folder."""
    task: str
    simulator: str
    num_envs: int
    steps: int
    """Most control steps of an episode."""
    step_dt: float
    width: int
    height: int
    camera_names: tuple[str, ...]
    intrinsics: np.ndarray
    """(C, 3, 3) float64."""
    columns: Mapping[str, Column]
    """What is stored of each control step, in the order of the file; `timestamps` are the saver's own."""
    obs_terms: Mapping[str, int]
    """Name and width of each part of `proprio`, in order."""
    state_spec: str
    """What the numbers of `sim_state` are."""
    seed: int
    language_instruction: str
    streams: Mapping[str, Stream] = field(default_factory=lambda: {"color": STREAMS["color"]})
    """The images that are stored; `color`, of which the videos are made, is among them."""
    success_rule: SuccessRule | None = None
    """What the column `success` goes by, where that is one number."""
    video_interval: int = 1
    fps: float | None = None
    """Playback rate of the videos; None: real time."""
    only_success: bool = False
    compress: bool = True
    """Deflate images; without, their chunks are raw."""
    writer_workers: int = 2
    use_processes: bool = False
    """Writers in processes instead of threads; see vpl/workers.py."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Goes into metadata.json as it is: versions, arguments, checkpoint, cameras."""
    episode_attrs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """By episode_index, attributes that are not as in the others: `seed`, `source`, `run` of what is filmed again."""
    run: int | None = None
    """Index in the list `runs` of `metadata`: what the episodes are collected with; None: there is no such list."""
    scene: str = ""
    """`CameraEnv.scene`: the scene whose states `sim_state` holds; "": not known."""

    def __post_init__(self) -> None:
        num_cameras = len(self.camera_names)
        if len(set(self.camera_names)) < num_cameras:
            raise ValueError(f"camera_names {', '.join(self.camera_names)}: give each camera its own")
        if self.intrinsics.shape != (num_cameras, 3, 3) or not np.isfinite(self.intrinsics).all():
            raise ValueError(f"intrinsics {self.intrinsics.shape} must be ({num_cameras}, 3, 3), all finite")
        if self.width % 2 or self.height % 2:
            raise ValueError(f"width {self.width} and height {self.height} must be even (H.264)")
        if "color" not in self.streams:
            raise ValueError(f"streams {', '.join(self.streams)}: color is missing, of which the videos are made")
        if self.only_success and "success" not in self.columns:
            raise ValueError("only_success: there is no column success to select by")
        if self.success_rule is not None and self.success_rule.column not in self.columns:
            raise ValueError(f"success_rule: there is no column {self.success_rule.column}")

    @property
    def batch_bytes(self) -> int:
        """Images of one control step."""
        bytes_per_px = sum(np.dtype(stream.dtype).itemsize * stream.channels for stream in self.streams.values())
        return self.num_envs * len(self.camera_names) * self.width * self.height * bytes_per_px

    @property
    def playback_fps(self) -> Fraction:
        """Frames a second of the videos."""
        fps = self.fps or 1 / (self.step_dt * self.video_interval)
        return Fraction(fps).limit_denominator(1001)


class EpisodeFile:
    """One episode being written, in .partial/."""

    def __init__(
        self,
        cfg: DatasetCfg,
        attempt: Path,
        reformatter: VideoReformatter,
        round_index: int,
        env_index: int,
        variation: Mapping[str, Any],
        intrinsics: np.ndarray,
    ) -> None:
        """Begin an episode in the run's folder `attempt`; episodes of one thread may share a `reformatter`.

        `variation` and `intrinsics`, (C, 3, 3) px, are this env's of `CameraEnv.episode_info` and `intrinsics`.
        """
        self.cfg, self.variation = cfg, dict(variation)
        self.index = round_index * cfg.num_envs + env_index
        self.name = f"episode_{self.index:03d}"
        self.folder = attempt / self.name
        self.num_frames = 0
        self._identity = {"episode_index": self.index, "round": round_index, "env_index": env_index}
        self._encoders = [VideoEncoder(cfg.width, cfg.height, cfg.playback_fps, reformatter) for _ in cfg.camera_names]
        self._packets: list[list[bytes]] = [[] for _ in cfg.camera_names]
        """Of each camera's video, what is not yet in its file."""
        self.folder.mkdir()  # without parents: a dataset that somebody moved away is not begun anew
        for camera in range(len(cfg.camera_names)):
            self._packets_file(camera).parent.mkdir()
        # no chunk cache: frames bypass it, and its default of 8 MiB a dataset would be 200 MB for 20 episodes
        self.h5 = h5py.File(self.folder / f"{self.name}.h5", "w", rdcc_nbytes=0, locking=False)
        _bound_metadata_cache(self.h5)
        self._images = {name: _Images(self.h5, cfg, name) for name in cfg.streams}
        self.h5["intrinsics"] = intrinsics
        write_declaration(self.h5["intrinsics"], INTRINSICS)
        self._tables = [_Table(self.h5, cfg, cfg.video_interval)]
        if cfg.video_interval > 1:
            self._tables.append(_Table(self.h5.create_group("full_rate"), cfg, 1))

    def append(self, step: int, images: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]) -> None:
        """Store control step `step`; `images`, (C, H, W, ...) by stream, are needed where it is a row."""
        for table in self._tables:
            table.append(step, columns)
        if step % self.cfg.video_interval:
            return
        if self.num_frames % ROWS_PER_BLOCK == 0:
            for stream in self._images.values():
                stream.resize(self.num_frames + ROWS_PER_BLOCK)
            self._write_packets()
        for name, stream in self._images.items():
            if name not in images:
                raise ValueError(f"{self.name}: step {step} is a row and has no {name}")
            stream.write(self.num_frames, images[name])
        for camera, image in enumerate(images["color"]):
            self._packets[camera].append(self._encoders[camera].encode(image))
        self.num_frames += 1

    def finish(self, terminated: bool, truncated: bool) -> dict[str, Any]:
        """Complete, close and check the episode's files; returns its row of metadata.json, but for the path."""
        cfg = self.cfg
        for stream in self._images.values():
            stream.resize(self.num_frames)
        for table in self._tables:
            table.flush()
        if "full_rate" in self.h5:
            self.h5["full_rate/frame_step"] = np.arange(self.num_frames) * cfg.video_interval
            write_declaration(self.h5["full_rate/frame_step"], FRAME_STEP)
        for name in ("task", "simulator", "seed", "step_dt", "video_interval", "language_instruction"):
            self.h5.attrs[name] = getattr(cfg, name)
        self.h5.attrs.update(
            format_version=FORMAT_VERSION,
            **self._identity,
            num_frames=self.num_frames,
            fps=float(cfg.playback_fps),
            terminated=terminated,
            truncated=truncated,
            columns=[*cfg.columns, "timestamps"],
            variation=json.dumps(self.variation),
        )
        if cfg.run is not None:
            self.h5.attrs["run"] = cfg.run
        self.h5.attrs.update(cfg.episode_attrs.get(self.index, {}))
        if "success" in cfg.columns:
            self.h5.attrs["success"] = bool(final_value(self.h5, "success"))
        if (rule := cfg.success_rule) is not None:
            self.h5.attrs.update(
                success_metric=rule.column, success_comparison=rule.comparison, success_threshold=rule.threshold
            )
        self._describe_columns()
        self._check_rows()
        row = describe(self.h5)
        self.h5.close()
        self._write_videos()
        return row

    def discard(self) -> None:
        """Remove what was written of an episode that is not to be published."""
        self.h5.close()
        shutil.rmtree(self.folder)

    def flush_to_disk(self) -> None:
        """Have all files of a finished episode on disk."""
        for folder, _, files in os.walk(self.folder, topdown=False):
            for file in files:
                fsync(Path(folder, file))
            fsync(Path(folder))

    def _describe_columns(self) -> None:
        cfg = self.cfg
        ends = np.cumsum(list(cfg.obs_terms.values())).tolist()
        terms = {name: [end - width, end] for (name, width), end in zip(cfg.obs_terms.items(), ends, strict=True)}
        for group in [self.h5, self.h5["full_rate"]] if "full_rate" in self.h5 else [self.h5]:
            group["proprio"].attrs["terms"] = json.dumps(terms)
            group["sim_state"].attrs["spec"] = cfg.state_spec
            if cfg.scene:
                group["sim_state"].attrs["scene"] = cfg.scene

    def _check_rows(self) -> None:
        """Every dataset is as long as it must be and every image was stored."""
        names = column_names(self.h5)
        wrong = {name: len(self.h5[name]) for name in names if len(self.h5[name]) != self.num_frames}
        if "full_rate" in self.h5:
            full_rate = self.h5["full_rate"]
            steps = {len(full_rate[name]) for name in names}
            if len(steps) != 1 or -(-min(steps) // self.cfg.video_interval) != self.num_frames:
                wrong["full_rate"] = max(steps)
        stored = [stream.count() for stream in self._images.values()]
        if wrong or set(stored) != {self.num_frames * len(self.cfg.camera_names)}:
            raise SaverError(f"{self.name} holds {stored} images and {wrong} rows for {self.num_frames} frames")

    def _packets_file(self, camera: int) -> Path:
        return self.folder / f"camera_{camera}" / f"{self.name}.h264"

    def _write_packets(self) -> None:
        for camera, packets in enumerate(self._packets):
            with open(self._packets_file(camera), "ab") as file:
                file.writelines(packets)
            packets.clear()

    def _write_videos(self) -> None:
        self._write_packets()
        self._encoders.clear()  # their memory is free for the next episodes
        for camera in range(len(self.cfg.camera_names)):
            packets = self._packets_file(camera)
            mp4 = packets.with_suffix(".mp4")
            write_mp4(packets, mp4, self.cfg.playback_fps)
            packets.unlink()
            if (frames := count_frames(mp4)) != self.num_frames:
                raise SaverError(f"{mp4.name} of camera {camera} holds {frames} frames instead of {self.num_frames}")


class _Images:
    """The images of a stream: a chunk is one camera's picture in one row."""

    def __init__(self, h5: h5py.File, cfg: DatasetCfg, name: str) -> None:
        stream = cfg.streams[name]
        image = (len(cfg.camera_names), *stream.shape(cfg.height, cfg.width))
        self._shuffle, self._compress = cfg.compress and np.dtype(stream.dtype).itemsize > 1, cfg.compress
        filters = {"compression": "gzip", "compression_opts": 1, "shuffle": self._shuffle} if cfg.compress else {}
        self._dataset = h5.create_dataset(
            name, (0, *image), stream.dtype, maxshape=(None, *image), chunks=(1, 1, *image[1:]), **filters
        )
        write_declaration(self._dataset, replace(IMAGES[name], names=cfg.camera_names))
        if stream.ids:
            self._dataset.attrs["ids"] = list(stream.ids)
        self._place = (0,) * (len(image) - 1)

    def resize(self, rows: int) -> None:
        self._dataset.resize(rows, axis=0)

    def write(self, row: int, images: np.ndarray) -> None:
        """One of each camera, (C, H, W, ...)."""
        for camera, image in enumerate(images):
            if self._shuffle:  # HDF5's filter: the first bytes of all numbers, then the second ones
                image = np.ascontiguousarray(image.reshape(-1, 1).view(np.uint8).T)
            chunk = deflate.compress(image, 1) if self._compress else image
            self._dataset.id.write_direct_chunk((row, camera, *self._place), chunk)

    def count(self) -> int:
        """How many images were stored."""
        return self._dataset.id.get_num_chunks()


class _Table:
    """The low-dimensional datasets of a group, of which every `interval`-th control step is a row."""

    def __init__(self, group: h5py.Group, cfg: DatasetCfg, interval: int) -> None:
        self._group, self._interval = group, interval
        self._columns = {**cfg.columns, "timestamps": TIMESTAMPS}
        self._block_rows = min(ROWS_PER_BLOCK, -(-cfg.steps // interval))
        self._blocks = {
            name: np.empty((self._block_rows, *map(int, column.shape)), column.dtype)
            for name, column in self._columns.items()
        }
        self._waiting = 0

    def append(self, step: int, columns: Mapping[str, np.ndarray]) -> None:
        if step % self._interval:
            return
        for name, block in self._blocks.items():
            block[self._waiting] = columns[name]
        self._waiting += 1
        if self._waiting == self._block_rows:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        for name, rows in self._blocks.items():
            block = rows[: self._waiting]
            if name not in self._group:
                made = self._group.create_dataset(
                    name, data=block, maxshape=(None, *block.shape[1:]), chunks=rows.shape
                )
                write_declaration(made, self._columns[name])
                continue
            dataset = self._group[name]
            dataset.resize(len(dataset) + len(block), axis=0)
            dataset[len(dataset) - len(block) :] = block
        self._waiting = 0


def _bound_metadata_cache(h5: h5py.File) -> None:
    """Hold the index of the chunks on disk: by default an open file's grows by 0.6 kB a frame in memory."""
    cache = h5.id.get_mdc_config()
    cache.set_initial_size = True
    cache.initial_size = cache.min_size = cache.max_size = 8 << 10
    cache.incr_mode = cache.flash_incr_mode = cache.decr_mode = 0  # off
    h5.id.set_mdc_config(cache)
