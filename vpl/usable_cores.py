"""How many processor cores this process may use, which may be fewer than the machine has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from math import ceil
from pathlib import Path

OWN_CGROUPS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
"""The first that is set counts."""


def usable_cores() -> int:
    """The least of what the affinity mask, the control groups' quotas and Slurm allow; at least 1."""
    allocated = [int(os.environ[name]) for name in SLURM if os.environ.get(name, "").isdecimal()]
    own = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([own, *map(ceil, _quotas()), *allocated[:1]]))


def core_numbers() -> list[int]:
    """Which cores those are, on Linux."""
    return sorted(os.sched_getaffinity(0))[: usable_cores()]


def _quotas() -> Iterator[float]:
    """Cores by each quota on this process's control groups and on those above them."""
    for folder in _own_folders():
        if (limit := folder / "cpu.max").is_file():  # version 2
            quota, period = limit.read_text().split()
        elif (limit := folder / "cpu.cfs_quota_us").is_file():  # version 1
            quota, period = limit.read_text(), (folder / "cpu.cfs_period_us").read_text()
        else:
            continue
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)


def _own_folders() -> Iterator[Path]:
    """Where the quotas may stand; in a container a path may be the host's, of which only the root is visible."""
    if not OWN_CGROUPS.is_file():
        return
    for line in OWN_CGROUPS.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = Path(path.lstrip("/"))
        for folder in (own, *own.parents):
            yield CGROUPS / controllers / folder
