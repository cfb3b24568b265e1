"""What saving costs: this project's saver, the writers common in this field, and the limits, on the same frames.

    python benchmarks/saver.py --repetitions 3

Renders an episode an env with the shipped policy, once as it is and once with the grain of a light sensor (normal,
1.5 of 255). Every recorder runs in a process of its own, by turns, so that a machine whose speed drifts slows all; the
medians are printed, and written as JSON and as a chart. LeRobot is installed into a virtual environment of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import h5py
import matplotlib
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from recorders import CAMERAS, RECORDERS
from workload import collecting_job

import collect_tiled_with_checkpoint as collector
from simulators import load
from simulators.seeds import round_seed
from vpl.usable_cores import usable_cores

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
GRAIN = 1.5
"""Standard deviation of the light sensor's noise, of 255; a path tracer leaves about as much."""
LEROBOT_RECORDER = "LeRobot, streaming H.264, no lossless images"
LEROBOT = (
    "lerobot==0.4.4 datasets==5.2.0 huggingface_hub==2.4.0 av==15.1.0 numpy==2.4.6 pandas==3.1.1 pyarrow==26.0.1 "
    "jsonlines==4.0.0 draccus==0.11.6 einops==0.8.2 deepdiff==9.1.0 accelerate==1.15.0 gymnasium==1.4.0 toml==0.10.2 "
    "imageio==2.38.1 opencv-python-headless==5.0.0.93 safetensors==0.8.0 termcolor==3.3.0 packaging==26.3"
)
"""LeRobot and what recording needs of its requirements; all of them bring gigabytes of CUDA."""


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    results: dict[str, dict[str, list[dict]]] = {}
    with tempfile.TemporaryDirectory(dir=args.data_root) as folder:
        clips = render_clips(Path(folder), args)
        pythons = {LEROBOT_RECORDER: lerobot_python(args.lerobot_venv)} if LEROBOT_RECORDER in args.recorders else {}
        for _ in range(args.repetitions):
            for kind, clip in clips.items():
                for name in args.recorders:
                    runs = results.setdefault(kind, {}).setdefault(name, [])
                    runs.append(run(name, pythons.get(name, sys.executable), clip, inspect_files=not runs))
                    print(f"{kind}: {name}: {runs[-1]['frames_per_s']:.0f} frames/s", file=sys.stderr, flush=True)
    medians = {kind: {name: median_of(runs) for name, runs in rows.items()} for kind, rows in results.items()}
    for kind, rows in medians.items():
        print(f"\n{kind}\n\n{table(rows)}\n\n{ratios(rows)}")
    settings = {name: getattr(args, name) for name in ("num_envs", "steps", "width", "height", "repetitions")}
    args.results.write_text(json.dumps({"machine": machine(), "arguments": settings, "median": medians}, indent=1))
    draw(medians, args.chart)
    return 0


def render_clips(folder: Path, args: argparse.Namespace) -> dict[str, Path]:
    """Frames (T, N, C, H, W, 3) uint8 of one episode an env, without and with grain, as .npy files."""
    job = collecting_job(folder, args.num_envs, args.steps, args.width, args.height)
    shape = (args.steps, args.num_envs, len(CAMERAS), args.height, args.width, 3)
    paths = {kind: folder / f"{kind.replace(' ', '_')}.npy" for kind in ("renders", "renders with grain")}
    clean, grainy = (np.lib.format.open_memmap(path, "w+", np.uint8, shape) for path in paths.values())
    rng = np.random.default_rng(0)
    with load(job.flags.simulator, collector.simulator_cfg(job)) as env, torch.inference_mode():
        obs = env.reset(round_seed(job.flags.seed, 0))
        for step in range(args.steps):
            clean[step] = env.capture(["color"])["color"]
            noise = rng.normal(0, GRAIN, shape[1:]).astype(np.float32)
            grainy[step] = (clean[step] + noise).round().clip(0, 255)
            obs, *_ = env.step(job.policy.act(None, obs))
    clean.flush()
    grainy.flush()
    return paths


def lerobot_python(venv: Path) -> str:
    """The interpreter of LeRobot's environment, made where it is missing."""
    python = venv / "bin" / "python"
    if not (venv / "installed").exists():
        print(f"installing LeRobot into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "torch==2.13.0"], check=True)
        subprocess.run([*pip, "--no-deps", *LEROBOT.split()[:1]], check=True)
        subprocess.run([*pip, *LEROBOT.split()[1:]], check=True)
        (venv / "installed").touch()
    return str(python)


def run(name: str, python: str, clip: Path, inspect_files: bool) -> dict[str, Any]:
    """Run a recorder in a process of its own and look at its files."""
    with tempfile.TemporaryDirectory(dir=clip.parent) as folder:
        command = [python, str(HERE / "recorders.py"), name, str(clip), folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr}")
        measured = json.loads(done.stdout.splitlines()[-1])
        return measured | (describe_files(Path(folder), np.load(clip, mmap_mode="r")) if inspect_files else {})


def describe_files(folder: Path, frames: np.ndarray) -> dict[str, float]:
    num_frames = int(np.prod(frames.shape[:3]))
    videos = [path for path in folder.rglob("*.mp4")]
    others = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".mp4"]
    described: dict[str, float] = {
        "data_bytes_per_frame": sum(path.stat().st_size for path in others) / num_frames,
        "video_bytes_per_frame": sum(path.stat().st_size for path in videos) / num_frames,
    }
    if videos:
        described |= compare_videos(videos, frames)
    if hdf5 := [path for path in others if path.suffix in (".h5", ".hdf5")]:
        described["random_frame_ms"] = random_access_ms(hdf5)
    return described


def compare_videos(videos: list[Path], frames: np.ndarray, num_episodes: int = 4) -> dict[str, float]:
    """PSNR (dB) over the first episodes, and how many frames the videos lack."""
    compared, errors, found = num_episodes * len(frames), [], 0
    for camera, name in enumerate(CAMERAS):
        of_camera = sorted(path for path in videos if name in str(path) or f"camera_{camera}" in str(path))
        originals = (frames[step, env, camera] for env in range(num_episodes) for step in range(len(frames)))
        for original, image in zip(originals, islice(decode(of_camera), compared), strict=False):
            errors.append(np.mean((original.astype(np.float32) - image) ** 2))
        found += sum(count_packets(path) for path in of_camera)
    return {
        "psnr_db": float(10 * np.log10(255**2 / np.mean(errors))),
        "lost_frames": int(np.prod(frames.shape[:3])) - found,
    }


def decode(videos: list[Path]) -> Iterator[np.ndarray]:
    for video in videos:
        with av.open(str(video.absolute())) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")


def count_packets(video: Path) -> int:
    with av.open(str(video.absolute())) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def random_access_ms(paths: list[Path], reads: int = 200) -> float:
    """Median time of reading one frame of one camera with plain h5py from open files in the page cache."""
    rng, times, items = np.random.default_rng(0), [], []
    with contextlib.ExitStack() as stack:
        for file in [stack.enter_context(h5py.File(path, locking=False)) for path in paths]:
            file.visititems(lambda _, item: items.append(item))
        videos = [item for item in items if isinstance(item, h5py.Dataset) and item.dtype == np.uint8]
        # a row is read once, or HDF5's chunk cache would answer
        places = [(video, row) for video in videos for row in range(len(video))]
        for place in rng.choice(len(places), min(reads, len(places)), replace=False):
            video, row = places[place]
            start = time.perf_counter()
            video[row, 0] if video.ndim == 5 else video[row]
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def median_of(runs: list[dict[str, float]]) -> dict[str, Any]:
    """The median of what every run measured, what the first found in its files, and the runs' rates."""
    medians = {name: statistics.median(run[name] for run in runs if name in run) for name in runs[0]}
    return {**medians, "frames_per_s_runs": [run["frames_per_s"] for run in runs]}


NOT_DRAWN = (
    "ours, gzip, behind a simulator of 800 frames/s",
    "memory copy",
    "fsynced write",
    "deflate alone",
    "x264 alone",
)
COLUMNS = {
    "frames_per_s": ("frames/s", ".0f"),
    "cpu_s_per_1000": ("CPU-s per 1,000", ".2f"),
    "memory_mb": ("memory MB", ".0f"),
    "data_bytes_per_frame": ("data B/frame", ".0f"),
    "video_bytes_per_frame": ("video B/frame", ".0f"),
    "psnr_db": ("PSNR dB", ".1f"),
    "lost_frames": ("lost", ".0f"),
    "random_frame_ms": ("read 1 frame ms", ".2f"),
    "stepping_share": ("stepping thread", ".1%"),
}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = [f"| recorder | {' | '.join(title for title, _ in COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        cells = [format(row[column], spec) if column in row else "" for column, (_, spec) in COLUMNS.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(rows: dict[str, dict[str, float]]) -> str:
    """Our frames/s against the peers', our CPU time against its parts'."""
    lines = []
    for mine in ("ours, gzip", "ours, none"):
        for peer in ("buffered, imageio", "LeRobot, streaming H.264, no lossless images"):
            if {mine, peer} <= set(rows):
                lines.append(
                    f"{mine} / {peer}: {rows[mine]['frames_per_s'] / rows[peer]['frames_per_s']:.1f} x frames/s"
                )
    if {"ours, gzip", "deflate alone", "x264 alone"} <= set(rows):
        parts = sum(rows[name]["cpu_s_per_1000"] for name in ("deflate alone", "x264 alone"))
        lines.append(f"ours, gzip / its parts alone: {rows['ours, gzip']['cpu_s_per_1000'] / parts:.2f} x CPU time")
    return "\n".join(lines)


def draw(medians: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Bars of frames/s and of CPU time, grain beside clean."""
    names = [name for name in next(iter(medians.values())) if name in RECORDERS and name not in NOT_DRAWN]
    panels = {
        "frames_per_s": ("frames saved a second (more is better)", "%.0f"),
        "cpu_s_per_1000": ("CPU seconds per 1,000 frames (less is better)", "%.1f"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.55 * len(names) + 1.2), sharey=True, layout="constrained")
    places = np.arange(len(names))
    for axis, (column, (title, spec)) in zip(axes, panels.items(), strict=True):
        for offset, alpha, (kind, rows) in zip((-0.19, 0.19), (1.0, 0.55), medians.items(), strict=True):
            colors = ["tab:green" if name.startswith("ours") else "tab:gray" for name in names]
            values = [rows[name][column] for name in names]
            bars = axis.barh(places + offset, values, 0.36, color=colors, alpha=alpha, label=kind)
            axis.bar_label(bars, fmt=spec, padding=2, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    axes[0].set_yticks(places, names)
    axes[0].invert_yaxis()
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def machine() -> dict[str, str]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = {module.__name__: module.__version__ for module in (av, h5py, np)}
    return {"cpu": cpu[1] if cpu else "", "cores": str(usable_cores()), "system": platform.platform(), **versions}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--num_envs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--data_root", type=Path, default=None, help="folder for frames and files, removed afterwards")
    parser.add_argument("--recorders", nargs="+", choices=RECORDERS, default=list(RECORDERS), metavar="NAME")
    parser.add_argument("--results", type=Path, default=HERE / "saver.json", help="JSON to write")
    parser.add_argument("--chart", type=Path, default=HERE.parent / "docs" / "saver_benchmark.png", help="PNG to write")
    parser.add_argument("--lerobot_venv", type=Path, default=HERE / ".lerobot", help="LeRobot's virtual environment")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
