"""Hands rounds out to workers on Ray and keeps the dataset's catalog; what fails is given to another worker.

    with closing(Driver(settings, start_actor, open_catalog)) as driver:
        for worker, round_index in driver.events():
            ...

A worker is an actor with the methods `place`, `boot`, `open`, `collect`, `flush` and `leave` (collect_on_ray.py). It
writes and publishes episodes by itself, from a folder of its own in .partial/, and returns their rows. A worker that
dies, fails or takes too long is given up: its folder is taken away, so that nothing more can come of it, and what it
had not published of its rounds is tried again.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from tqdm import tqdm

from cluster import STOP_FILE
from cluster.rounds import Rounds
from cluster.shares import Shares
from cluster.storage import Destination
from flags import FlagError
from flags.collect import CollectFlags
from simulators import SimulatorError
from vpl.catalog import KEPT, Catalog
from vpl.episode import DatasetCfg, SaverError
from vpl.files import bury
from vpl.round import said_of
from vpl.runs import continue_runs

LEAVE_S = 10.0
"""Most that workers may take for leaving."""
OF_A_WORKER = ("root", "run", "metadata", "writer_workers", "use_processes")
"""Fields of `DatasetCfg` that may differ between workers."""
CLEAR = (FlagError, SaverError, SimulatorError)
"""Errors whose message says all."""


@dataclass(frozen=True)
class Place:
    """Where Ray has put a worker."""

    node: str
    host: str
    pid: int
    cores: list[int]
    """Those that it may use there."""


@dataclass(frozen=True)
class Booted:
    """What a worker's simulator gives."""

    cfg: DatasetCfg
    """Of the dataset, but for its place."""
    said: list[str]
    """Lines on its policy."""


@dataclass(frozen=True)
class Report:
    """What a worker has done since its last one."""

    rows: list[dict[str, Any]]
    """Of published episodes."""
    dropped: list[dict[str, Any]]
    waited_s: float
    """For its writers."""


@dataclass(frozen=True)
class Settings:
    """What a driver is told."""

    flags: CollectFlags
    recorded: Mapping[str, Any]
    """metadata.json of the dataset to resume but for its episodes; {}: there is none."""
    shares: Shares
    attempts: int
    timeout_s: float
    """Of a round, and of a start."""


@dataclass
class Worker:
    """An actor, and the one that takes its place when it fails."""

    number: int
    actor: Any = None
    task: Any = None
    """What it does, Ray's reference to the result; None: nothing."""
    doing: str = ""
    since: float = 0.0
    place: Place | None = None
    seat: int = 0
    """Which part of its node's cores it has."""
    folder: Path | None = None
    """Where it writes; None: it has not got so far."""
    rounds: dict[int, int] = field(default_factory=dict)
    """Those that it has, and how many episodes of each are not yet on disk."""
    present: int = 0
    """The one that it simulates, or has simulated last."""
    failures: int = 0
    """In a row."""

    def __str__(self) -> str:
        return f"worker {self.number}" + (f" on {self.place.host}" if self.place else "")


class Driver:
    """One dataset's collection on a cluster."""

    catalog: Catalog | None = None
    """None: no simulator has booted yet."""
    rounds: Rounds | None = None
    """None likewise."""

    def __init__(
        self,
        settings: Settings,
        start_actor: Callable[[], Any],
        open_catalog: Callable[[Booted], tuple[Catalog, Destination | None]],
    ) -> None:
        """`open_catalog` is called once, for the first worker that has booted; it says, too, where episodes go that
        workers write on disks of their own; None: all see the same one."""
        self.flags = settings.flags
        self.workers = [Worker(number) for number in range(settings.shares.workers)]
        self._settings = settings
        self._start_actor = start_actor
        self._open_catalog = open_catalog
        self._destination: Destination | None = None
        self._stopping, self._leaving = False, False
        self._last_failure = ""
        self._then: Mapping[str, Callable[[Worker, Any], None]] = {
            "place": self._placed,
            "boot": self._booted,
            "open": self._opened,
            "collect": self._reported,
            "flush": self._reported,
        }

    def events(self) -> Iterator[tuple[Worker, int] | None]:
        """Do all of it; yields a worker and the round that it has simulated, and None at least once a second.

        Raises:
            FlagError: the first worker's machine refuses a flag.
            SimulatorError: no worker could start.
            SaverError: the dataset cannot be written.
        """
        for worker in self.workers:
            self._start(worker)
        while self._goes_on():
            self._hand_out()
            busy = {worker.task: worker for worker in self.workers if worker.task is not None}
            for task in ray.wait(list(busy), timeout=1)[0]:
                worker = busy[task]
                collected = worker.doing == "collect"
                if self._take(worker) and collected:
                    yield worker, worker.present
            for worker in [worker for worker in self.workers if self._is_overdue(worker)]:
                self._fail(worker, f"no answer within --round_timeout_s {self._settings.timeout_s:g} ({worker.doing})")
            if self.catalog:
                self.catalog.keep_up()
            yield None

    def stop(self) -> None:
        """Have the workers publish what has ended, and no more."""
        if not self._stopping and self.catalog:
            (self.catalog.folder / STOP_FILE).touch()
        self._stopping = True

    def give_up(self) -> None:
        """Leave at once; for a signal's handler."""
        self._leaving = True

    def close(self) -> None:
        """End the workers and let go of the dataset.

        Raises:
            SaverError: it could not be completed.
        """
        if self._destination:  # nobody else removes what is left on their disks
            idle = [worker for worker in self.workers if worker.folder and worker.task is None]
            ray.wait([worker.actor.leave.remote() for worker in idle], num_returns=max(1, len(idle)), timeout=LEAVE_S)
        for worker in self.workers:
            if worker.actor is not None:
                ray.kill(worker.actor)
        if self.catalog:
            self.catalog.leave()

    def _goes_on(self) -> bool:
        if self.rounds is None:
            return not self._stopping
        if not self.workers:
            self.rounds.give_up(f"no worker is left; the last one was {self._last_failure}")
        waiting = bool(self.rounds) and not self._stopping
        return not self._leaving and (waiting or any(worker.rounds for worker in self.workers))

    def _start(self, worker: Worker) -> None:
        worker.actor, worker.place, worker.folder, worker.rounds = self._start_actor(), None, None, {}
        self._do(worker, "place")

    def _do(self, worker: Worker, method: str, *args: Any) -> None:
        worker.task, worker.doing = getattr(worker.actor, method).remote(*args), method
        worker.since = time.monotonic()

    def _is_overdue(self, worker: Worker) -> bool:
        return worker.task is not None and time.monotonic() - worker.since > self._settings.timeout_s

    def _take(self, worker: Worker) -> bool:
        """Go on with what a worker's task gave; False: it failed."""
        try:
            result = ray.get(worker.task)
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else None
            if isinstance(cause, FlagError) and self.catalog is None:
                raise cause from error
            self._fail(worker, reason(error))
            return False
        worker.task = None
        self._then[worker.doing](worker, result)
        return True

    def _placed(self, worker: Worker, place: Place) -> None:
        taken = {other.seat for other in self.workers if other.place and other.place.node == place.node}
        worker.place, worker.seat = place, min({*range(len(taken) + 1)} - taken)
        cores = self._settings.shares.cores(place.node, place.cores, worker.seat)
        self._do(worker, "boot", self.flags, self._settings.recorded, str(Path.cwd()), cores)

    def _booted(self, worker: Worker, booted: Booted) -> None:
        cfg, run = booted.cfg, booted.cfg.run
        if self.catalog is None:
            self.catalog = self._begin(booted)
        elif differing := _differences(self.catalog.cfg, cfg):
            unlike = ", ".join(differing)
            return self._fail(worker, f"not as on the first worker: {unlike}; --check_cluster says what to make alike")
        else:
            run = self._run_of(cfg)
        worker.folder = self.catalog.folder / f"worker_{worker.number}_{secrets.token_hex(4)}"
        worker.folder.mkdir()
        cfg = replace(cfg, root=self.catalog.cfg.root, run=run, metadata={})
        self._do(worker, "open", cfg, worker.folder, self._destination)

    def _begin(self, booted: Booted) -> Catalog:
        """Open the catalog, and see which rounds are missing."""
        catalog, self._destination = self._open_catalog(booted)
        catalog.write_metadata()
        numbers, of_round = range(self.flags.num_episodes), catalog.episodes.of_round
        missing = [number for number in numbers if len(of_round(number)) < booted.cfg.num_envs]
        self.rounds = Rounds(missing, self._settings.attempts)
        return catalog

    def _run_of(self, cfg: DatasetCfg) -> int:
        """The index of a further worker's run in metadata's `runs`, to which it is added."""
        assert self.catalog is not None and cfg.run is not None
        metadata, present = self.catalog.cfg.metadata, cfg.metadata["runs"][cfg.run]
        runs, run = continue_runs(metadata["runs"], {**present, "starts": present["starts"][-1:]})
        self.catalog.cfg = replace(self.catalog.cfg, metadata={**metadata, "runs": runs})
        return run

    def _opened(self, worker: Worker, _: None) -> None:
        """It has nothing to do until `_hand_out`."""

    def _hand_out(self) -> None:
        """Give those who have nothing to do the next round; where there is none, have their episodes completed."""
        numbers = {worker.number for worker in self.workers}
        for worker in self.workers:
            if worker.task is not None or self.rounds is None or self.catalog is None:
                continue
            number = None if self._stopping else self.rounds.take(worker.number, numbers)
            if number is not None:
                known = self.catalog.episodes.of_round(number)
                worker.present = number
                worker.rounds[number] = self.catalog.cfg.num_envs - len(known)
                self._do(worker, "collect", number, known)
            elif worker.rounds:
                self._do(worker, "flush")

    def _reported(self, worker: Worker, report: Report) -> None:
        catalog = self.catalog
        assert catalog is not None
        catalog.episodes += report.rows
        catalog.dropped += report.dropped
        catalog.writer_wait_s += report.waited_s
        for row in report.dropped:
            tqdm.write(said_of(row), file=sys.stderr)
        for row in (*report.rows, *report.dropped):
            worker.rounds[row["round"]] -= 1
        worker.rounds = {number: missing for number, missing in worker.rounds.items() if missing}
        worker.failures = 0
        if worker.doing == "flush" and worker.rounds:
            if not self._stopping:
                return self._fail(worker, "it did not publish all of its episodes")
            worker.rounds = {}

    def _fail(self, worker: Worker, reason: str) -> None:
        """Give a worker up: nothing more can come of it, and others go on with its rounds."""
        reason = f"{worker}: {reason}"
        tqdm.write(f"given up    {reason}", file=sys.stderr)
        ray.kill(worker.actor)
        if worker.folder and self.catalog:
            bury(worker.folder, self.catalog.folder)
        for number in worker.rounds:
            self._give_back(number, worker, reason)
        worker.failures += 1
        self._last_failure = reason
        # the last worker goes on as long as there are rounds to fail at: each is tried so often at most
        if worker.failures < self._settings.attempts or (worker.rounds and len(self.workers) == 1):
            return self._start(worker)
        self.workers.remove(worker)
        if self.catalog is None and not self.workers:
            raise SimulatorError(f"no worker could start; the last one was {reason}")

    def _give_back(self, number: int, worker: Worker, reason: str) -> None:
        assert self.catalog is not None and self.rounds is not None
        self.catalog.dropped = [row for row in self.catalog.dropped if row["round"] != number]
        if len(self.catalog.read_round(number)) == self.catalog.cfg.num_envs:
            return
        if worker.doing == "collect" and number != worker.present:  # simulated before, and not yet all on disk
            self.rounds.put_back(number)
        else:
            self.rounds.fail(number, worker.number, reason)


def _differences(one: DatasetCfg, other: DatasetCfg) -> list[str]:
    """Names of what must be alike for all workers and is not."""
    names = [f.name for f in fields(DatasetCfg) if f.name not in OF_A_WORKER]
    unlike = [name for name in names if not np.array_equal(getattr(one, name), getattr(other, name))]
    return unlike + [name for name in ("checkpoint", "cameras") if one.metadata[name] != other.metadata[name]]


def reason(error: RayError) -> str:
    """What became of a worker, in a line; where it is a fault of the program, with the traceback before it."""
    if isinstance(error, RayActorError):
        return "its process was killed, or its machine lost; Ray's logs are in /tmp/ray/session_latest/logs there"
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, CLEAR):
        return str(cause).partition(f"; {KEPT}")[0]  # what else is to be done the driver does
    tqdm.write(str(error), file=sys.stderr)
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"
