"""Writes a visuomotor-policy-learning (VPL) dataset: one MP4 a camera and one HDF5 an episode, published whole.

    with VPLSaver(cfg) as saver:
        saver.begin_round(0)
        saver.store(sample, action, joint_pos_target, reward, recording)     # once a control step
        saver.end_episodes(ended, terminated, truncated)

Dataset format, version 1
-------------------------
    <data_root>/<task>_<sim_or_real>_<robot_name>_<YYYYMMDD_HHMMSS>/
        metadata.json                          derived from the episodes: versions, arguments, cameras, a row an episode
        episode_000/episode_000.h5             the table SCHEMA below
        episode_000/camera_0/episode_000.mp4   H.264 yuv420p of `color[:, 0]`, not rescaled, index up front, BT.709
        failed/episode_007/...                 with --only_success: the episodes without success
        .partial/                              episodes being written; never part of the dataset

T rows, C cameras, J joints, O observations, A actions. Row t holds the image and state that the policy saw, the action
that it answered, and that action's reward. SI units, radians; world = the env's own origin; quaternions x, y, z, w.
`color` is chunked by frame and camera and compressed with HDF5's stock gzip filter: any HDF5 reader opens it.
`--video_interval k` keeps every k-th row and adds the group `full_rate/`: all datasets but `color` and `intrinsics` at
every control step, and `frame_step` (T,) int64, the control step of each row.

Attributes of a file: format_version, task, simulator, episode_index, env_index, round, seed, num_frames, fps (playback
rate), step_dt (s), video_interval, language_instruction, success with success_metric and success_threshold (success is
`<success_metric>[-1] >= success_threshold`), terminated (the task ended it), truncated (time-out, or --steps reached).

An episode is written under .partial/, closed, checked, flushed to disk and then renamed: `episode_*` is always whole.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import h5py
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

deflate: Any
try:
    from isal import isal_zlib as deflate  # 5 x zlib's speed at level 1, the same stream format
except ImportError:
    deflate = zlib

if TYPE_CHECKING:
    from simulators import Sample

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
LOW_DIM = tuple(name for name in SCHEMA if name not in ("color", "intrinsics"))
QUEUE_BYTES = 64 << 20
"""Frames that may wait for the writers; when they are full, the simulation waits."""
ROWS_PER_BLOCK = 64
"""Rows of the low-dimensional datasets that are written at once, so that memory does not grow with the episode."""


class SaverError(RuntimeError):
    """An episode could not be written; says which and why."""


@dataclass(frozen=True)
class DatasetCfg:
    """What all episodes of a dataset share."""

    root: Path
    """The dataset's folder, new."""
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
    success_metric: str
    success_threshold: float
    language_instruction: str
    video_interval: int = 1
    fps: float | None = None
    """Playback rate of the videos; None: real time."""
    only_success: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Goes into metadata.json as it is: versions, arguments, checkpoint, cameras."""

    @property
    def playback_fps(self) -> Fraction:
        """Frames a second of the videos."""
        fps = self.fps or 1 / (self.step_dt * self.video_interval)
        return Fraction(fps).limit_denominator(1001)


@dataclass(frozen=True)
class _Step:
    """One control step of all envs, on its way to the writers."""

    round: int
    index: int
    color: np.ndarray | None
    low_dim: dict[str, np.ndarray]
    recording: np.ndarray


@dataclass(frozen=True)
class _End:
    """Which envs' episodes end here, and how; (N,) bool each."""

    ended: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class VPLSaver:
    """Takes batches from the stepping thread and writes them in threads of its own; env i belongs to thread i mod W."""

    def __init__(self, cfg: DatasetCfg) -> None:
        """Create the dataset's folder.

        Raises:
            FileExistsError: `cfg.root` exists.
        """
        self.cfg = cfg
        self.episodes: list[dict[str, Any]] = []
        """A row for each published episode, as in metadata.json."""
        self.writer_wait_s = 0.0
        """Seconds that the stepping thread waited for the writers."""
        cfg.root.mkdir(parents=True)
        (cfg.root / ".partial").mkdir()
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._round = self._step = 0
        self._metadata_due = time.monotonic()
        self.write_metadata()
        workers = max(1, min(os.cpu_count() or 1, cfg.num_envs, 8))
        depth = max(2, QUEUE_BYTES // (cfg.num_envs * len(cfg.camera_names) * cfg.width * cfg.height * 3))
        self._queues: list[queue.Queue[_Step | _End | None]] = [queue.Queue(depth) for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._work, args=(q, range(i, cfg.num_envs, workers)), name=f"vpl-writer-{i}")
            for i, q in enumerate(self._queues)
        ]
        for thread in self._threads:
            thread.start()

    def begin_round(self, round_index: int) -> None:
        """Every env starts an episode; its index in the dataset is round * num_envs + env."""
        self._round, self._step = round_index, 0

    @property
    def wants_images(self) -> bool:
        """Whether the coming step is a row of `color`."""
        return self._step % self.cfg.video_interval == 0

    def store(
        self,
        sample: Sample,
        action: np.ndarray,
        joint_pos_target: np.ndarray,
        reward: np.ndarray,
        recording: np.ndarray,
    ) -> None:
        """Hand over one control step; the arrays are kept, not copied.

        Args:
            sample: the instant before the action, with images where `wants_images`.
            action: (N, A) float32.
            joint_pos_target: (N, J) float32, rad and m.
            reward: (N,) float32.
            recording: (N,) bool; rows where it is False are ignored.

        Raises:
            SaverError: a writer failed.
        """
        low_dim = {name: array for name, array in vars(sample).items() if name != "color"}
        low_dim |= {"action": action, "joint_pos_target": joint_pos_target, "reward": reward}
        low_dim["timestamps"] = np.full(self.cfg.num_envs, self._step * self.cfg.step_dt)
        self._put(_Step(self._round, self._step, sample.color, low_dim, recording.copy()))
        self._step += 1

    def end_episodes(self, ended: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> None:
        """Close and publish the episodes of the envs where `ended` is True, in the background; (N,) bool each."""
        self._put(_End(ended.copy(), terminated.copy(), truncated.copy()))

    def close(self) -> None:
        """Wait until every ended episode is published; drop those that have not ended.

        Raises:
            SaverError: a writer failed.
        """
        for q in self._queues:
            q.put(None)
        for thread in self._threads:
            thread.join()
        shutil.rmtree(self.cfg.root / ".partial", ignore_errors=True)
        if self._error is None:
            return self.write_metadata()
        with suppress(OSError):  # the folder may be what failed
            self.write_metadata()
        self._raise_error()

    def write_metadata(self) -> None:
        """Replace metadata.json; it repeats what the episodes' files say."""
        episodes = sorted(self.episodes, key=lambda row: row["episode_index"])
        document = {
            "format_version": FORMAT_VERSION,
            "task": self.cfg.task,
            "simulator": self.cfg.simulator,
            "num_episodes": len(episodes),
            "num_successes": sum(row["success"] for row in episodes),
            "writer_wait_s": round(self.writer_wait_s, 3),
            **self.cfg.metadata,
            "episodes": episodes,
        }
        temporary = self.cfg.root / ".metadata.json.tmp"
        with open(temporary, "w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.cfg.root / "metadata.json")

    def __enter__(self) -> VPLSaver:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        with suppress(SaverError) if exc_type else nullcontext():  # the first exception is the one to see
            self.close()

    def _put(self, item: _Step | _End) -> None:
        self._raise_error()
        start = time.monotonic()
        for q in self._queues:
            q.put(item)
        self.writer_wait_s += time.monotonic() - start

    def _raise_error(self) -> None:
        if self._error is not None:
            raise SaverError(f"writing {self.cfg.root} failed: {self._error}") from self._error

    def _work(self, items: queue.Queue[_Step | _End | None], envs: range) -> None:
        """A writer thread: after a failure it keeps emptying its queue, so that the stepping thread never hangs."""
        episodes: dict[int, _EpisodeFile] = {}
        while (item := items.get()) is not None:
            if self._error is None:
                try:
                    self._handle(item, envs, episodes)
                except Exception as error:  # raised again in the stepping thread, by _raise_error
                    self._error = error
        for episode in episodes.values():
            episode.h5.close()

    def _handle(self, item: _Step | _End, envs: range, episodes: dict[int, _EpisodeFile]) -> None:
        if isinstance(item, _End):
            for env in envs:
                if item.ended[env] and env in episodes:
                    self._publish(episodes.pop(env), bool(item.terminated[env]), bool(item.truncated[env]))
            return
        for env in envs:
            if not item.recording[env]:
                continue
            if env not in episodes:
                episodes[env] = _EpisodeFile(self.cfg, item.round, env)
            color = None if item.color is None else item.color[env]
            episodes[env].append(item.index, color, {name: array[env] for name, array in item.low_dim.items()})

    def _publish(self, episode: _EpisodeFile, terminated: bool, truncated: bool) -> None:
        row = episode.finish(terminated, truncated)
        parent = self.cfg.root
        if self.cfg.only_success and not row["success"]:
            parent = parent / "failed"
            parent.mkdir(exist_ok=True)
        episode.folder.rename(parent / episode.name)
        _fsync(parent)
        with self._lock:
            self.episodes.append({**row, "path": str((parent / episode.name).relative_to(self.cfg.root))})
            if time.monotonic() > self._metadata_due:  # it is derived: close() completes it
                self.write_metadata()
                self._metadata_due = time.monotonic() + 1.0


class _EpisodeFile:
    """One episode being written, in .partial/."""

    def __init__(self, cfg: DatasetCfg, round_index: int, env_index: int) -> None:
        self.cfg = cfg
        self.index = round_index * cfg.num_envs + env_index
        self.name = f"episode_{self.index:03d}"
        self.folder = cfg.root / ".partial" / self.name
        self.folder.mkdir()
        self.num_frames = 0
        self._identity = {"episode_index": self.index, "round": round_index, "env_index": env_index}
        # no chunk cache: frames bypass it, and its default of 8 MiB a dataset would be 200 MB for 20 episodes
        self.h5 = h5py.File(self.folder / f"{self.name}.h5", "w", rdcc_nbytes=0)
        image = (len(cfg.camera_names), cfg.height, cfg.width, 3)
        self._color = self.h5.create_dataset(
            "color", (0, *image), "u1", maxshape=(None, *image), chunks=(1, 1, *image[1:]), compression="gzip",
            compression_opts=1,
        )  # fmt: skip
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
        if self.num_frames == len(self._color):
            self._color.resize(self.num_frames + ROWS_PER_BLOCK, axis=0)
        for camera, image in enumerate(color):
            compressed = deflate.compress(np.ascontiguousarray(image), 1)
            self._color.id.write_direct_chunk((self.num_frames, camera, 0, 0, 0), compressed)
        self.num_frames += 1

    def finish(self, terminated: bool, truncated: bool) -> dict[str, Any]:
        """Complete, close, check and flush the episode's files; returns its row of metadata.json."""
        cfg = self.cfg
        self._color.resize(self.num_frames, axis=0)
        for table in self._tables:
            table.flush()
        if "full_rate" in self.h5:
            self.h5["full_rate/frame_step"] = np.arange(self.num_frames) * cfg.video_interval
        metric = float(self.h5[cfg.success_metric][-1])
        success = metric >= cfg.success_threshold
        ending = {"success": success, "terminated": terminated, "truncated": truncated}
        self.h5.attrs.update(
            format_version=FORMAT_VERSION, task=cfg.task, simulator=cfg.simulator, **self._identity, seed=cfg.seed,
            num_frames=self.num_frames, fps=float(cfg.playback_fps), step_dt=cfg.step_dt,
            video_interval=cfg.video_interval, language_instruction=cfg.language_instruction, **ending,
            success_metric=cfg.success_metric, success_threshold=cfg.success_threshold,
        )  # fmt: skip
        self._describe_columns()
        for camera in range(len(cfg.camera_names)):
            self._write_video(camera)
        self._check_rows()
        self.h5.close()
        for folder, _, files in os.walk(self.folder, topdown=False):
            for file in files:
                _fsync(Path(folder, file))
            _fsync(Path(folder))
        return {
            **self._identity,
            "num_frames": self.num_frames,
            **ending,
            f"final_{cfg.success_metric}": round(metric, 4),
        }

    def _describe_columns(self) -> None:
        cfg = self.cfg
        ends = np.cumsum(list(cfg.obs_terms.values())).tolist()
        terms = {name: [end - width, end] for (name, width), end in zip(cfg.obs_terms.items(), ends, strict=True)}
        self._color.attrs["names"] = list(cfg.camera_names)
        for group in [self.h5, self.h5["full_rate"]] if "full_rate" in self.h5 else [self.h5]:
            for name in ("joint_pos", "joint_vel", "joint_pos_target"):
                group[name].attrs["names"] = list(cfg.joint_names)
            group["proprio"].attrs["terms"] = json.dumps(terms)
            group["ee_rotation"].attrs["order"] = "xyzw"
            group["extrinsics"].attrs.update(direction="cam_to_world", axes="opencv", frame="env")
            group["sim_state"].attrs["spec"] = cfg.state_spec

    def _write_video(self, camera: int) -> None:
        path = self.folder / f"camera_{camera}" / f"{self.name}.mp4"
        path.parent.mkdir()
        shape = (self.cfg.height, self.cfg.width, 3)
        chunks = (self._color.id.read_direct_chunk((t, camera, 0, 0, 0))[1] for t in range(self.num_frames))
        images = (np.frombuffer(deflate.decompress(chunk), np.uint8).reshape(shape) for chunk in chunks)
        write_video(path, images, self.cfg.width, self.cfg.height, self.cfg.playback_fps)
        if (frames := count_frames(path)) != self.num_frames:
            raise SaverError(f"{path.name} of camera {camera} holds {frames} frames instead of {self.num_frames}")

    def _check_rows(self) -> None:
        """Every dataset is as long as it must be and every image was stored."""
        wrong = {name: len(self.h5[name]) for name in LOW_DIM if len(self.h5[name]) != self.num_frames}
        stored = self._color.id.get_num_chunks()
        if wrong or stored != self.num_frames * len(self.cfg.camera_names):
            raise SaverError(f"{self.name} holds {stored} images and {wrong} rows for {self.num_frames} frames")


class _Table:
    """The low-dimensional datasets of a group, of which every `interval`-th control step is a row."""

    def __init__(self, group: h5py.Group, cfg: DatasetCfg, interval: int) -> None:
        self._group, self._interval = group, interval
        self._block_rows = min(ROWS_PER_BLOCK, -(-cfg.steps // interval))
        self._block: dict[str, list[np.ndarray]] = {}

    def append(self, step: int, low_dim: dict[str, Any]) -> None:
        if step % self._interval:
            return
        for name, value in low_dim.items():
            self._block.setdefault(name, []).append(value)
        if len(self._block["action"]) == self._block_rows:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        for name, rows in self._block.items():
            block = np.asarray(rows, SCHEMA[name].dtype)
            if name not in self._group:
                chunks = (self._block_rows, *block.shape[1:])
                self._group.create_dataset(name, data=block, maxshape=(None, *block.shape[1:]), chunks=chunks)
                continue
            dataset = self._group[name]
            dataset.resize(len(dataset) + len(block), axis=0)
            dataset[-len(block) :] = block
        self._block = {}


def write_video(path: Path, images: Iterator[np.ndarray], width: int, height: int, fps: Fraction) -> None:
    """Encode RGB images (H, W, 3) uint8, H and W even, as H.264 yuv420p in BT.709, one key frame in 30."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "18", "g": "30"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
        codec = stream.codec_context
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def count_frames(path: Path) -> int:
    """Frames of a video, by its packets."""
    with av.open(str(path)) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _fsync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
