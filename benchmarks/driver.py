"""What the driver of a collection on Ray costs: rounds handed out to workers that simulate nothing and write nothing.

    python benchmarks/driver.py --episodes 100000 --results driver.json

The driver, its catalog, metadata.json, what it prints and Ray are the real ones; a worker answers at once with the rows
that a round's episodes would have. Time and memory by round say whether they stay flat, and how many workers a driver
can serve. What it costs itself is the processor's time of its thread, a mean. By the clock (a median) it also waits for
workers: for the start of the last of them in the first rounds, and in the end for the very last round.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

sys.path.insert(0, str(Path(__file__).parent.parent))

from cluster.driver import Booted, Driver, Place, Report, Settings, Worker
from cluster.shares import Shares
from collect_on_ray import watch
from flags import flag, parse
from flags.collect import CollectFlags
from vpl.catalog import Catalog
from vpl.columns import Column, Role
from vpl.episode import DatasetCfg
from vpl.files import StopSignal, run
from vpl.runs import describe_run


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What can be told."""

    episodes: int = flag(100_000, "how many in all")
    num_envs: int = flag(1000, "of a round")
    workers: int = flag(4, "actors, which share this machine's cores")
    results: Path | None = flag(None, "write the results", metavar="JSON")


class IdleWorker:
    """Answers as a worker does."""

    def place(self) -> Place:
        return Place(ray.get_runtime_context().get_node_id(), os.uname().nodename, os.getpid(), [0])

    def boot(self, flags: CollectFlags, recorded: Any, folder: str, cores: list[int]) -> Booted:
        self._num_envs = flags.num_envs
        metadata = {"runs": [describe_run({}, {}, {})], "checkpoint": {}, "cameras": []}
        return Booted(
            DatasetCfg(
                root=Path(),
                task="none",
                simulator="none",
                num_envs=flags.num_envs,
                steps=60,
                step_dt=1 / 60,
                width=320,
                height=240,
                camera_names=("overview",),
                intrinsics=np.eye(3)[None],
                columns={"success": Column((), "bool", Role.METRIC, "", "")},
                obs_terms={},
                state_spec="",
                seed=0,
                language_instruction="",
                metadata=metadata,
                run=0,
            ),
            [],
        )

    def open(self, cfg: DatasetCfg, folder: Path, destination: Any) -> None:
        """Nothing is written."""

    def collect(self, number: int, rows: list[dict[str, Any]]) -> Report:
        first = number * self._num_envs
        episodes = [
            {
                "episode_index": first + env,
                "round": number,
                "env_index": env,
                "num_frames": 60,
                "terminated": False,
                "truncated": True,
                "success": True,
                "final_drawer_pos": 0.3912,
                "run": 0,
                "path": f"episode_{first + env:03d}",
            }
            for env in range(self._num_envs)
        ]
        return Report(episodes, [], 0.0)

    def flush(self) -> Report:
        return Report([], [], 0.0)


class Watched(Driver):
    """Notes time and memory after each round."""

    def events(self) -> Iterator[tuple[Worker, int] | None]:
        """See `Driver.events`."""
        self.rounds_done: list[tuple[float, float, float]] = []
        """Seconds of the processor in this thread, seconds of the clock, and MB."""
        for event in super().events():
            if event:
                self.rounds_done.append((time.thread_time(), time.monotonic(), memory_mb()))
            yield event


def main(argv: list[str] | None = None) -> int:
    flags = parse(Flags, argv, __doc__)
    ray.init(address="local", num_cpus=flags.workers, log_to_driver=False, include_dashboard=False)
    told = CollectFlags(num_envs=flags.num_envs, num_episodes=flags.episodes // flags.num_envs)
    with tempfile.TemporaryDirectory() as folder:
        driver = Watched(
            Settings(told, {}, Shares(flags.workers, 1, 0, {}), 3, 600),
            ray.remote(IdleWorker).options(num_cpus=1).remote,
            lambda booted: (Catalog(replace(booted.cfg, root=Path(folder, "set")), resume=False), None),
        )
        with redirect_stdout(io.StringIO()), closing(driver):
            watch(driver, StopSignal("the workers end"))
    ray.shutdown()
    cpu, wall, memory = np.array(driver.rounds_done).T
    tenth = max(1, len(cpu) // 10)
    cpu_ms, wall_ms = 1e3 * np.diff(cpu), 1e3 * np.diff(wall)
    result = {
        "rounds": len(cpu),
        "episodes": flags.episodes,
        "cpu_ms_per_round_first_tenth": cpu_ms[:tenth].mean(),
        "cpu_ms_per_round_last_tenth": cpu_ms[-tenth:].mean(),
        "wall_ms_per_round_first_tenth": np.median(wall_ms[:tenth]),
        "wall_ms_per_round_last_tenth": np.median(wall_ms[-tenth:]),
        "memory_mb_after_first_tenth": memory[tenth],
        "memory_mb_at_the_end": memory[-1],
        "bytes_per_episode": 1e6 * (memory[-1] - memory[tenth]) / (0.9 * flags.episodes),
    }
    result = {name: round(float(value), 3) if isinstance(value, float) else value for name, value in result.items()}
    print(json.dumps(result, indent=1))
    if flags.results:
        flags.results.write_text(json.dumps(result, indent=1))
    return 0


def memory_mb() -> float:
    """Of this process, in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    run(main)
