"""One episode on disk: its columns and the files being written. vpl_saver.py documents the format as a whole.

episode = EpisodeFile(cfg, reformatter, round_index=0, env_index=3)      # in <dataset>/.partial/
episode.append(step, color, low_dim)
row = episode.finish(terminated=False, truncated=True)
episode.flush_to_disk()
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
from av.video.reformatter import VideoReformatter

from vpl_video import VideoEncoder, count_frames, write_mp4

deflate: Any
try:
    from isal import isal_zlib as deflate  # 5 x zlib's speed at level 1, the same stream format
except ImportError:
    deflate = zlib

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Column:
    """One dataset of an episode's HDF5."""

    shape: tuple[str | int, ...]
    dtype: str
    meaning: str


SCHEMA: dict[str, Column] = {
    "color": Column(("T", "C", "H", "W", 3), "uint8", "RGB images, lossless; camera names in attribute `names`"),
    "action": Column(("T", "A"), "float32", "the policy's output at row t, exactly as given to `env.step`"),
    "joint_pos_target": Column(("T", "J"), "float32", "what that action asks of the joint drives (rad, m)"),
    "proprio": Column(("T", "O"), "float32", "the observation that the policy saw; its slices in attribute `terms`"),
    "intrinsics": Column(("C", 3, 3), "float64", "pinhole K in pixels; (0, 0) is the top-left pixel's outer corner"),
    "extrinsics": Column(("T", "C", 4, 4), "float64", "T_world_cam (camera to world), OpenCV axes: x right, z forward"),
    "joint_pos": Column(("T", "J"), "float32", "rad (fingers m); order in attribute `names`"),
    "joint_vel": Column(("T", "J"), "float32", "rad/s (fingers m/s)"),
    "ee_position": Column(
        ("T", 3), "float32", "tool centre point, panda_hand + 0.1034 m along z, in the env frame (m)"
    ),
    "ee_rotation": Column(("T", 4), "float32", "its unit quaternion x, y, z, w, in the env frame"),
    "drawer_pos": Column(("T",), "float32", "the drawer's joint (m)"),
    "reward": Column(("T",), "float32", "the task's reward for row t's action"),
    "timestamps": Column(("T",), "float64", "seconds since the episode's start"),
    "sim_state": Column(("T", "S"), "float64", "the simulator's complete state; columns in attribute `spec`"),
}
ATTRIBUTES = (
    "format_version", "task", "simulator", "episode_index", "env_index", "round", "seed", "num_frames", "fps",
    "step_dt", "video_interval", "language_instruction", "terminated", "truncated",
)  # fmt: skip
SUCCESS_ATTRIBUTES = ("success", "success_metric", "success_threshold")
"""Absent where the task has no measure of success."""
OPTIONAL = ("ee_position", "ee_rotation", "drawer_pos")
"""Columns that are absent where the task has no such thing."""
LOW_DIM = tuple(name for name in SCHEMA if name not in ("color", "intrinsics"))
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
    joint_names: tuple[str, ...]
    obs_terms: Mapping[str, int]
    state_spec: str
    seed: int
    success_metric: str | None
    """The column whose last row decides about success; None: nothing does."""
    success_threshold: float
    language_instruction: str
    video_interval: int = 1
    fps: float | None = None
    """Playback rate of the videos; None: real time."""
    only_success: bool = False
    compress: bool = True
    """Deflate `color`; without, its chunks are raw."""
    writer_workers: int = 2
    use_processes: bool = False
    """Writers in processes instead of threads; see vpl_workers.py."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Goes into metadata.json as it is: versions, arguments, checkpoint, cameras."""
    episode_attrs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """By episode_index, attributes that are not as in the others: `seed` and `source` of what is filmed again."""

    @property
    def batch_bytes(self) -> int:
        """Images of one control step."""
        return self.num_envs * len(self.camera_names) * self.width * self.height * 3

    @property
    def playback_fps(self) -> Fraction:
        """Frames a second of the videos."""
        fps = self.fps or 1 / (self.step_dt * self.video_interval)
        return Fraction(fps).limit_denominator(1001)


class EpisodeFile:
    """One episode being written, in .partial/."""

    def __init__(self, cfg: DatasetCfg, reformatter: VideoReformatter, round_index: int, env_index: int) -> None:
        """Begin an episode; `reformatter` may be shared by the episodes of a thread."""
        self.cfg = cfg
        self.index = round_index * cfg.num_envs + env_index
        self.name = f"episode_{self.index:03d}"
        self.folder = cfg.root / ".partial" / self.name
        self.num_frames = 0
        self._identity = {"episode_index": self.index, "round": round_index, "env_index": env_index}
        self._encoders = [VideoEncoder(cfg.width, cfg.height, cfg.playback_fps, reformatter) for _ in cfg.camera_names]
        self._packets: list[list[bytes]] = [[] for _ in cfg.camera_names]
        """Of each camera's video, what is not yet in its file."""
        self.folder.mkdir()  # without parents: a dataset that somebody moved away is not begun anew
        for camera in range(len(cfg.camera_names)):
            self._stream(camera).parent.mkdir()
        # no chunk cache: frames bypass it, and its default of 8 MiB a dataset would be 200 MB for 20 episodes
        self.h5 = h5py.File(self.folder / f"{self.name}.h5", "w", rdcc_nbytes=0)
        _bound_metadata_cache(self.h5)
        image = (len(cfg.camera_names), cfg.height, cfg.width, 3)
        filters = {"compression": "gzip", "compression_opts": 1} if cfg.compress else {}
        self._color = self.h5.create_dataset(
            "color", (0, *image), "u1", maxshape=(None, *image), chunks=(1, 1, *image[1:]), **filters
        )
        self.h5["intrinsics"] = cfg.intrinsics
        self._tables = [_Table(self.h5, cfg, cfg.video_interval)]
        if cfg.video_interval > 1:
            self._tables.append(_Table(self.h5.create_group("full_rate"), cfg, 1))

    def append(self, step: int, color: np.ndarray | None, low_dim: dict[str, np.ndarray]) -> None:
        """Store control step `step`; `color` (C, H, W, 3) is needed where it is a row."""
        for table in self._tables:
            table.append(step, low_dim)
        if step % self.cfg.video_interval:
            return
        if color is None:
            raise ValueError(f"{self.name}: step {step} is a row and has no images")
        if self.num_frames % ROWS_PER_BLOCK == 0:
            self._color.resize(self.num_frames + ROWS_PER_BLOCK, axis=0)
            self._write_packets()
        for camera, image in enumerate(color):
            chunk = deflate.compress(image, 1) if self.cfg.compress else image
            self._color.id.write_direct_chunk((self.num_frames, camera, 0, 0, 0), chunk)
            self._packets[camera].append(self._encoders[camera].encode(image))
        self.num_frames += 1

    def finish(self, terminated: bool, truncated: bool) -> dict[str, Any]:
        """Complete, close and check the episode's files; returns its row of metadata.json, but for the path."""
        cfg = self.cfg
        self._color.resize(self.num_frames, axis=0)
        for table in self._tables:
            table.flush()
        if "full_rate" in self.h5:
            self.h5["full_rate/frame_step"] = np.arange(self.num_frames) * cfg.video_interval
        self.h5.attrs.update(
            format_version=FORMAT_VERSION, task=cfg.task, simulator=cfg.simulator, **self._identity, seed=cfg.seed,
            num_frames=self.num_frames, fps=float(cfg.playback_fps), step_dt=cfg.step_dt,
            video_interval=cfg.video_interval, language_instruction=cfg.language_instruction, terminated=terminated,
            truncated=truncated,
        )  # fmt: skip
        self.h5.attrs.update(cfg.episode_attrs.get(self.index, {}))
        if cfg.success_metric is not None:
            success = final_metric(self.h5, cfg.success_metric) >= cfg.success_threshold
            values = (success, cfg.success_metric, cfg.success_threshold)
            self.h5.attrs.update(zip(SUCCESS_ATTRIBUTES, values, strict=True))
        self._describe_columns()
        self._check_rows()
        row = _row(self.h5)
        self.h5.close()
        self._write_videos()
        return row

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
        self._color.attrs["names"] = list(cfg.camera_names)
        for group in [self.h5, self.h5["full_rate"]] if "full_rate" in self.h5 else [self.h5]:
            for name in ("joint_pos", "joint_vel", "joint_pos_target"):
                group[name].attrs["names"] = list(cfg.joint_names)
            group["proprio"].attrs["terms"] = json.dumps(terms)
            if "ee_rotation" in group:
                group["ee_rotation"].attrs["order"] = "xyzw"
            group["extrinsics"].attrs.update(direction="cam_to_world", axes="opencv", frame="env")
            group["sim_state"].attrs["spec"] = cfg.state_spec

    def _check_rows(self) -> None:
        """Every dataset is as long as it must be and every image was stored."""
        names = [name for name in LOW_DIM if name in self.h5 or name not in OPTIONAL]
        wrong = {name: len(self.h5[name]) for name in names if len(self.h5[name]) != self.num_frames}
        if "full_rate" in self.h5:
            full_rate = self.h5["full_rate"]
            steps = {len(full_rate[name]) for name in names}
            if len(steps) != 1 or -(-min(steps) // self.cfg.video_interval) != self.num_frames:
                wrong["full_rate"] = max(steps)
        stored = self._color.id.get_num_chunks()
        if wrong or stored != self.num_frames * len(self.cfg.camera_names):
            raise SaverError(f"{self.name} holds {stored} images and {wrong} rows for {self.num_frames} frames")

    def _stream(self, camera: int) -> Path:
        return self.folder / f"camera_{camera}" / f"{self.name}.h264"

    def _write_packets(self) -> None:
        for camera, packets in enumerate(self._packets):
            with open(self._stream(camera), "ab") as file:
                file.writelines(packets)
            packets.clear()

    def _write_videos(self) -> None:
        self._write_packets()
        self._encoders.clear()  # their memory is free for the next episodes
        for camera in range(len(self.cfg.camera_names)):
            stream = self._stream(camera)
            mp4 = stream.with_suffix(".mp4")
            write_mp4(stream, mp4, self.cfg.playback_fps)
            stream.unlink()
            if (frames := count_frames(mp4)) != self.num_frames:
                raise SaverError(f"{mp4.name} of camera {camera} holds {frames} frames instead of {self.num_frames}")


class _Table:
    """The low-dimensional datasets of a group, of which every `interval`-th control step is a row."""

    def __init__(self, group: h5py.Group, cfg: DatasetCfg, interval: int) -> None:
        self._group, self._interval = group, interval
        self._block_rows = min(ROWS_PER_BLOCK, -(-cfg.steps // interval))
        self._blocks: dict[str, np.ndarray] = {}
        self._waiting = 0

    def append(self, step: int, low_dim: dict[str, np.ndarray]) -> None:
        if step % self._interval:
            return
        for name, value in low_dim.items():
            if name not in self._blocks:
                self._blocks[name] = np.empty((self._block_rows, *value.shape), SCHEMA[name].dtype)
            self._blocks[name][self._waiting] = value
        self._waiting += 1
        if self._waiting == self._block_rows:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        for name, rows in self._blocks.items():
            block = rows[: self._waiting]
            if name not in self._group:
                self._group.create_dataset(name, data=block, maxshape=(None, *block.shape[1:]), chunks=rows.shape)
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


def all_episode_folders(root: Path) -> list[Path]:
    """Every whole episode of a dataset, also those in failed/, by index; not a user's copy, `episode_000 (copy)`."""
    found = [folder for name in ("", "failed/") for folder in root.glob(f"{name}episode_*") if folder.is_dir()]
    folders = [folder for folder in found if re.fullmatch(r"episode_\d+", folder.name)]
    return sorted(folders, key=lambda folder: int(folder.name.split("_")[1]))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} is no JSON object")
    return document


def read_row(folder: Path, root: Path) -> dict[str, Any]:
    """An episode's row of metadata.json, from its HDF5."""
    with h5py.File(folder / f"{folder.name}.h5") as h5:
        return {**_row(h5), "path": str(folder.relative_to(root))}


def _row(h5: h5py.File) -> dict[str, Any]:
    names = ("episode_index", "round", "env_index", "num_frames", "terminated", "truncated")
    row = {name: h5.attrs[name].item() for name in names}
    if (metric := h5.attrs.get("success_metric")) is not None:
        row["success"] = h5.attrs["success"].item()
        row[f"final_{metric}"] = round(final_metric(h5, metric), 4)
    return row | ({"source": h5.attrs["source"]} if "source" in h5.attrs else {})


def final_metric(h5: h5py.File, metric: str) -> float:
    """The value that decides about success: at the last control step, whichever rows `--video_interval` keeps."""
    return float(h5.get("full_rate", h5)[metric][-1])


@contextmanager
def published(output: Path, replace: bool = False) -> Iterator[Path]:
    """A path to make a file or folder at, which becomes `output` when the block ends, and goes when the block fails.

    Raises:
        FileExistsError: `output` exists, and is no file to `replace`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    if not replace:
        _refuse_existing(output)
    # cleaning up after a failure must not hide it
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.", ignore_cleanup_errors=True) as folder:
        partial = Path(folder) / output.name
        yield partial
        if not replace:
            _refuse_existing(output)  # it may have come meanwhile
        partial.rename(output)


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception does, so that nothing half is left; exit code 143."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already")


def fsync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
