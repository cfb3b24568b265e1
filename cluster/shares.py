"""How many workers a cluster takes, and what of its machines each of them has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flags import FlagError

CORES_PER_WORKER = 1
"""Of a worker without a GPU, where there are rounds enough: MuJoCo's OpenGL on the CPU gains little from a second core
in one process (benchmarks/README.md)."""


@dataclass(frozen=True)
class Shares:
    """The workers and what each has."""

    workers: int
    cpus: int
    """What Ray is asked for; 0: a GPU is what counts."""
    gpus: float
    slots: Mapping[str, int]
    """By node, how many workers it has room for; each gets that part of its cores."""

    def __str__(self) -> str:
        number, what = (self.gpus, "GPU") if self.gpus else (self.cpus, "core")
        return f"{self.workers}, {number:g} {what}{'s' if number > 1 else ''} each"

    def options(self) -> dict[str, Any]:
        """What Ray is asked for, for an actor."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "scheduling_strategy": "SPREAD"}

    def cores(self, node: str, usable: list[int], place: int) -> list[int]:
        """The cores of the worker in a node's place number `place`, of those that can be used there."""
        count = max(1, len(usable) // self.slots.get(node, 1))
        first = place * count % len(usable)
        return usable[first : first + count]


def share(nodes: Mapping[str, Mapping[str, float]], workers: int | None, gpus: float, most: int) -> Shares:
    """Divide `nodes`, the resources of each by Ray's names.

    Args:
        nodes: "CPU" and "GPU" of each node.
        workers: how many there are to be; None: as many as fit.
        gpus: GPUs of each worker, 0: it needs none.
        most: more workers than this have nothing to do.

    Raises:
        FlagError: they do not fit.
    """
    if gpus:
        # a worker's part of a GPU is of one GPU
        on_one = max(1, int(1 / gpus + 1e-6))
        slots = {node: int(has.get("GPU", 0) // max(1, gpus)) * on_one for node, has in nodes.items()}
        room, cpus, of_what = sum(slots.values()), 0, f"{sum(has.get('GPU', 0) for has in nodes.values()):g} GPUs"
        if not room:
            raise FlagError(f"--gpus_per_worker {gpus:g}: the cluster has {of_what}; --simulator mujoco needs none")
    else:
        cores = [int(has.get("CPU", 0)) for has in nodes.values()]
        room, of_what = sum(cores), f"{sum(cores)} CPU cores"
        if not room:
            raise FlagError("the cluster has no CPU cores to give; ray start --num-cpus says how many a node has")
        wanted = workers or max(1, min(most, room // CORES_PER_WORKER))
        cpus = max(1, room // wanted)
        while cpus > 1 and sum(count // cpus for count in cores) < wanted:
            cpus -= 1
        slots = {node: count // cpus for node, count in zip(nodes, cores, strict=True)}
    if workers is not None and workers > room:
        raise FlagError(f"--workers {workers}: the cluster has {of_what}, which is room for {room}")
    return Shares(min(workers or sum(slots.values()), most), cpus, gpus, slots)
