"""What the driver of a collection on Ray costs: rounds handed out to workers that simulate nothing and write nothing.

    python benchmarks/driver.py --episodes 100000 --results driver.json

The driver, its catalog, metadata.json and Ray are the real ones; a worker answers at once with the rows that a round's
episodes would have. Seconds and memory by round say whether they stay flat, and how many workers a driver can serve.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

sys.path.insert(0, str(Path(__file__).parent.parent))

from cluster.driver import Booted, Driver, Place, Report, Settings
from cluster.shares import Shares
from flags import flag, parse
from flags.collect import CollectFlags
from vpl.catalog import Catalog
from vpl.columns import Column, Role
from vpl.episode import DatasetCfg
from vpl.files import run
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


def main(argv: list[str] | None = None) -> int:
    flags = parse(Flags, argv, __doc__)
    ray.init(address="local", num_cpus=flags.workers, log_to_driver=False, include_dashboard=False)
    told = CollectFlags(num_envs=flags.num_envs, num_episodes=flags.episodes // flags.num_envs)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(told, {}, Shares(flags.workers, 1, 0, {}), 3, 600)
        actor = ray.remote(IdleWorker).options(num_cpus=1)
        driver = Driver(
            settings,
            actor.remote,
            lambda booted: (Catalog(replace(booted.cfg, root=Path(folder, "set")), resume=False), None),
        )
        with closing(driver):
            before = time.monotonic()
            for event in driver.events():
                if event:
                    rows.append({"seconds": time.monotonic() - before, "memory_mb": memory_mb()})
                    before = time.monotonic()
    ray.shutdown()
    tenth = max(1, len(rows) // 10)
    result = {
        "rounds": len(rows),
        "episodes": flags.episodes,
        "ms_per_round_first_tenth": 1e3 * statistics.mean(row["seconds"] for row in rows[1 : tenth + 1]),
        "ms_per_round_last_tenth": 1e3 * statistics.mean(row["seconds"] for row in rows[-tenth:]),
        "memory_mb_after_first_tenth": rows[tenth]["memory_mb"],
        "memory_mb_at_the_end": rows[-1]["memory_mb"],
    }
    result["bytes_per_episode"] = 1e6 * (rows[-1]["memory_mb"] - rows[tenth]["memory_mb"]) / (0.9 * flags.episodes)
    print(json.dumps(result, indent=1))
    if flags.results:
        flags.results.write_text(json.dumps(result, indent=1))
    return 0


def memory_mb() -> float:
    """Of this process, in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    run(main)
