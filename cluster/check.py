"""Whether a cluster's workers are alike, have GPUs of their own and see the same disk: --check_cluster.

findings, token = inspect_all(actors, flags, {}, data_root, timeout_s=60)
print(table(checks(findings, token, gpus=1, shared=True)))
"""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError

from checks.self_check import Check
from cluster.devices import claim_gpu, own_uuid
from cluster.driver import CLEAR, reason
from flags import FlagError, as_flag_error
from flags.collect import CollectFlags, policy_row, prepare_unsaved
from flags.recorded import package_versions
from simulators import SimulatorError
from vpl.usable_cores import usable_cores

PACKAGES = ("mujoco", "mujoco-warp", "warp-lang", "rsl-rl-lib", "ray")
CLOCK_S = 1.0
"""Most that clocks may differ: a run is known to live by the times of its folder."""


@dataclass(frozen=True)
class Findings:
    """What a worker sees."""

    host: str
    cores: int
    versions: Mapping[str, str]
    policy: Mapping[str, Any]
    gpus: tuple[str, ...]
    """UUIDs of all that this process has."""
    gpu: str
    """The first one's name; "": there is none."""
    egl_device: str
    """Number of the one that MuJoCo draws on; "": EGL's first."""
    token: str
    """What stands in the driver's file; "": it is not to be seen."""
    off_s: float = 0.0
    """By how much the clock is ahead of the driver's."""

    def __str__(self) -> str:
        gpu = f"{self.gpu} {self.gpus[0][:8]}" if self.gpus else "no GPU"
        egl = f", EGL device {self.egl_device}" if self.egl_device else ""
        return f"{self.host}, {self.cores} cores, {gpu}{egl}, clock {self.off_s:+.3f} s"


class Inspector:
    """An actor in a worker's place."""

    def clock(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def inspect(self, flags: CollectFlags, recorded: dict[str, Any], folder: str, token: Path) -> Findings:
        """Look around.

        Args:
            flags: the collector's.
            recorded: metadata.json of the dataset to resume but for its episodes; {}: there is none.
            folder: the driver's, to which paths are relative.
            token: a file of the driver's.

        Raises:
            FlagError: a flag cannot be on this machine.
            SimulatorError: EGL does not know this worker's GPU.
        """
        if os.path.isdir(folder):
            os.chdir(folder)
        device = torch.device(claim_gpu(flags.simulator, str(flags.device)))
        with as_flag_error(FlagError, about=os.uname().nodename):
            job = prepare_unsaved(flags, recorded)
        # without a mask it sees all GPUs of the machine, and has the one that the device says
        alone = device.index is not None and "CUDA_VISIBLE_DEVICES" not in os.environ
        gpus = [device.index] if alone else range(torch.cuda.device_count())
        installed = {name: ".".join(map(str, _version(name))) for name in PACKAGES}
        policy = policy_row(flags, job.policy, job.labeller)
        return Findings(
            host=os.uname().nodename,
            cores=usable_cores(),
            versions={**package_versions(), **{name: version for name, version in installed.items() if version}},
            policy={name: value for name, value in policy.items() if name != "path"},
            gpus=tuple(map(own_uuid, gpus)),
            gpu=torch.cuda.get_device_name(gpus[0]) if gpus else "",
            egl_device=os.environ.get("MUJOCO_EGL_DEVICE_ID", ""),
            token=token.read_text() if token.exists() else "",
        )


def _version(package: str) -> list[str]:
    """[] of one that is not installed."""
    return [found.version for found in importlib.metadata.distributions(name=package)][:1]


def inspect_all(
    actors: list[Any], flags: CollectFlags, recorded: dict[str, Any], place: Path, timeout_s: float
) -> tuple[list[Findings], str]:
    """What all inspectors find, and what they should have read from a file in the folder `place`.

    Raises:
        FlagError: a worker's machine refuses a flag.
        SimulatorError: a worker died, or does not answer within `timeout_s`.
    """
    place.mkdir(parents=True, exist_ok=True)
    token = place / f".check_cluster_{secrets.token_hex(8)}"
    token.write_text(token.name)
    try:
        waiting = [actor.inspect.remote(flags, recorded, str(Path.cwd()), token) for actor in actors]
        findings = ray.get(waiting, timeout=timeout_s)
        return [replace(found, off_s=_off_s(actor)) for actor, found in zip(actors, findings, strict=True)], token.name
    except GetTimeoutError as error:
        raise SimulatorError(
            f"--check_cluster: no answer within --round_timeout_s {timeout_s:g}; is the cluster busy with other work?"
        ) from error
    except RayError as error:
        cause = getattr(error, "cause", None)
        raise cause if isinstance(cause, CLEAR) else SimulatorError(f"a worker: {reason(error)}") from error
    finally:
        token.unlink()


def _off_s(actor: Any) -> float:
    before = time.time()
    there = ray.get(actor.clock.remote())
    return there - (before + time.time()) / 2


def checks(findings: list[Findings], token: str, gpus: float, shared: bool) -> list[Check]:
    """One line each.

    Args:
        findings: of all workers.
        token: what they should have read.
        gpus: that each is to have.
        shared: whether they are to write into the same folder.
    """
    return [
        _alike(findings),
        _policy(findings),
        _gpus(findings, gpus),
        _storage(findings, token, shared),
        _clocks(findings),
    ]


def _alike(findings: list[Findings]) -> Check:
    versions = [found.versions for found in findings]
    names = sorted({name for of_one in versions for name in of_one})
    unlike = [name for name in names if len({of_one.get(name) for of_one in versions}) > 1]
    figure = f"{', '.join(unlike)} differ" if unlike else "all alike"
    return Check("versions", not unlike, figure, "install the same everywhere, or use the same image")


def _policy(findings: list[Findings]) -> Check:
    others = [found.host for found in findings if found.policy != findings[0].policy]
    figure = f"another one on {', '.join(others)}" if others else "the same everywhere"
    return Check("policy", not others, figure, "copy the same file to all nodes, or give a path that all see")


def _gpus(findings: list[Findings], gpus: float) -> Check:
    seen = [uuid for found in findings for uuid in found.gpus]
    apart = len(set(seen)) == len(seen) and all(len(found.gpus) == int(gpus) for found in findings)
    figure = f"{len(set(seen))} for {len(findings)} workers"
    return Check(
        "GPUs", apart or gpus < 1, figure, "give each worker its own: ray start --num-gpus says how many there are"
    )


def _storage(findings: list[Findings], token: str, shared: bool) -> Check:
    seeing = sum(found.token == token for found in findings)
    figure = f"seen by {seeing} of {len(findings)} workers"
    remedy = "give a --data_root that all nodes see, or --gather, or --store"
    return Check("storage", seeing == len(findings) or not shared, figure, remedy, judged=shared)


def _clocks(findings: list[Findings]) -> Check:
    worst = max(findings, key=lambda found: abs(found.off_s))
    figure = f"at most {abs(worst.off_s):.3f} s off, on {worst.host} (limit {CLOCK_S:g})"
    return Check("clocks", abs(worst.off_s) < CLOCK_S, figure, "let NTP set the clocks")
