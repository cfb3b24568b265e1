"""What collecting is bound by: the simulator with its cameras, the writers, and both together, by envs and sizes.

    python benchmarks/collect.py --num_envs 20
    python benchmarks/collect.py --simulator mujoco_warp --num_envs 64 256 1024 --sizes 160x120 320x240

Both cameras, the shipped policy, HDF5 with gzip and MP4. Each round is timed three ways by turns, so that a machine
whose speed drifts slows all alike: simulating and rendering without a saver; the saver alone, fed with rendered frames;
and collecting, until the last episode is on disk. The split: seconds of a control step in physics with the policy, in
rendering with the way to the host, of which the copy; CPU milliseconds of a frame in encoding and in writing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.video.reformatter import VideoReformatter

sys.path.insert(0, str(Path(__file__).parent.parent))

from recorders import cpu_s
from workload import collecting_job, size

import collect_tiled_with_checkpoint as collector
from flags.collect import Job
from policies.rsl_rl import CheckpointPolicy
from simulators import CameraEnv, Sample, load
from simulators.seeds import round_seed
from vpl import deflate
from vpl.usable_cores import usable_cores
from vpl.video import VideoEncoder
from vpl_saver import VPLSaver

CLIP_BYTES = 4 << 30
"""At most this much of rendered frames is kept to feed the saver alone."""
COLUMNS = {
    "num_envs": "envs",
    "size": "size",
    "physics_ms": "physics ms",
    "render_ms": "rendering ms",
    "copy_ms": "copy ms",
    "encode_cpu_ms": "encode CPU-ms/frame",
    "write_cpu_ms": "write CPU-ms/frame",
    "simulate": "simulator frames/s",
    "write": "writers frames/s",
    "collect": "collecting frames/s",
    "of_bound": "of the bound",
    "waiting": "waiting",
}


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    rows, machine = [], {"cores": usable_cores()}
    for px in args.sizes:
        for num_envs in args.num_envs:
            with tempfile.TemporaryDirectory(dir=args.data_root) as folder:
                flags = ["--simulator", args.simulator, "--samples_per_pixel", str(args.samples_per_pixel)]
                width, height = map(int, px.split("x"))
                job = collecting_job(Path(folder), num_envs, args.steps, width, height, *flags)
                with load(job.flags.simulator, collector.simulator_cfg(job)) as env:
                    machine |= env.describe()
                    rows.append({"num_envs": num_envs, "size": px, **measure(env, job, args.repetitions)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(f"{machine}\n\n{table(rows)}")
    settings = {"steps": args.steps, "repetitions": args.repetitions, "samples_per_pixel": args.samples_per_pixel}
    if args.results:
        args.results.write_text(json.dumps({"machine": machine, "arguments": settings, "rows": rows}, indent=1))
    if args.chart:
        draw(rows, args.chart)
    return 0


def measure(env: CameraEnv, job: Job, repetitions: int) -> dict[str, float]:
    """Medians for one number of envs and one size."""
    assert isinstance(job.policy, CheckpointPolicy)
    policy, steps = job.policy.to(env.device), job.flags.steps
    frames = job.flags.num_envs * steps * len(job.cameras)
    simulate(env, policy, 3, ["color"])  # warm-up
    clip = record_clip(env, policy, job)
    runs: dict[str, list[float]] = {name: [] for name in ("physics", "simulate", "write", "collect", "waiting", "cpu")}
    for repetition in range(repetitions):
        runs["physics"].append(timed(simulate, env, policy, steps, []))
        runs["simulate"].append(timed(simulate, env, policy, steps, ["color"]))
        cpu = cpu_s()
        saver = new_saver(env, job, f"writers{repetition}")
        runs["write"].append(timed(feed, saver, clip))
        runs["cpu"].append(cpu_s() - cpu)
        shutil.rmtree(saver.cfg.root)
        saver = new_saver(env, job, f"collector{repetition}")
        runs["collect"].append(timed(collect, env, saver, job))
        runs["waiting"].append(saver.writer_wait_s / runs["collect"][-1])
        shutil.rmtree(saver.cfg.root)
    medians = {name: statistics.median(values) for name, values in runs.items()}
    encode_ms = encoding_cpu_ms(clip, job)
    rates = {name: frames / medians[name] for name in ("simulate", "write", "collect")}
    return {
        "physics_ms": 1e3 * medians["physics"] / steps,
        "render_ms": 1e3 * (medians["simulate"] - medians["physics"]) / steps,
        "copy_ms": 1e3 * copy_s(env, clip[0]),
        "encode_cpu_ms": encode_ms,
        "write_cpu_ms": max(0.0, 1e3 * medians["cpu"] / frames - encode_ms),
        **rates,
        "of_bound": rates["collect"] / min(rates["simulate"], rates["write"]),
        "waiting": medians["waiting"],
    }


def new_saver(env: CameraEnv, job: Job, name: str) -> VPLSaver:
    """As the collector makes it; its processes start while it is fed."""
    return collector.open_saver(replace(job, flags=replace(job.flags, robot_name=name)), env)


def timed(work: Any, *args: Any) -> float:
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def simulate(env: CameraEnv, policy: torch.nn.Module, steps: int, streams: Collection[str]) -> None:
    """The collector's loop without the saver."""
    with torch.inference_mode():
        obs = env.reset(round_seed(42, 0))
        for _ in range(steps):
            finish = env.start_capture(streams)
            obs, *_ = env.step(policy(obs["policy"]))
            finish()


def record_clip(env: CameraEnv, policy: torch.nn.Module, job: Job) -> list[Sample]:
    """Consecutive samples with images and what came of the action, as many as fit."""
    flags = job.flags
    most = CLIP_BYTES // (flags.num_envs * len(job.cameras) * flags.width * flags.height * 3)
    clip = []
    with torch.inference_mode():
        obs = env.reset(round_seed(42, 0))
        for _ in range(max(1, min(flags.steps, most))):
            sample, action = env.capture(["color"]), policy(obs["policy"])
            obs, reward, _, extras = env.step(action)
            of_step = {"action": action, "joint_pos_target": extras["joint_pos_target"], "reward": reward}
            columns = {**sample.columns, **{name: collector.to_numpy(part) for name, part in of_step.items()}}
            clip.append(Sample(columns, sample.images))
    return clip


def feed(saver: VPLSaver, clip: list[Sample]) -> None:
    """Store a round of recorded samples, forwards and backwards, and wait until it is on disk."""
    everyone = np.ones(saver.cfg.num_envs, bool)
    there_and_back = [*clip, *clip[-2:0:-1]]
    saver.begin_round(0)
    for step in range(saver.cfg.steps):
        sample = there_and_back[step % len(there_and_back)]
        saver.store(sample.columns, sample.images, everyone)
    saver.end_episodes(everyone, ~everyone, everyone)
    saver.close()


def collect(env: CameraEnv, saver: VPLSaver, job: Job) -> None:
    never = collector.StopSignal("")
    with contextlib.redirect_stdout(io.StringIO()), collector.progress_bar(job.flags, len(job.cameras)) as bar:
        collector.collect(env, job, saver, bar, never)
        saver.close()


def encoding_cpu_ms(clip: list[Sample], job: Job) -> float:
    """CPU time of deflating, converting and encoding a frame, in one thread, of at most 60 frames of one env."""
    encoder = VideoEncoder(job.flags.width, job.flags.height, Fraction(60), VideoReformatter())
    images = [sample["color"][0, camera] for camera in range(len(job.cameras)) for sample in clip[:30]]
    start = time.thread_time()
    for image in images:
        deflate.compress(image, 1)
        encoder.encode(image)
    return 1e3 * (time.thread_time() - start) / len(images)


def copy_s(env: CameraEnv, sample: Sample) -> float:
    """Seconds to bring a batch of images to the host; 0 where they are born there."""
    if env.device.type == "cpu":
        return 0.0
    there = torch.empty(sample["color"].shape, dtype=torch.uint8, device=env.device)
    here = torch.empty(sample["color"].shape, dtype=torch.uint8, pin_memory=True)
    torch.cuda.synchronize()

    def copy() -> None:
        here.copy_(there, non_blocking=True)
        torch.cuda.synchronize()

    return min(timed(copy) for _ in range(5))


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    lines += [[cell(name, row[name]) for name in COLUMNS] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if name in ("of_bound", "waiting"):
        return f"{value:.0%}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of the three rates, a group a row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3.2), constrained_layout=True)
    names = {"simulate": "simulator and cameras alone", "write": "writers alone", "collect": "collecting"}
    for i, (name, label) in enumerate(names.items()):
        axis.bar(np.arange(len(rows)) + 0.27 * (i - 1), [row[name] for row in rows], 0.25, label=label)
    axis.set_xticks(range(len(rows)), [f"{row['num_envs']} envs\n{row['size']}" for row in rows])
    axis.set(ylabel="frames/s")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(loc="upper left")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--simulator", default="mujoco")
    parser.add_argument("--num_envs", type=int, nargs="+", default=[20])
    parser.add_argument("--sizes", nargs="+", type=size, default=["320x240"], metavar="WxH")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--samples_per_pixel", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--data_root", type=Path, default=None, help="folder for files, removed afterwards")
    parser.add_argument("--results", type=Path, default=None, help="JSON to write")
    parser.add_argument("--chart", type=Path, default=None, help="PNG to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
