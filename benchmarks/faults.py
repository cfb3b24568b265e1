"""Random kills of collections on Ray: is every dataset, completed where need be, that of an undisturbed run?

    python benchmarks/faults.py --trials 50 --results faults.json

Faults by turns, each at a random instant: SIGKILL of a worker, of a node with all its processes (two nodes on this
machine), and of the driver; a worker that stops (SIGSTOP); a disk that fills, and with --gather one node's own disk
that is full (tmpfs; both need root). What is on disk after a fault must be whole episodes of the undisturbed run, byte
for byte; then --resume completes it where the run did not, on Ray and on one machine by turns, and all bytes are
compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from workload import digest

from flags import flag, parse
from vpl.files import run
from vpl.listing import all_episode_folders

PROJECT = Path(__file__).parent.parent
ON_RAY, ON_ONE = (str(PROJECT / name) for name in ("collect_on_ray.py", "collect_tiled_with_checkpoint.py"))
FLAGS = (
    "--num_envs 2 --num_episodes 8 --steps 30 --enable_wrist_camera --width 64 --height 48 --simulator mujoco".split()
)
FAULTS = ("worker", "node", "driver", "hang", "disk", "node's disk")
SMALL_DISK, LARGE_DISK = "3m", "200m"
"""Sizes of the tmpfs that fills, and then does not."""
NODES_DISK = "64k"
"""A node's own, which keeps an episode only until it is gathered."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What can be told."""

    trials: int = flag(50, "how many")
    seed: int = flag(0, "fixes the instants")
    results: Path | None = flag(None, "write the results", metavar="JSON")


def main(argv: list[str] | None = None) -> int:
    flags = parse(Flags, argv, __doc__)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, ON_ONE, *FLAGS, "--data_root", f"{folder}/reference"], check=True)
        (reference,) = Path(folder, "reference").iterdir()
        whole = digests(reference)
        most_s = undisturbed_s(Path(folder, "undisturbed"))
        for trial in range(flags.trials):
            place = Path(folder, f"trial_{trial}")
            place.mkdir()
            rows.append(one_trial(trial, flags.seed, place, whole, most_s))
            print(json.dumps(rows[-1]), flush=True)
            if flags.results:
                flags.results.write_text(json.dumps({"flags": FLAGS, "rows": rows}, indent=1))
    failed = [row for row in rows if not row["good"]]
    print(f"{len(rows)} trials, {len(failed)} with an episode that is half, doubled, lost or changed")
    return 1 if failed else 0


def undisturbed_s(place: Path) -> float:
    """Seconds of a run from its dataset's beginning to its end."""
    place.mkdir()
    process = start(place, "local")
    begun = time.monotonic()
    process.communicate()
    return time.monotonic() - begun


def start(place: Path, address: str, *more: str) -> subprocess.Popen:
    """A collection on Ray whose dataset has begun."""
    words = [*FLAGS, "--data_root", str(place), "--address", address, "--workers", "2", "--round_timeout_s", "40"]
    words += more
    process = subprocess.Popen(
        [sys.executable, ON_RAY, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not list(place.glob("*/metadata.json")) and process.poll() is None:
        time.sleep(0.05)
    return process


def one_trial(trial: int, seed: int, place: Path, whole: dict[str, str], most_s: float) -> dict[str, Any]:
    """Start, do harm at a random instant, look at what is there, and complete it."""
    fault, chance = FAULTS[trial % len(FAULTS)], random.Random(f"{seed} {trial}")
    delay = chance.uniform(0, most_s)
    with contextlib.ExitStack() as stack:
        if fault == "disk":
            stack.enter_context(small_disk(place))
        cluster = stack.enter_context(two_nodes(place if "disk" in fault else None)) if "node" in fault else None
        more = ["--gather"] if fault == "node's disk" else []
        process = start(place, cluster.address if cluster else "local", *more)
        if "disk" not in fault:
            time.sleep(delay)
        hit = process.poll() is None
        harm(fault, process, cluster, chance)
        output, _ = process.communicate()
        (dataset,) = place.iterdir()
        found = digests(dataset)
        half = [name for name, digest in found.items() if whole.get(name) != digest]
        resumed = ""
        if process.returncode:
            if fault == "disk":
                subprocess.run(["mount", "-o", f"remount,size={LARGE_DISK}", str(place)], check=True)
            resumed = (ON_RAY, ON_ONE)[trial // len(FAULTS) % 2]
            more = ["--workers", "2", "--address", "local"] if resumed == ON_RAY else []
            subprocess.run([sys.executable, resumed, "--resume", str(dataset), *more], check=True, capture_output=True)
        complete = digests(dataset)
        wrong = sorted(name for name in {*whole, *complete} if whole.get(name) != complete.get(name))
        wrong += [".partial"] if (dataset / ".partial").exists() else []
    given_up = [line for line in output.splitlines() if line.startswith(("given up", "missing", "error"))]
    return {
        "trial": trial,
        "fault": fault,
        "instant_s": round(delay, 2),
        "hit": hit,
        "code": process.returncode,
        "episodes": len({name.split("/")[0] for name in found}),
        "said": given_up,
        "resumed": Path(resumed).name,
        "wrong": [*half, *wrong],
        "good": not half and not wrong,
    }


def harm(fault: str, process: subprocess.Popen, cluster: Any, chance: random.Random) -> None:
    """Do it, unless the run has ended."""
    if fault == "driver":
        process.kill()
    elif fault == "node":
        (node,) = cluster.worker_nodes
        raylet = node.all_processes["raylet"][0].process.pid
        for pid in (*children(raylet), raylet):
            os.kill(pid, signal.SIGKILL)
    elif fault in ("worker", "hang"):
        workers = [
            pid
            for raylet in children(process.pid)
            for pid in children(raylet)
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::RoundCollector")
        ]
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL if fault == "worker" else signal.SIGSTOP)


def children(pid: int) -> list[int]:
    """Processes that `pid` has started, by any of its threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def digests(dataset: Path) -> dict[str, str]:
    """What each file of each episode holds, in a hash."""
    files = [path for folder in all_episode_folders(dataset) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(dataset)): digest(path) for path in files}


@contextlib.contextmanager
def two_nodes(own: Path | None) -> Iterator[Any]:
    """Two nodes of a core each on this machine; the second has a small disk of its own at `own`, if that is given."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.shutdown)
        if own is None:
            cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()
        else:
            stack.enter_context(node_with_a_disk(own, cluster.address))
        yield cluster


@contextlib.contextmanager
def node_with_a_disk(place: Path, address: str) -> Iterator[None]:
    """A second node, for which `place` is a small disk of its own."""
    import ray

    mount = f"mount -t tmpfs -o size={NODES_DISK} tmpfs {place}"
    join = f"{sys.executable} -m ray.scripts.scripts start --address {address} --num-cpus 1 --block"
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", f"{mount} && exec {join}"]) as node:
        ray.init(address=address, log_to_driver=False)
        while len(ray.nodes()) < 2:
            if node.poll() is not None:
                raise RuntimeError(f"no node could join at {address}; mounting a tmpfs needs root")
            time.sleep(0.2)
        ray.shutdown()
        yield
        node.terminate()


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A disk at `place` that fills before the end."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(place)], check=True)
    yield
    subprocess.run(["umount", "--lazy", str(place)], check=True)


if __name__ == "__main__":
    run(main)
