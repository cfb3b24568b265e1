"""The flags of collect_on_ray.py: the collector's, and how its work is spread."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path

from flags import FlagError, flag
from flags.collect import CollectFlags, check_at_least_1, check_place, resolved
from flags.recorded import read_resumable
from vpl.listing import all_episode_folders

LEAST_GPU = 0.0001
"""The least part of a GPU that Ray gives."""


@dataclass(frozen=True, kw_only=True)
class RayFlags(CollectFlags):
    """What can be told."""

    address: str | None = flag(
        None,
        "the cluster to use; auto: the one that runs on this machine, local: a new one here",
        default_says="RAY_ADDRESS, else local",
        group="Ray",
    )
    workers: int | None = flag(
        None, "simulators side by side", default_says="one per GPU, or per group of cores", group="Ray"
    )
    gpus_per_worker: float | None = flag(
        None, "GPUs of each worker; 0.5: two share one", default_says="1, with --simulator mujoco 0", group="Ray"
    )
    attempts: int = flag(3, "times that a round is tried before it is left out", group="Ray")
    round_timeout_s: float = flag(
        1800.0, "a round or a simulator's start that takes longer is given to another worker", unit="s", group="Ray"
    )
    check_cluster: bool = flag(
        False, "see whether the workers are alike, apart, and see the same disk; no dataset", group="Ray"
    )
    gather: bool = flag(
        False, "--data_root is on each node's own disk: bring the episodes to this machine", group="Ray"
    )
    store: str | None = flag(
        None, "bring the episodes into an object store; --data_root keeps metadata.json", metavar="URL", group="Ray"
    )

    def of_the_collector(self) -> CollectFlags:
        """What a worker is told, and metadata.json records."""
        return CollectFlags(**{f.name: getattr(self, f.name) for f in fields(CollectFlags)})


def check(flags: RayFlags) -> CollectFlags:
    """Refuse what cannot be, but for what only a worker's machine knows; returns what the workers are told.

    Raises:
        FlagError: there is such a flag.
    """
    collect = resolved(flags.of_the_collector())
    check_at_least_1(flags, "workers", "attempts")
    gpus = flags.gpus_per_worker
    if gpus is not None and not (gpus == 0 or LEAST_GPU <= gpus <= 1 or (gpus > 1 and gpus % 1 == 0)):
        raise FlagError(f"--gpus_per_worker must be 0, a part of one from {LEAST_GPU}, or whole, got {gpus:g}")
    if not 0 < flags.round_timeout_s < math.inf:
        raise FlagError(f"--round_timeout_s must be above 0, got {flags.round_timeout_s:g}")
    if flags.gather and flags.store:
        raise FlagError(f"--gather and --store {flags.store} name two places for the episodes; give one")
    if flags.self_check:
        raise FlagError("--self_check tries one machine; run collect_tiled_with_checkpoint.py --self_check there")
    for name in ("data_root", "resume"):
        place: Path | None = getattr(flags, name)
        if place and not place.is_absolute() and "runtime_resources" in Path.cwd().parts:
            raise FlagError(
                f"--{name} {place} would lie in the job's working folder, which Ray deletes; give an absolute path, "
                "on storage that all nodes see"
            )
    if flags.resume and flags.store:
        recorded = read_resumable(flags.resume).get("store")
        elsewhere = recorded or ("this folder" if all_episode_folders(flags.resume) else flags.store)
        if flags.store != elsewhere:
            raise FlagError(f"--store {flags.store}: its episodes are in {elsewhere}; leave --store out")
    check_place(collect)
    return collect


def cluster_address(flags: RayFlags) -> str:
    """Which cluster."""
    return flags.address or os.environ.get("RAY_ADDRESS") or "local"
