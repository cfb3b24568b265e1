"""Measure how often a policy succeeds in scenes that it has not seen, with the interval in which the truth lies.

    python evaluate_policy.py --policy student:runs/x/student.pt
    python evaluate_policy.py --policy student:runs/x/student.pt --blind        what it knows without pictures
    python evaluate_policy.py --policy rsl_rl:checkpoints/open_drawer_franka/model.pt --policy random

Evaluating is collecting with another policy: the same loop, the same draws of scenes, and with --record an ordinary
dataset of the rollouts. An episode ends when it has succeeded; success within --steps is what counts. Several --policy,
such as a run's checkpoints, make a table, and with --chart a picture.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from collect_tiled_with_checkpoint import check_fit, collect, dataset_cfg, simulator_cfg
from flags import FlagError, exit_code, flag, parse
from flags.cameras import CameraFlags
from flags.collect import CollectFlags, Job, check_at_least_1, prepare, prepare_unsaved
from flags.isaac import IsaacFlags
from flags.recorded import dataset_name, versions
from flags.variation import VariationFlags
from policies.controls import Blind
from policies.kinds import HELP
from policies.visuomotor import Student
from simulators import SIMULATORS, CameraEnv, SimulatorError, load
from vpl.episode import DatasetCfg, SaverError
from vpl.files import StopSignal, at_free_name, published, run
from vpl.rows import Rows
from vpl_saver import VPLSaver

Z_95 = 1.959963984540054
"""Of a standard normal distribution 95 % lie within this on either side."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags(CameraFlags, VariationFlags, IsaacFlags):
    """What can be told; a student brings its own cameras."""

    policy: tuple[str, ...] = flag((), f"what drives: {HELP}; may be given several times", metavar="KIND:PLACE")
    task: str = flag("Isaac-Open-Drawer-Franka-v0", "a registered task, or your own as module:Class")
    simulator: str = flag("auto", "what simulates; auto: the first that is installed", choices=("auto", *SIMULATORS))
    num_scenes: int = flag(500, "scenes, a multiple of num_envs")
    num_envs: int = flag(100, "envs simulated side by side")
    steps: int = flag(120, "most control steps of a scene, 60 per second")
    seed: int = flag(20261128, "fixes the scenes; not that of any dataset the policy was trained on")
    execute: int | None = flag(
        None, "joint targets of a student's answer to execute before it looks again", default_says="its checkpoint's"
    )
    blind: bool = flag(False, "show a policy black pictures")
    device: str | None = flag(None, "torch device", default_says="cpu with mujoco, else cuda:0")
    record: Path | None = flag(None, "write the rollouts as a dataset in this folder", metavar="FOLDER")
    output: Path | None = flag(None, "write the results", metavar="JSON")
    chart: Path | None = flag(None, "draw the policies' success side by side", metavar="PNG")


@dataclass(frozen=True)
class Result:
    """How often a policy succeeded."""

    policy: str
    successes: int
    scenes: int
    interval: tuple[float, float]
    """Wilson's 95 % interval of the share."""
    median_s: float | None
    """Time to success of those that succeeded."""
    blind: bool
    simulator: str
    randomize: str
    steps: int
    seed: int
    seconds: float
    about: dict[str, Any]
    """What the policy says of itself."""
    versions: dict[str, Any]

    def __str__(self) -> str:
        low, high = self.interval
        rate = f"{self.successes / self.scenes:.1%} of {self.scenes} scenes (95 % interval {low:.1%} to {high:.1%})"
        after = "" if self.median_s is None else f", after {self.median_s:.2f} s (median)"
        return f"{self.policy}{' (blind)' if self.blind else ''}: {rate}{after}"


class Tally:
    """Stands in the saver's place in the collector's loop, counts, and hands on where rollouts are recorded."""

    def __init__(self, cfg: DatasetCfg, saver: VPLSaver | None, bar: tqdm) -> None:
        self.cfg, self.saver, self._bar = cfg, saver, bar
        self.episodes = Rows()
        """A row for each scene, with `steps`, the control steps until it succeeded."""
        self._round, self._step = 0, 0
        self._first_success = np.full(cfg.num_envs, -1)

    def begin_round(self, number: int, variation: list[Any], intrinsics: np.ndarray) -> np.ndarray:
        """See `VPLSaver.begin_round`."""
        self._round, self._step = number, 0
        self._first_success[:] = -1
        if self.saver:
            self.saver.begin_round(number, variation, intrinsics)
        return np.ones(self.cfg.num_envs, bool)

    def wants_images(self, step: int) -> bool:
        """See `VPLSaver.wants_images`."""
        return self.saver is not None and self.saver.wants_images(step)

    def store(self, columns: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], recording: np.ndarray) -> Any:
        """See `VPLSaver.store`."""
        self._first_success[columns["success"] & (self._first_success < 0)] = self._step
        self._step += 1
        dropped = self.saver.store(columns, images, recording) if self.saver else []
        self._count(np.isin(np.arange(self.cfg.num_envs), [row["env_index"] for row in dropped]), failed=True)
        return dropped

    def drop_episodes(self, envs: np.ndarray, reason: str) -> list[dict[str, Any]]:
        """See `VPLSaver.drop_episodes`: what diverged has failed."""
        self._count(envs, failed=True)
        if self.saver:
            return self.saver.drop_episodes(envs, reason)
        first, where = self._round * self.cfg.num_envs, {"round": self._round, "step": self._step, "reason": reason}
        return [{"env_index": env, "episode_index": first + env, **where} for env in map(int, np.flatnonzero(envs))]

    def end_episodes(self, ended: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> None:
        """See `VPLSaver.end_episodes`."""
        self._count(ended, failed=False)
        if self.saver:
            self.saver.end_episodes(ended, terminated, truncated)

    def _count(self, envs: np.ndarray, failed: bool) -> None:
        for env in np.flatnonzero(envs):
            first = int(self._first_success[env])
            numbers = {"episode_index": self._round * self.cfg.num_envs + int(env), "round": self._round}
            outcome = {"num_frames": self._step, "success": first >= 0 and not failed, "steps": first}
            self.episodes += [{**numbers, **outcome}]
        self._bar.set_postfix_str(f"{self.episodes.num_successes} successful", refresh=False)
        self._bar.update(int(envs.sum()))


def wilson(successes: int, scenes: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927, J. Am. Stat. Assoc. 22)."""
    share, z2 = successes / scenes, Z_95**2
    middle = (share + z2 / (2 * scenes)) / (1 + z2 / scenes)
    half = Z_95 * math.sqrt(share * (1 - share) / scenes + z2 / (4 * scenes**2)) / (1 + z2 / scenes)
    return max(0.0, middle - half), min(1.0, middle + half)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: evaluate(parse(EvaluateFlags, argv, __doc__)), SaverError, SimulatorError)


def evaluate(flags: EvaluateFlags) -> int:
    """Evaluate each policy, print what came out, and write it where that is asked for."""
    jobs = [make_job(flags, spec) for spec in check(flags)]  # all are refused before the first simulator boots
    results = []
    stop = StopSignal("this policy's scenes are left out")
    for job in jobs:
        result = evaluate_one(job, flags, stop)
        if stop.number:  # successes end first: a share of what has ended would flatter
            return 128 + stop.number
        results.append(result)
        print(result, flush=True)
    for path in filter(None, (flags.output, flags.chart)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if flags.output:
        with published(flags.output) as path:
            path.write_text(json.dumps([vars(result) for result in results], indent=1, default=str))
    if flags.chart:
        draw(results, flags.chart)
    return 0


def check(flags: EvaluateFlags) -> tuple[str, ...]:
    """The policies to evaluate.

    Raises:
        FlagError: there is none, or something cannot be.
    """
    if not flags.policy:
        raise FlagError(f"--policy is missing; give {HELP}")
    check_at_least_1(flags, "num_scenes", "num_envs", "steps", "execute")
    if flags.num_scenes % flags.num_envs:
        raise FlagError(f"--num_scenes {flags.num_scenes} is no multiple of --num_envs {flags.num_envs}; give one")
    for name in ("output", "chart"):
        if (path := getattr(flags, name)) is not None and path.exists():
            raise FlagError(f"--{name} {path} exists already; give another name")
    if flags.chart and flags.chart.suffix not in (".png", ".pdf", ".svg"):
        raise FlagError(f"--chart {flags.chart} must end in .png, .pdf or .svg")
    return flags.policy


def make_job(flags: EvaluateFlags, spec: str) -> Job:
    """What the collector would be told.

    Raises:
        FlagError: the policy cannot be loaded, or has seen these scenes.
    """
    shared = {name: getattr(flags, name) for name in vars(CollectFlags()) if hasattr(flags, name)}
    told: dict[str, Any] = {
        **shared,
        "policy": spec,
        "num_episodes": flags.num_scenes // flags.num_envs,
        "stop_after_success": 1,
        "data_root": flags.record or Path("."),
    }
    job = (prepare if flags.record else prepare_unsaved)(CollectFlags(**told))
    policy = job.policy
    if flags.seed in (seeds := policy.describe().get("seeds", [])):
        raise FlagError(f"--seed {flags.seed}: the policy was trained on scenes of the seeds {seeds}; give another one")
    if flags.execute and not (isinstance(policy, Student) and flags.execute <= policy.cfg.horizon):
        raise FlagError(f"--execute {flags.execute}: --policy {spec} has no answer of so many joint targets")
    if isinstance(policy, Student):
        policy.execute = flags.execute or policy.execute
        job = with_cameras(job, policy)
    return replace(job, policy=Blind(policy)) if flags.blind else job


def with_cameras(job: Job, student: Student) -> Job:
    """The job with the student's own cameras."""
    if not student.cameras:
        return job
    first = student.cameras[0]
    return replace(job, cameras=student.cameras, flags=replace(job.flags, width=first.width, height=first.height))


def evaluate_one(job: Job, flags: EvaluateFlags, stop: StopSignal) -> Result:
    """Let a policy drive through all scenes.

    Raises:
        FlagError: the task has no measure of success.
    """
    start = time.monotonic()
    with load(job.flags.simulator, simulator_cfg(job)) as env, contextlib.ExitStack() as stack:
        if "success" not in env.columns:
            raise FlagError(f"--task {flags.task} has no measure of success; nothing can be evaluated")
        check_fit(job, env)
        saver = stack.enter_context(open_record(job, env)) if flags.record else None
        bar = stack.enter_context(tqdm(total=flags.num_scenes, unit=" scenes", disable=None))
        tally = Tally(saver.cfg if saver else dataset_cfg(job, env, Path(".")), saver, bar)
        collect(env, job, tally, None, stop)  # type: ignore[arg-type]
        described = versions(env)
    return result_of(tally, job, flags, time.monotonic() - start, described)


def open_record(job: Job, env: CameraEnv) -> VPLSaver:
    """The saver of the rollouts, whose metadata.json says that they are no collection to go on with."""

    def opened(root: Path) -> VPLSaver:
        cfg = dataset_cfg(job, env, root)
        return VPLSaver(replace(cfg, metadata={**cfg.metadata, "evaluated": job.policy.describe()}))

    flags = job.flags
    return at_free_name(flags.data_root, dataset_name(flags.task, flags.sim_or_real, flags.robot_name), opened)


def result_of(tally: Tally, job: Job, flags: EvaluateFlags, seconds: float, described: dict[str, Any]) -> Result:
    """What the rows of a tally say."""
    successes = [row["steps"] for row in tally.episodes if row["success"]]
    return Result(
        policy=str(job.flags.policy),
        successes=len(successes),
        scenes=max(1, len(tally.episodes)),
        interval=wilson(len(successes), max(1, len(tally.episodes))),
        median_s=round(float(np.median(successes)) * tally.cfg.step_dt, 3) if successes else None,
        blind=flags.blind,
        simulator=job.flags.simulator,
        randomize=str(job.flags.randomize),
        steps=flags.steps,
        seed=flags.seed,
        seconds=round(seconds, 1),
        about=job.policy.describe(),
        versions=described,
    )


def draw(results: list[Result], path: Path) -> None:
    """A chart of success over the policies, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shares = np.array([result.successes / result.scenes for result in results])
    bounds = np.array([result.interval for result in results])
    figure, axis = plt.subplots(figsize=(1.5 + 1.2 * len(results), 4), constrained_layout=True)
    off = 100 * np.abs(bounds.T - shares)
    axis.errorbar(range(len(results)), 100 * shares, yerr=off, fmt="o", capsize=4)
    names = [result.policy.rsplit("/", 1)[-1] for result in results]
    axis.set_xticks(range(len(results)), names, rotation=30, ha="right")
    axis.set(
        ylabel=f"success in {results[0].scenes} unseen scenes (%)", ylim=(-3, 103), xlim=(-0.5, len(results) - 0.5)
    )
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    run(main)
