"""How much of the simulator's speed collecting keeps: the bare step-and-render loop and the collector, side by side.

    python benchmarks/collect.py --num_envs 20 --steps 60 --repetitions 5

Both run the shipped policy with overview and wrist camera in one process on the same envs, by turns, so that a machine
whose speed drifts slows both. Collecting is timed until the last episode is on disk.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from workload import collecting_job, size_parser

import collect_tiled_with_checkpoint as collector
from simulators import DrawerEnv, load, round_seed
from vpl_saver import VPLSaver


def main(argv: list[str] | None = None) -> int:
    args = size_parser(__doc__, repetitions=5).parse_args(argv)
    torch.set_num_threads(1)
    never = collector.StopSignal()
    rates: dict[str, list[float]] = {"step and render": [], "collect": []}
    with tempfile.TemporaryDirectory(dir=args.data_root) as folder:
        job = collecting_job(args, Path(folder))
        cfg = collector.simulator_cfg(job)
        frames = job.num_envs * job.steps * len(job.cameras)
        with load(job.simulator)(cfg) as env:
            print(f"{frames} frames a run at {job.width}x{job.height}, {env.describe()}")
            step_and_render(env, job.policy, 3)  # warm-up
            for repetition in range(args.repetitions):
                start = time.perf_counter()
                step_and_render(env, job.policy, job.steps)
                rates["step and render"].append(frames / (time.perf_counter() - start))
                job.robot_name = f"repetition{repetition}"
                start = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()), VPLSaver(collector.dataset_cfg(job, env)) as saver:
                    collector.collect(env, job.policy, saver, 1, job.steps, collector.progress_bar(job), never)
                rates["collect"].append(frames / (time.perf_counter() - start))
    for name, values in rates.items():
        print(f"{name:<16} {statistics.median(values):7.1f} frames/s  (runs: {', '.join(f'{v:.0f}' for v in values)})")
    ratios = [b / a for a, b in zip(rates["step and render"], rates["collect"], strict=True)]
    print(f"{'ratio':<16} {statistics.median(ratios):7.3f}  (runs: {', '.join(f'{r:.3f}' for r in ratios)})")
    return 0


def step_and_render(env: DrawerEnv, policy: torch.nn.Module, steps: int) -> None:
    """The collector's loop without the saver."""
    with torch.inference_mode():
        obs = env.reset(round_seed(42, 0))
        for _ in range(steps):
            env.capture()
            obs, *_ = env.step(policy(obs["policy"]))


if __name__ == "__main__":
    sys.exit(main())
