"""How collecting grows with workers: the same rounds by 1, 2, 4, ... GPUs, weak and strong, and with a worker killed.

    python benchmarks/scaling.py --budget_s 540 --results scaling.json --chart scaling.png      # all GPUs
    python benchmarks/scaling.py --workers_per_gpu 4                                            # that share GPUs
    python benchmarks/scaling.py --simulator mujoco --num_envs 8 --workers 1 --workers 2         # CPU cores

Weak scaling: each worker has `rounds_per_worker` rounds. Strong scaling: all rounds of the widest weak run, by fewer
workers. Frames/s are by the clock, from the instant at which all simulators have booted until the last episode is on
disk, and apart from that from the command's start. A worker has the same cores however many workers there are. All
files of all runs must hold the same. Repetitions take turns, so that a drift of the machine hits all runs alike.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from workload import digest, size

from cluster.driver import Driver
from collect_on_ray import spread
from flags import FlagError, as_flag_error, exit_code, flag, parse
from flags.collect import check_at_least_1
from flags.on_ray import RayFlags, check
from simulators import SIMULATORS, SimulatorError
from vpl.episode import SaverError
from vpl.files import run
from vpl.listing import all_episode_folders
from vpl.usable_cores import core_numbers, usable_cores

PROJECT = Path(__file__).parent.parent
SAMPLE_S = 1.0
WARM_UP = "warm-up"
COLUMNS = (
    "run",
    "workers",
    "rounds",
    "frames_per_s",
    "efficiency",
    "with_boot",
    "waiting",
    "cores_busy",
    "gpu_busy",
    "binds",
)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What can be told."""

    simulator: str = flag("mujoco_warp", "what simulates", choices=tuple(SIMULATORS))
    workers: tuple[int, ...] = flag((), "the numbers of workers", default_says="1, 2, 4, ... as many as there are GPUs")
    workers_per_gpu: int = flag(1, "workers that share a GPU")
    num_envs: int = flag(256, "envs of each worker")
    steps: int = flag(120, "control steps of a round")
    size: str = flag("320x240", "of the images", metavar="WxH")
    rounds_per_worker: int = flag(2, "rounds of each worker in the weak runs")
    repetitions: int = flag(3, "of each run; medians count")
    budget_s: float = flag(3600.0, "runs that would end later are left out, and named", unit="s")
    seed: int = flag(0, "of the instant at which a worker is killed")
    data_root: Path | None = flag(None, "folder for the datasets, which are removed", default_says="a temporary one")
    results: Path | None = flag(None, "write the results", metavar="JSON")
    chart: Path | None = flag(None, "draw them", metavar="PNG")


@dataclass(frozen=True)
class Run:
    """One collection to measure."""

    name: str
    """weak, strong, killed, or `one process`: the collector itself, without Ray, with all cores."""
    workers: int
    rounds: int


class TimedDriver(Driver):
    """Hands out nothing before all workers have booted, and can kill one."""

    began = 0.0
    kill_after_s: float | None = None
    killed = ""

    def _hand_out(self) -> None:
        if not self.began and (self.rounds is None or any(worker.task is not None for worker in self.workers)):
            return
        self.began = self.began or time.monotonic()
        if self.kill_after_s is not None and time.monotonic() - self.began > self.kill_after_s:
            victim = random.Random(self.kill_after_s).choice([worker for worker in self.workers if worker.place])
            assert victim.place is not None
            os.kill(victim.place.pid, signal.SIGKILL)
            self.kill_after_s, self.killed = None, f"{victim} {time.monotonic() - self.began:.1f} s after the beginning"
        super()._hand_out()


class Meter:
    """Samples what the machine does while a block runs."""

    def __enter__(self) -> Meter:
        self._ended = threading.Event()
        self._samples = [(time.monotonic(), _cpu_ticks(), _gpu_utilization())]
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self._samples.append((time.monotonic(), _cpu_ticks(), _gpu_utilization()))

    def between(self, start: float, end: float, gpus: int) -> dict[str, float | None]:
        """From `start` to `end` of time.monotonic(): cores in use, by whatever process, and the share of time with a
        kernel at work on those `gpus` that were used most."""
        inside = [sample for sample in self._samples if start <= sample[0] <= end]
        chosen = inside if len(inside) > 1 else self._samples  # all, of a run that is shorter than two samples
        (first, before, _), *_, (last, after, _) = chosen
        shares = sorted(map(statistics.mean, zip(*(sample[2] for sample in chosen), strict=True)))[-gpus:]
        return {
            "cores_busy": round((after - before) / os.sysconf("SC_CLK_TCK") / (last - first), 2),
            "gpu_busy": round(statistics.mean(shares) / 100, 3) if shares else None,
        }


def _cpu_ticks() -> int:
    """Clock ticks in which the machine's cores worked."""
    user, nice, system, _idle, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return user + nice + system + irq + softirq


def _query_gpus(what: str) -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()


def _gpu_utilization() -> list[float]:
    return [float(value) for value in _query_gpus("utilization.gpu") if value.strip().isdigit()]


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: measure(parse(Flags, argv, __doc__)), SaverError, SimulatorError, OSError)


def measure(flags: Flags) -> int:
    """Run all that the budget allows, and say what came out."""
    start = time.monotonic()
    check_at_least_1(flags, "workers_per_gpu", "num_envs", "steps", "rounds_per_worker", "repetitions")
    with as_flag_error(argparse.ArgumentTypeError, about="--size"):
        size(flags.size)
    gpus = _query_gpus("name") if SIMULATORS[flags.simulator].device != "cpu" else []
    most = len(gpus) * flags.workers_per_gpu or usable_cores()
    numbers = sorted({*flags.workers}) or [n for n in (1, 2, 4, 8, 16) if n <= most]
    if numbers[0] < 1:
        raise FlagError(f"--workers must be at least 1, got {numbers[0]}")
    if numbers[-1] > most:
        raise FlagError(f"--workers {numbers[-1]}: this machine has room for {most}")
    machine = {"gpus": gpus, "cores": usable_cores(), "cores_per_worker": usable_cores() // most}
    print(f"machine     {machine}", flush=True)
    rows: list[dict[str, Any]] = []
    hashes: dict[str, str] = {}
    left_out = []
    if flags.data_root:
        flags.data_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=flags.data_root) as folder:
        for planned in plan(flags, numbers):
            needed = expected_s(planned, rows)
            if time.monotonic() - start + needed > flags.budget_s:
                left_out.append(asdict(planned))
                continue
            rows.append(measure_one(planned, flags, most, Path(folder), hashes, rows))
            print(json.dumps(rows[-1]), flush=True)
            write(flags, machine, rows, left_out)  # after each: a time limit costs no results
    print(table(summary(rows)))
    if left_out:
        print(f"left out for --budget_s {flags.budget_s:g}: {left_out}")
    if flags.chart:
        draw(summary(rows), flags.chart)
    return 0 if all(row["bytes_equal"] and not row["missing"] for row in rows) else 1


def plan(flags: Flags, numbers: list[int]) -> Iterator[Run]:
    """The runs in their order, the most telling ones first."""
    most = numbers[-1]
    yield Run(WARM_UP, 1, 1)
    for repetition in range(flags.repetitions):
        for workers in numbers:
            yield Run("weak", workers, workers * flags.rounds_per_worker)
        if repetition == 0:
            yield Run("killed", most, most * flags.rounds_per_worker)
        yield Run("one process", 1, flags.rounds_per_worker)
        for workers in numbers[:-1] if most > 1 else ():
            yield Run("strong", workers, most * flags.rounds_per_worker)


def expected_s(planned: Run, rows: list[dict[str, Any]]) -> float:
    """Seconds that a run will take, by those before it; 0 where nothing is known."""
    timed = [row for row in rows if row["run"] != WARM_UP] or rows
    if not timed:
        return 0.0
    per_round = max(row["seconds"] * row["workers"] / row["rounds"] for row in timed)
    overhead = max(row["command_s"] - row["seconds"] for row in timed)
    again = 2 if planned.name == "killed" else 1
    return 1.1 * (again * overhead + again * per_round * planned.rounds / planned.workers)


def measure_one(
    planned: Run, flags: Flags, most: int, folder: Path, hashes: dict[str, str], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Collect, time it, compare all files with those of the runs before, and remove them."""
    data_root = folder / "data"
    with Meter() as meter:
        if planned.name == "one process":
            row = run_collector(planned, flags, data_root)
        else:
            weak = [row["seconds"] for row in rows if row["run"] == "weak" and row["workers"] == planned.workers]
            row = run_on_ray(planned, flags, most, data_root, weak[-1] if planned.name == "killed" and weak else None)
        ended = row.pop("ended")
        row |= meter.between(ended - row["seconds"], ended, -(-planned.workers // flags.workers_per_gpu))
    (dataset,) = data_root.iterdir()
    episodes = all_episode_folders(dataset)
    files = [path for episode in episodes for path in sorted(episode.rglob("*")) if path.is_file()]
    # a fork of this process would have locks of Ray's threads
    with ProcessPoolExecutor(usable_cores(), multiprocessing.get_context("forkserver")) as pool:
        found = dict(zip((str(path.relative_to(dataset)) for path in files), pool.map(digest, files), strict=True))
    differ = sum(hashes.setdefault(name, value) != value for name, value in found.items())
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    shutil.rmtree(data_root)
    frames = planned.rounds * flags.num_envs * flags.steps * 2
    cores = usable_cores() if planned.name == "one process" else planned.workers * (usable_cores() // most)
    row |= {
        "frames_per_s": round(frames / row["seconds"], 1),
        "with_boot": round(frames / row["command_s"], 1),
        "waiting": round(row["waited_s"] / row["seconds"] / planned.workers, 3),
        "written_mb_per_s": round(megabytes / row["seconds"], 1),
        "bytes_equal": not differ,
        "files_that_differ": differ,
        "missing": planned.rounds * flags.num_envs - len(episodes),
    }
    return {
        "run": planned.name,
        "workers": planned.workers,
        "rounds": planned.rounds,
        **row,
        "binds": binds(row, cores),
    }


def run_on_ray(planned: Run, flags: Flags, most: int, data_root: Path, seconds: float | None) -> dict[str, Any]:
    """Collect on Ray; where `seconds` is how long that takes, a worker is killed at a random instant of it."""
    on_cpu = SIMULATORS[flags.simulator].device == "cpu"
    mine = core_numbers()
    if on_cpu:  # so that one of two workers has no more cores than it has beside another one
        os.sched_setaffinity(0, mine[: planned.workers * (len(mine) // most)])
    start, cpu = time.monotonic(), time.process_time()
    gpus = None if on_cpu else 1 / flags.workers_per_gpu
    told = collector_flags(planned, flags, data_root)
    job = RayFlags(**told, workers=planned.workers, gpus_per_worker=gpus, address="local")
    with redirect_stdout(io.StringIO()), spread(job, check(job), TimedDriver) as driver:
        if seconds is not None:
            driver.kill_after_s = random.Random(flags.seed).uniform(0.1, 0.9) * seconds
        for _ in driver.events():
            pass
        end = time.monotonic()
        assert driver.catalog is not None
        waited_s = driver.catalog.writer_wait_s
    os.sched_setaffinity(0, mine)
    timed = {"seconds": round(end - driver.began, 2), "command_s": round(end - start, 2), "waited_s": waited_s}
    driver_cpu = round((time.process_time() - cpu) / (end - start), 3)
    return {**timed, "driver_cpu": driver_cpu, "ended": end, **({"killed": driver.killed} if driver.killed else {})}


def run_collector(planned: Run, flags: Flags, data_root: Path) -> dict[str, Any]:
    """Collect without Ray, and read what the summary says."""
    start = time.monotonic()
    told = collector_flags(planned, flags, data_root) | {"enable_wrist_camera": None}
    words = [word for name, value in told.items() for word in (f"--{name}", *([] if value is None else [str(value)]))]
    command = [sys.executable, str(PROJECT / "collect_tiled_with_checkpoint.py"), *words]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"took +([\d.]+) s: .* waited ([\d.]+) s", output)
    assert found is not None, output
    end = time.monotonic()
    return {"seconds": float(found[1]), "command_s": round(end - start, 2), "waited_s": float(found[2]), "ended": end}


def collector_flags(planned: Run, flags: Flags, data_root: Path) -> dict[str, Any]:
    width, height = map(int, flags.size.split("x"))
    return {
        "simulator": flags.simulator,
        "num_envs": flags.num_envs,
        "num_episodes": planned.rounds,
        "steps": flags.steps,
        "width": width,
        "height": height,
        "enable_wrist_camera": True,
        "data_root": data_root,
    }


def binds(row: dict[str, Any], cores: int) -> str:
    """What a run waits for."""
    if row["cores_busy"] > 0.85 * cores:
        return "cores"
    if row["waiting"] > 0.1:
        return "writers"
    if row.get("driver_cpu", 0) > 0.8:
        return "driver"
    return "GPU and simulator" if row["gpu_busy"] else "simulator"


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians of each run's repetitions, with the efficiency against one worker."""
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["run"] != WARM_UP:
            groups.setdefault((row["run"], row["workers"], row["rounds"]), []).append(row)
    medians = []
    for (name, workers, rounds), group in groups.items():
        numbers = {
            key: round(statistics.median(row[key] for row in group), 6)
            for key, value in group[0].items()
            if type(value) in (int, float)
        }
        said = {"run": name, "workers": workers, "rounds": rounds, "repetitions": len(group)}
        medians.append({**numbers, **said, "binds": " / ".join(dict.fromkeys(row["binds"] for row in group))})
    one = {row["run"]: row["frames_per_s"] for row in medians if row["workers"] == 1}
    widest = max((row for row in medians if row["run"] == "weak"), key=lambda row: row["workers"], default=None)
    if widest and "strong" in one:  # the widest weak run is the widest strong one, too
        medians.append({**widest, "run": "strong"})
    for row in medians:
        base = one.get("weak" if row["run"] == "killed" else row["run"])
        row["efficiency"] = round(row["frames_per_s"] / base / row["workers"], 3) if base else None
    return medians


def table(medians: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    lines += [["" if row.get(name) is None else f"{row[name]}" for name in COLUMNS] for row in medians]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(flags: Flags, machine: dict[str, Any], rows: list[dict[str, Any]], left_out: list[dict[str, Any]]) -> None:
    """The results so far."""
    if flags.results:
        arguments = {name: value for name, value in asdict(flags).items() if not isinstance(value, Path)}
        document = {"machine": machine, "arguments": arguments, "rows": rows, "medians": summary(rows)}
        flags.results.write_text(json.dumps({**document, "left_out": left_out}, indent=1))


def draw(medians: list[dict[str, Any]], path: Path) -> None:
    """Frames/s over workers, and what they would be without a loss."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for name, style in (("weak", "o-"), ("strong", "s--"), ("killed", "x"), ("one process", "^")):
        points = sorted((row["workers"], row["frames_per_s"]) for row in medians if row["run"] == name)
        if points:
            axis.plot(*zip(*points, strict=True), style, label={"killed": "a worker killed"}.get(name, name))
    if one := [row for row in medians if row["run"] == "weak" and row["workers"] == 1]:
        most = max(row["workers"] for row in medians)
        axis.plot(
            [1, most], [one[0]["frames_per_s"], most * one[0]["frames_per_s"]], ":", color="grey", label="no loss"
        )
    axis.set(xlabel="workers", ylabel="frames/s", ylim=(0, None), xticks=sorted({row["workers"] for row in medians}))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    run(main)
