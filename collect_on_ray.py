"""Collect what collect_tiled_with_checkpoint.py does, its rounds spread over the GPUs and machines of a Ray cluster.

    python collect_on_ray.py --num_envs 256 --num_episodes 40 --enable_wrist_camera       # all GPUs of this machine
    examples/cluster/submit.sh http://head:8265 --data_root /shared/data                  # on a cluster that runs

Episodes, their numbers and their bytes are those of one machine with the same flags. Each worker has a GPU, or some
cores, and a simulator that stays booted; it collects one round after the other and publishes the episodes by itself.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from checks.self_check import table
from cluster import STOP_FILE
from cluster.shares import Shares, share
from cluster.storage import Destination, Gather, ObjectStore, Receiver
from collect_tiled_with_checkpoint import (
    announce,
    at_its_place,
    check_fit,
    collect_round,
    dataset_cfg,
    episode_counts,
    policy_lines,
    print_summary,
    progress_bar,
    simulator_cfg,
    tell_round,
    total_frames,
)
from flags import FlagError, as_flag_error, exit_code
from flags.collect import CollectFlags, parse_resumable, prepare_unsaved
from flags.on_ray import RayFlags, check, cluster_address
from flags.recorded import read_resumable
from simulators import SIMULATORS, SimulatorError, load
from vpl.catalog import Catalog
from vpl.episode import DatasetCfg, SaverError
from vpl.files import StopFile, StopSignal, run
from vpl.listing import read_metadata
from vpl.recorder import Recorder
from vpl.rows import Rows
from vpl.usable_cores import core_numbers, usable_cores

if TYPE_CHECKING:
    from cluster.driver import Booted, Driver, Place, Report

DriverKind = TypeVar("DriverKind", bound="Driver")
OBJECT_STORE_BYTES = 100 << 20
"""Of a cluster that is started here, on one machine: what would fill it is --gather, which that does not need."""


class RoundCollector:
    """A worker, as an actor on Ray; `cluster.driver` says in which order its methods are called."""

    def place(self) -> Place:
        """Where this is."""
        import ray

        from cluster.driver import Place

        context = ray.get_runtime_context()
        return Place(context.get_node_id(), os.uname().nodename, os.getpid(), core_numbers())

    def boot(self, flags: CollectFlags, recorded: dict[str, Any], folder: str, cores: list[int]) -> Booted:
        """Start the simulator.

        Args:
            flags: the collector's.
            recorded: metadata.json of the dataset to resume but for its episodes; {}: there is none.
            folder: the driver's, to which paths are relative.
            cores: those to use.

        Raises:
            FlagError: there is one that cannot be on this machine.
            SimulatorError: it cannot start.
        """
        from cluster.devices import claim_gpu
        from cluster.driver import Booted

        os.sched_setaffinity(0, cores)
        torch.set_num_threads(1)  # as in the collector: sums of several threads differ in their last bits
        if os.path.isdir(folder):
            os.chdir(folder)
        device = claim_gpu(flags.simulator, str(flags.device))
        self._job = prepare_unsaved(flags, recorded)
        mine = replace(self._job, flags=replace(self._job.flags, device=device))
        self._env = load(flags.simulator, simulator_cfg(mine))
        check_fit(self._job, self._env)
        return Booted(dataset_cfg(self._job, self._env, Path()), policy_lines(self._job))

    def open(self, cfg: DatasetCfg, folder: Path, destination: Destination | None) -> None:
        """Start the writers, which write in `folder`; with a destination that is on this node's own disk.

        Raises:
            SaverError: it is to be on a disk that all see, and is not to be seen here.
        """
        self._folder, self._destination = folder, destination
        if destination:
            for other in folder.parent.parent.glob("*_*"):  # of runs that are over: the driver has the dataset
                if other != folder.parent:
                    shutil.rmtree(other, ignore_errors=True)
            (folder / "done").mkdir(parents=True, exist_ok=True)
            cfg = replace(cfg, root=folder / "done")
        if not folder.is_dir():
            raise SaverError(f"{folder.absolute()} is not there; give a --data_root that all nodes see, or --gather")
        self._recorder = Recorder(cfg, folder)
        self._stop = StopFile(folder.parent / STOP_FILE)
        self._waited_s = 0.0
        self._courier = ThreadPoolExecutor(1)
        self._on_the_way: list[Future[dict[str, Any]]] = []

    def collect(self, round_index: int, rows: list[dict[str, Any]]) -> Report:
        """Simulate a round, whose episodes of `rows` are on disk; the last ones may not yet be when it returns."""
        wait(self._on_the_way[: -self._env.num_envs])  # so that no more than a round waits on this disk
        self._recorder.episodes += rows
        collect_round(round_index, self._env, self._job, self._recorder, None, self._stop)
        return self._report({row["path"] for row in rows})

    def flush(self) -> Report:
        """Wait until all that has ended is on disk, and where it is to be."""
        self._recorder.flush()
        report = self._report(set())
        wait(self._on_the_way)
        rest = self._report(set())
        return replace(report, rows=[*report.rows, *rest.rows])

    def leave(self) -> None:
        """Remove what is left on this node's own disk."""
        self._recorder.close()
        shutil.rmtree(self._folder)

    def _report(self, known: set[str]) -> Report:
        from cluster.driver import Report

        recorder = self._recorder
        waited_s, self._waited_s = recorder.writer_wait_s - self._waited_s, recorder.writer_wait_s
        self._on_the_way += [
            self._courier.submit(self._deliver, row) for row in recorder.episodes if row["path"] not in known
        ]
        arrived = [future for future in self._on_the_way if self._destination is None or future.done()]
        self._on_the_way = [future for future in self._on_the_way if future not in arrived]
        report = Report([future.result() for future in arrived], list(recorder.dropped), waited_s)
        recorder.episodes = Rows()
        recorder.dropped.clear()
        return report

    def _deliver(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._destination:
            folder = self._recorder.cfg.root / row["path"]
            self._destination.put(self._folder.name, folder, row["path"])
            shutil.rmtree(folder)
        return row


def main(argv: list[str] | None = None) -> int:
    return exit_code(
        lambda: collect_on_ray(parse_resumable(RayFlags, argv, __doc__)),
        SaverError,
        SimulatorError,
        OSError,
        interrupted="left at once: the episodes published so far are whole",
    )


def collect_on_ray(flags: RayFlags) -> int:
    """Collect, and say what came out.

    Raises:
        FlagError: there is no Ray or no cluster, or it has not what is asked for.
    """
    job_flags = check(flags)
    if importlib.util.find_spec("ray") is None:
        raise FlagError("collect_on_ray.py needs Ray, which this Python lacks; pip install -e .[ray]")
    from cluster.driver import Driver

    if flags.check_cluster:
        return check_cluster(flags, job_flags)
    with spread(flags, job_flags, Driver) as driver:
        stop = StopSignal("workers publish what has ended")  # now: Ray has set a handler of its own
        stop.hurry = driver.give_up
        found, seconds = watch(driver, stop)
    return report(driver, found, seconds, stop)


def check_cluster(flags: RayFlags, job_flags: CollectFlags) -> int:
    """Look at all workers' machines; prints a table."""
    import ray

    from cluster.check import Inspector, checks, inspect_all

    with joined(flags, job_flags) as shares:
        actor = ray.remote(Inspector).options(**shares.options())
        actors = [actor.remote() for _ in range(shares.workers)]
        place = flags.resume or flags.data_root
        findings, token = inspect_all(actors, job_flags, recorded_by(flags), place, flags.round_timeout_s)
        found = checks(findings, token, shares.gpus, shared=not (flags.gather or flags.store))
    print("\n".join(f"worker {number:<3}  {finding}" for number, finding in enumerate(findings)))
    print(table(found))
    return 0 if all(check.passed for check in found) else 1


@contextmanager
def joined(flags: RayFlags, job_flags: CollectFlags) -> Iterator[Shares]:
    """Join the cluster for the length of a block, and say what each worker has.

    Raises:
        FlagError: there is no cluster, or it has not what is asked for.
    """
    import ray

    gpus = flags.gpus_per_worker
    if gpus is None:
        gpus = float(SIMULATORS[job_flags.simulator].device != "cpu")
    with ExitStack() as stack:
        nodes = connect(flags)
        stack.callback(ray.shutdown)
        most = sys.maxsize if flags.check_cluster else job_flags.num_episodes
        shares = share(nodes, flags.workers, gpus, most)
        print(f"simulator   {job_flags.simulator}")
        print(f"workers     {shares}", flush=True)
        yield shares


@contextmanager
def spread(flags: RayFlags, job_flags: CollectFlags, kind: type[DriverKind]) -> Iterator[DriverKind]:
    """Join the cluster and make the driver, of class `kind`; the dataset is complete when the block has ended.

    Raises:
        FlagError: there is no cluster or object store, or it has not what is asked for.
    """
    import ray

    from cluster.driver import Settings

    stored = rows_in_store(flags) if flags.store else []
    with joined(flags, job_flags) as shares:
        actor = ray.remote(RoundCollector).options(**shares.options())
        settings = Settings(job_flags, recorded_by(flags), shares, flags.attempts, flags.round_timeout_s)
        driver = kind(settings, actor.remote, lambda booted: open_catalog(flags, job_flags, booted, stored))
        with closing(driver):
            yield driver
        if flags.store and driver.catalog:
            root = driver.catalog.cfg.root
            store_of(flags, root).put_file(root / "metadata.json", "metadata.json")


def recorded_by(flags: RayFlags) -> dict[str, Any]:
    """metadata.json of the dataset to resume but for its episodes; {}: there is none."""
    return {**read_resumable(flags.resume), "episodes": []} if flags.resume else {}


def store_of(flags: RayFlags, root: Path) -> ObjectStore:
    """Where the episodes of the dataset in the folder `root` go."""
    return ObjectStore(f"{flags.store}/{root.absolute().name}")


def rows_in_store(flags: RayFlags) -> list[dict[str, Any]]:
    """The rows of the dataset to resume whose episodes are in the store, which answers; []: there is none.

    Raises:
        FlagError: it does not, or has none of them.
    """
    store = store_of(flags, flags.resume) if flags.resume else ObjectStore(str(flags.store))
    with as_flag_error(SaverError, about=f"--store {flags.store}"):
        there = store.paths()
    rows = read_metadata(flags.resume)["episodes"] if flags.resume else []
    if rows and not there:
        raise FlagError(
            f"--resume {flags.resume}: none of its {len(rows)} episodes is in {store.url}; "
            "a folder that was renamed needs its name back"
        )
    return [row for row in rows if row["path"] in there]


def connect(flags: RayFlags) -> dict[str, dict[str, float]]:
    """Join the cluster, or start one here; returns what each of its nodes has.

    Raises:
        FlagError: there is none.
    """
    import ray

    address = cluster_address(flags)
    here: dict[str, Any] = {}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to Ray's makers
        os.environ.setdefault("RAY_worker_niceness", "0")  # workers are what this machine is to do
        here = {"num_cpus": usable_cores(), "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    host, _, port = address.rpartition(":")
    with as_flag_error(OSError, UnicodeError, about=f"--address {address}: no cluster answers"):
        if port.isdecimal():  # Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
    # workers say nothing by themselves: what is to be known of them comes back to the driver
    # the latter two: no address, and a cluster of another Ray or Python
    with as_flag_error(ConnectionError, ValueError, RuntimeError, about=f"--address {address}"):
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **here)
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def open_catalog(
    flags: RayFlags, job_flags: CollectFlags, booted: Booted, stored: list[dict[str, Any]]
) -> tuple[Catalog, Destination | None]:
    """Say what collects, take the dataset's folder, and say where episodes go that are written elsewhere.

    `stored` are `rows_in_store`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    print(*booted.said, sep="\n", flush=True)
    metadata = {**booted.cfg.metadata, **({"store": flags.store} if flags.store else {})}
    cfg = replace(booted.cfg, metadata=metadata)
    catalog = at_its_place(job_flags, lambda root, resume: Catalog(replace(cfg, root=root), resume))
    announce(catalog, job_flags)
    if flags.store:
        catalog.episodes += stored
        return catalog, store_of(flags, catalog.cfg.root)
    if flags.gather:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Receiver).options(num_cpus=0, scheduling_strategy=here)
        return catalog, Gather(actor.remote(catalog.cfg.root, catalog.folder))
    return catalog, None


def watch(driver: Driver, stop: StopSignal) -> tuple[int, float]:
    """Let the driver work and show how far it is; returns the frames that were there, and the seconds since."""
    flags, bar, found, start, due = driver.flags, None, 0, time.monotonic(), 0.0
    for event in driver.events():
        if stop.number:
            driver.stop()
        if driver.catalog is None:
            continue
        if bar is None:
            found, start = total_frames(driver.catalog), time.monotonic()
            bar = progress_bar(flags, len(flags.cameras()))
        if event:
            worker, number = event
            tell_round(bar, driver.catalog, f"round {number + 1} of {flags.num_episodes} simulated by {worker}")
        if not bar.disable and time.monotonic() > due:
            due = time.monotonic() + 1
            busy = ", ".join(f"{worker.number}: {worker.present + 1}" for worker in driver.workers if worker.rounds)
            bar.set_postfix_str(f"{episode_counts(driver.catalog)}, worker: round {busy}", refresh=False)
            bar.update(total_frames(driver.catalog) - found - bar.n)
    if bar is not None:
        bar.close()
    return found, time.monotonic() - start


def report(driver: Driver, found: int, seconds: float, stop: StopSignal) -> int:
    """Say what was collected and what is missing; returns the exit code."""
    if driver.catalog is not None and driver.rounds is not None:
        print_summary(driver.catalog, found, seconds)
        for number, reason in sorted(driver.rounds.failed.items()):
            print(f"missing     round {number + 1}, given up: {reason}")
        if driver.rounds.failed:
            print(f"            --resume {driver.catalog.cfg.root} tries them again")
        if not stop.number:
            return 1 if driver.rounds.failed or driver.catalog.dropped else 0
    return 128 + stop.number


if __name__ == "__main__":
    run(main)
