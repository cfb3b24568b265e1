"""One way of recording camera frames, measured in a process of its own; benchmarks/saver.py runs this file.

    python benchmarks/recorders.py "ours, gzip" FRAMES.npy FOLDER

FRAMES.npy is (T, N, C, H, W, 3) uint8. Every recorder gets the same: each step a new contiguous batch (N, C, H, W, 3),
as a simulator gives it, and low-dimensional arrays. Prints a line of JSON. No import of this project at the top: the
peers run in environments of their own.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

CAMERAS = ("overview", "wrist")
FPS = 60
WIDTHS = {"action": 8, "proprio": 31, "joint_pos": 9, "joint_vel": 9, "ee_position": 3, "ee_rotation": 4}
STATE_SIZE = 80
"""Numbers of a simulation state, which only this project stores."""
Record = Callable[[np.ndarray, Path], "dict[str, float]"]
"""Records frames into a new folder; what it returns is added to the measurements. Made before the clock starts."""


def batches(frames: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Each step's images and low-dimensional arrays, new in memory."""
    for color in frames:
        yield np.array(color), {name: np.ones((len(color), width), np.float32) for name, width in WIDTHS.items()}


def ours(compress: bool = True, use_processes: bool = False, step_s: float = 0.0) -> Record:
    """This project's saver, behind a simulator that takes `step_s` a step."""
    from simulators.recorded import recorded_columns
    from vpl.episode import DatasetCfg
    from vpl.usable_cores import usable_cores
    from vpl_saver import VPLSaver

    def record(frames: np.ndarray, folder: Path) -> dict[str, float]:
        steps, num_envs, num_cameras, height, width, _ = frames.shape
        joints, terms = [f"joint{i}" for i in range(WIDTHS["joint_pos"])], {"all": WIDTHS["proprio"]}
        columns = recorded_columns(joints, terms, WIDTHS["action"], num_cameras, STATE_SIZE, {})
        cfg = DatasetCfg(
            root=folder / "dataset",
            task="benchmark",
            simulator="none",
            num_envs=num_envs,
            steps=steps,
            step_dt=1 / FPS,
            width=width,
            height=height,
            camera_names=CAMERAS[:num_cameras],
            intrinsics=np.tile(np.eye(3), (num_cameras, 1, 1)),
            columns=columns,
            obs_terms=terms,
            state_spec="none",
            seed=0,
            language_instruction="open the drawer",
            compress=compress,
            use_processes=use_processes,
            writer_workers=usable_cores(),
        )
        everyone = np.ones(num_envs, bool)
        zeros = {name: np.zeros((num_envs, *column.shape), column.dtype) for name, column in columns.items()}
        handing_over = 0.0
        with VPLSaver(cfg) as saver:
            start = time.monotonic()
            saver.begin_round(0)
            for color, low_dim in batches(frames):
                time.sleep(step_s)
                begin = time.monotonic()
                saver.store({**zeros, **low_dim}, {"color": color}, everyone)
                handing_over += time.monotonic() - begin
            saver.end_episodes(everyone, ~everyone, everyone)
            return {"stepping_share": handing_over / (time.monotonic() - start)}

    return record


def buffered() -> Record:
    """Frames in lists; when the round is over imageio's default MP4s and contiguous HDF5s."""
    import h5py
    import imageio

    def record(frames: np.ndarray, folder: Path) -> dict[str, float]:
        for env, (images, low_dim) in enumerate(_by_env(frames)):
            episode = folder / f"episode_{env:03d}"
            episode.mkdir()
            for camera, name in enumerate(CAMERAS):
                with imageio.get_writer(episode / f"{name}.mp4", fps=FPS) as writer:
                    for image in images:
                        writer.append_data(image[camera])  # type: ignore[attr-defined]
            with h5py.File(episode / "data.h5", "w", locking=False) as file:
                file["color"] = np.stack(images)
                for name, rows in low_dim.items():
                    file[name] = np.stack(rows)
        return {}

    return record


def gzip_demos(layout: str) -> Record:
    """One HDF5 of all demos, written at the end through h5py's gzip (level 4, chunks by h5py's guess).

    robomimic's dataset_states_to_obs.py --compress stores an array a camera under obs/, Isaac Lab 2.3's
    HDF5DatasetFileHandler the same under another name; neither writes videos. robomimic's copies in next_obs/ are left
    out (its --exclude-next-obs).
    """
    import h5py

    camera_name = {"robomimic": "obs/{}_image", "Isaac Lab": "obs/{}_cam"}[layout]

    def record(frames: np.ndarray, folder: Path) -> dict[str, float]:
        with h5py.File(folder / "demos.hdf5", "w", locking=False) as file:
            for env, (images, low_dim) in enumerate(_by_env(frames)):
                demo = file.create_group(f"data/demo_{env}")
                demo.attrs["num_samples"] = len(images)
                for camera, name in enumerate(CAMERAS):
                    data = np.stack([image[camera] for image in images])
                    demo.create_dataset(camera_name.format(name), data=data, compression="gzip")
                for name, rows in low_dim.items():
                    demo.create_dataset(f"obs/{name}", data=np.stack(rows), compression="gzip")
        return {}

    return record


def lerobot() -> Record:
    """LeRobot 0.4's own writer, streaming H.264; it takes one episode after the other."""
    _without_torchvision()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    def record(frames: np.ndarray, folder: Path) -> dict[str, float]:
        steps, num_envs, num_cameras, *image = frames.shape
        names = [f"observation.images.{name}" for name in CAMERAS[:num_cameras]]
        videos = {name: {"dtype": "video", "shape": image, "names": ["height", "width", "channels"]} for name in names}
        arrays = {f"observation.{name}": width for name, width in WIDTHS.items() if name != "action"}
        arrays["action"] = WIDTHS["action"]
        vectors = {name: {"dtype": "float32", "shape": (width,), "names": None} for name, width in arrays.items()}
        dataset = LeRobotDataset.create(
            "benchmark/saver",
            FPS,
            {**videos, **vectors},
            root=folder / "dataset",
            use_videos=True,
            vcodec="h264",
            streaming_encoding=True,
        )
        rows = {name: np.ones(width, np.float32) for name, width in arrays.items()}
        for env in range(num_envs):
            for step in range(steps):
                images = dict(zip(names, np.array(frames[step, env]), strict=True))
                dataset.add_frame({**images, **rows, "task": "open the drawer"})
            dataset.save_episode()
        dataset.finalize()
        return {}

    return record


def memory_copy() -> Record:
    """What producing the batches takes."""

    def record(frames: np.ndarray, folder: Path) -> dict[str, float]:
        for _ in batches(frames):
            pass
        return {}

    return record


def fsynced_write() -> Record:
    """Raw frames into one file, flushed to disk."""

    def record(frames: np.ndarray, folder: Path) -> dict[str, float]:
        with open(folder / "frames", "wb", buffering=0) as file:
            for color, _ in batches(frames):
                file.write(color.data)
            os.fsync(file.fileno())
        return {}

    return record


def deflate_alone() -> Record:
    """The compression that `color` gets, in one thread, thrown away."""
    from vpl import deflate

    def record(frames: np.ndarray, folder: Path) -> dict[str, float]:
        for image in _images(frames):
            deflate.compress(image, 1)
        return {}

    return record


def x264_alone() -> Record:
    """The video encoding that we use, colour conversion included, in one thread, thrown away."""
    from av.video.reformatter import VideoReformatter

    from vpl.video import VideoEncoder

    def record(frames: np.ndarray, folder: Path) -> dict[str, float]:
        height, width, _ = frames.shape[3:]
        reformatter = VideoReformatter()
        for env in range(frames.shape[1]):
            for camera in range(frames.shape[2]):
                encoder = VideoEncoder(width, height, Fraction(FPS), reformatter)
                for image in frames[:, env, camera]:
                    encoder.encode(np.array(image))
        return {}

    return record


RECORDERS: dict[str, Callable[[], Record]] = {
    "ours, gzip": lambda: ours(),
    "ours, none": lambda: ours(compress=False),
    "ours, gzip, processes": lambda: ours(use_processes=True),
    "ours, none, processes": lambda: ours(compress=False, use_processes=True),
    "ours, gzip, behind a simulator of 800 frames/s": lambda: ours(step_s=0.05),
    "buffered, imageio": buffered,
    "LeRobot, streaming H.264, no lossless images": lerobot,
    "robomimic, gzip, no video": lambda: gzip_demos("robomimic"),
    "Isaac Lab, gzip, no video": lambda: gzip_demos("Isaac Lab"),
    "memory copy": memory_copy,
    "fsynced write": fsynced_write,
    "deflate alone": deflate_alone,
    "x264 alone": x264_alone,
}


def measure(record: Record, frames: np.ndarray, folder: Path) -> dict[str, float]:
    """Wall and CPU time (children included), and by how much memory grew at most (MB, children included)."""
    num_frames = int(np.prod(frames.shape[:3]))
    baseline, peak, done = memory_mb(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, memory_mb())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    cpu, start = cpu_s(), time.monotonic()
    extra = record(frames, folder)
    seconds, cpu = time.monotonic() - start, cpu_s() - cpu
    done.set()
    watcher.join()
    return {
        "frames_per_s": num_frames / seconds,
        "cpu_s_per_1000": cpu / num_frames * 1000,
        "memory_mb": max(0.0, peak - baseline),
        **extra,
    }


def cpu_s() -> float:
    """CPU time of this process and of the children that have ended, s."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def memory_mb() -> float:
    """Memory of this process and its children, without mapped files: FRAMES.npy is one."""
    total, own_command = 0, Path("/proc/self/cmdline").read_bytes()
    for process in ["self", *Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]:
        try:
            if process != "self" and Path(f"/proc/{process}/cmdline").read_bytes() == own_command:
                continue  # forked and not yet another program: its memory is ours
            status = Path(f"/proc/{process}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a child that has just ended
        fields = dict(line.split(":", 1) for line in status.splitlines())
        shared = fields["RssShmem"] if process == "self" else "0 kB"
        total += sum(int(field.split()[0]) for field in (fields.get("RssAnon", "0 kB"), shared))
    return total / 1000


def _by_env(frames: np.ndarray) -> list[tuple[list[np.ndarray], dict[str, list[np.ndarray]]]]:
    """Buffer everything; for each env its images (C, H, W, 3) and low-dimensional rows."""
    buffers: list = [([], {name: [] for name in WIDTHS}) for _ in range(frames.shape[1])]
    for color, low_dim in batches(frames):
        for env, (images, rows) in enumerate(buffers):
            images.append(color[env].copy())
            for name, values in low_dim.items():
                rows[name].append(values[env].copy())
    return buffers


def _images(frames: np.ndarray) -> Iterator[np.ndarray]:
    for color, _ in batches(frames):
        yield from color.reshape(-1, *color.shape[2:])


def _without_torchvision() -> None:
    """LeRobot imports torchvision for transforms, which recording does not use; its wheels need CUDA's torch."""
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    class Absent(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    for name in ("", ".io", ".transforms", ".transforms.functional", ".transforms.v2", ".transforms.v2.functional"):
        module = Absent(f"torchvision{name}")
        module.__spec__, module.__path__ = ModuleSpec(module.__name__, None), []
        sys.modules[module.__name__] = module


def main() -> None:
    name, frames, folder = sys.argv[1:]
    record = RECORDERS[name]()
    print(json.dumps(measure(record, np.load(frames, mmap_mode="r"), Path(folder))))


if __name__ == "__main__":
    main()
