"""Collect a visuomotor dataset: N simulated Franka arms open drawers under an RSL-RL checkpoint while cameras film.

    python collect_tiled_with_checkpoint.py --num_envs 20 --num_episodes 2 --steps 60 --enable_wrist_camera

Every episode becomes one MP4 per camera and one HDF5; vpl_saver.py says what is in them.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from checks.self_check import self_check, table
from flags import FlagError, exit_code
from flags.collect import CollectFlags, Job, parse_flags, policy_row, prepare
from flags.recorded import arguments, camera_rows, dataset_name, versions
from policies import PolicyError
from policies.noise import ActionNoise
from policies.rsl_rl import CheckpointPolicy
from simulators import CameraEnv, Sample, SimulatorCfg, SimulatorError, load, options
from simulators.recorded import OF_ANY_ARM, with_executed
from simulators.seeds import round_seed
from simulators.variation import NOTHING_VARIES
from vpl.catalog import Catalog
from vpl.episode import DatasetCfg, SaverError
from vpl.files import Made, StopFile, StopSignal, at_free_name, ignore_stop_signals, run
from vpl.recorder import Recorder
from vpl.round import said_of
from vpl.runs import continue_runs, describe_run, differences, recorded_runs
from vpl.usable_cores import usable_cores
from vpl_saver import VPLSaver

Collected: TypeAlias = Catalog | VPLSaver
"""What knows a dataset's rows."""
SELF_CHECK_ENVS = 4
MOST_THREADS = 2
"""With more writers than this, processes are faster than threads (benchmarks/README.md)."""


def main(argv: list[str] | None = None) -> int:
    return exit_code(
        lambda: collect_dataset(prepare(parse_flags(argv, __doc__))),
        SaverError,
        SimulatorError,
        interrupted="left at once: the episodes published so far are whole",
    )


def collect_dataset(job: Job) -> int:
    """Build simulator and saver, collect, and say what came out."""
    flags = job.flags
    torch.set_num_threads(1)  # the policy is small; a second thread would take a core from rendering and writing
    print(f"simulator   {flags.simulator}{job.simulator_reason}")
    print(*policy_lines(job), sep="\n", flush=True)
    if flags.self_check:
        return check_machine(job)
    with load(flags.simulator, simulator_cfg(job)) as env:
        # now: Kit has set handlers of its own, which would end the process with 0
        stop = StopSignal("ended episodes are being published")
        check_fit(job, env)
        start = time.monotonic()
        with open_saver(job, env) as saver:
            stop.hurry = saver.give_up
            announce(saver, flags)
            found = total_frames(saver)
            with progress_bar(flags, len(job.cameras)) as bar:
                collect(env, job, saver, bar, stop)
        print_summary(saver, found, time.monotonic() - start)
    if stop.number:
        return 128 + stop.number
    return 1 if saver.dropped else 0


def policy_lines(job: Job) -> list[str]:
    """What drives and what labels, in words."""
    about = job.policy.describe()
    details = [about.get("layout", "your own"), *([f"iteration {about['iteration']}"] if "iteration" in about else [])]
    name = f"policy      {job.flags.policy}" if job.flags.policy else f"checkpoint  {job.flags.checkpoint}"
    lines = [f"{name} ({', '.join(details)})"]
    policies = [policy for policy in (job.labeller, job.policy) if isinstance(policy, CheckpointPolicy)]
    lines += [f"activation  {policy.settings}" for policy in policies]
    return lines + ([f"labels      are the answers of {job.flags.relabel_with}"] if job.labeller else [])


def check_machine(job: Job) -> int:
    """Try what this machine's simulator and the checkpoint are good for; prints a table, writes a contact sheet."""
    flags, policy = job.flags, job.policy
    assert isinstance(policy, CheckpointPolicy)  # `prepare` refuses others
    # in the scene as it stands: its measures need the fingers in view, not behind a cabinet that came close
    cfg = replace(simulator_cfg(job), num_envs=min(flags.num_envs, SELF_CHECK_ENVS), variation=NOTHING_VARIES)
    with load(flags.simulator, cfg) as env, TemporaryDirectory() as folder:
        sheet = Path(folder, "sheet.png")
        checks = self_check(env, policy.to(env.device), sheet)

        def keep(picture: Path) -> Path:
            with open(picture, "xb") as file:
                file.write(sheet.read_bytes())
            return picture

        flags.data_root.mkdir(parents=True, exist_ok=True)
        picture = at_free_name(flags.data_root, "self_check", keep, ".png")
    print(f"{table(checks)}\npictures    {picture}", flush=True)
    return 0 if all(check.passed for check in checks) else 1


def simulator_cfg(job: Job) -> SimulatorCfg:
    """What the simulator is built from."""
    flags = job.flags
    return SimulatorCfg(
        task=flags.task,
        num_envs=flags.num_envs,
        cameras=job.cameras,
        seed=flags.seed,
        device=str(flags.device),
        variation=flags.variation(),
        options=options(flags.simulator, vars(flags)),
    )


def check_fit(job: Job, env: CameraEnv) -> None:
    """Refuse what does not fit the task.

    Raises:
        FlagError: the checkpoint is another task's, or there is no success to select by.
    """
    flags = job.flags
    named = (job.policy, f"--policy {flags.policy}" if flags.policy else f"--checkpoint {flags.checkpoint}")
    for policy, name in (named, (job.labeller, f"--relabel_with {flags.relabel_with}")):
        try:
            _ = policy and policy.bind(env)
        except PolicyError as error:
            raise FlagError(f"{name}: {error}") from error
    for name in ("only_success", "stop_after_success"):
        if "success" not in env.columns and getattr(flags, name):
            raise FlagError(f"--{name}: --task {flags.task} has no measure of success; leave it out")


def announce(saver: Collected, flags: CollectFlags) -> None:
    """Say where the dataset is, and what is to be known of it beforehand."""
    print(f"dataset     {saver.cfg.root}", flush=True)
    if absent := saver.cfg.metadata["not_recorded"]:
        print(f"left out    {', '.join(absent)}: --task {flags.task} has no such thing", flush=True)
    if saver.cfg.run:
        runs = saver.cfg.metadata["runs"]
        changed = "; ".join(differences(runs[0], runs[saver.cfg.run]))
        print(f"note        bytes may differ from an uninterrupted run's, for what differs: {changed}")


def collect(env: CameraEnv, job: Job, saver: VPLSaver, bar: tqdm | None, stop: StopSignal) -> None:
    """Collect all rounds of which something is missing on disk."""
    for round_index in range(job.flags.num_episodes):
        if all_on_disk(saver, round_index):
            continue
        collect_round(round_index, env, job, saver, bar, stop)
        if stop.number:
            return
        tell_round(bar, saver, f"round {round_index + 1} of {job.flags.num_episodes} simulated")


def collect_round(
    round_index: int, env: CameraEnv, job: Job, saver: Recorder, bar: tqdm | None, stop: StopSignal | StopFile
) -> None:
    """Run a round of at most `steps` control steps; store every step of each env's first episode in it.

    Episodes that are on disk already are simulated along, so that the others come out as they would have.
    """
    policy, steps = job.policy, job.flags.steps
    noise = ActionNoise(job.flags.action_noise, env.task.sign_actions, env.num_envs, env.num_actions)
    seed = round_seed(saver.cfg.seed, round_index)
    obs = env.reset(seed)
    policy.reset(torch.arange(env.num_envs, device=env.device))
    noise.begin(seed, steps)
    successful_rows = np.zeros(env.num_envs, int)
    recording = saver.begin_round(round_index, env.episode_info(), env.intrinsics())
    in_hand: tuple[Any, ...] | None = None
    for step in range(steps):
        if stop.number:
            return
        filmed = saver.wants_images(step)
        needs = tuple(policy.needs)
        with torch.inference_mode():
            # before step(): after it, a done env shows its next episode
            finish_capture = env.start_capture({*(saver.cfg.streams if filmed else ()), *needs})
            if in_hand:  # the last step, while a GPU draws this one
                recording = without(recording, saver.store(*in_hand))
            sample = finish_capture() if needs else None
            action = policy.act(sample, obs)
            wanted = job.labeller.act(None, obs) if job.labeller else action
            obs, dones, extras, of_step = execute(env, wanted, action, noise, step)
            sample = sample or finish_capture()
        columns = {**sample.columns, **{name: to_numpy(part) for name, part in of_step.items()}}
        in_hand = (columns, recorded_images(sample, saver) if filmed else {}, recording)
        done = recording & to_numpy(dones).astype(bool)
        ended = recording if step == steps - 1 else done
        if job.flags.stop_after_success:
            successful_rows += columns["success"] | (successful_rows > 0)
            ended = ended | (recording & (successful_rows > job.flags.stop_after_success))
        if ended.any():
            recording = publish(saver, in_hand, ended, done, extras)
            in_hand = None
        show_progress(bar, saver, int(recording.sum()) * len(env.cameras) if filmed else 0)
        recording = recording & ~ended
        if not recording.any():
            break


def publish(
    saver: Recorder, in_hand: tuple[Any, ...], ended: np.ndarray, done: np.ndarray, extras: dict[str, Any]
) -> np.ndarray:
    """Store a step after which the envs `ended` end their episodes, (N,) bool; returns whose are not dropped by it."""
    recording = without(in_hand[2], saver.store(*in_hand))
    diverged = recording & to_numpy(extras["diverged"])
    recording = without(recording, saver.drop_episodes(diverged, "the simulation diverged"))
    terminated = done & ~to_numpy(extras["time_outs"])
    saver.end_episodes(ended & recording, terminated, ended & ~terminated)
    return recording


def recorded_images(sample: Sample, saver: Recorder) -> dict[str, np.ndarray]:
    """Of a sample's images those that are stored: a policy may look at others."""
    return {name: sample.images[name] for name in saver.cfg.streams}


def execute(
    env: CameraEnv, wanted: torch.Tensor, driving: torch.Tensor, noise: ActionNoise, step: int
) -> tuple[Any, torch.Tensor, dict[str, Any], dict[str, torch.Tensor]]:
    """Have control step `step` done; returns observations, dones, extras, and the columns that come of the actions.

    `wanted` (N, A) is stored as the action, `driving` with `noise` is executed.
    """
    if driving is wanted and not noise.is_on:
        obs, reward, dones, extras = env.step(wanted)
        return obs, dones, extras, {"action": wanted, "joint_pos_target": extras["joint_pos_target"], "reward": reward}
    target = env.joint_pos_target(wanted)  # before step(): an action means what it does at this instant
    executed = noise.add(driving, step)
    obs, reward, dones, extras = env.step(executed)
    done = {"action_executed": executed, "joint_pos_target_executed": extras["joint_pos_target"]}
    return obs, dones, extras, {"action": wanted, "joint_pos_target": target, "reward": reward, **done}


def all_on_disk(saver: VPLSaver, round_index: int) -> bool:
    """Whether nothing of a round is missing."""
    return len(saver.episodes.of_round(round_index)) == saver.cfg.num_envs


def without(recording: np.ndarray, dropped: list[dict[str, Any]]) -> np.ndarray:
    """Who still records when these episodes are dropped, (N,) bool, a new array; says which they are."""
    for row in dropped:
        tqdm.write(said_of(row), file=sys.stderr)
    lost = {row["env_index"] for row in dropped}
    return recording & np.array([env not in lost for env in range(len(recording))])


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def open_saver(job: Job, env: CameraEnv) -> VPLSaver:
    """The saver of a new dataset, or of the one to resume."""
    return at_its_place(job.flags, lambda root, resume: VPLSaver(dataset_cfg(job, env, root), resume=resume))


def at_its_place(flags: CollectFlags, make: Callable[[Path, bool], Made]) -> Made:
    """What `make` makes of the dataset's folder, and whether it is there already."""
    if flags.resume:
        return make(flags.resume, True)
    name = dataset_name(flags.task, flags.sim_or_real, flags.robot_name)
    return at_free_name(flags.data_root, name, lambda root: make(root, False))


def dataset_cfg(job: Job, env: CameraEnv, root: Path) -> DatasetCfg:
    """The description of the dataset in the folder `root`."""
    flags, task = job.flags, env.task
    instruction = task.language_instruction if flags.language_instruction is None else flags.language_instruction
    workers = min(flags.num_envs, flags.writer_workers or min(usable_cores(), 16))
    present = describe_run(versions(env), arguments(flags), policy_row(flags, job.policy, job.labeller))
    runs, run = continue_runs(recorded_runs(job.recorded), present)
    return DatasetCfg(
        root=root,
        task=flags.task,
        simulator=flags.simulator,
        num_envs=flags.num_envs,
        steps=flags.steps,
        step_dt=env.step_dt,
        width=flags.width,
        height=flags.height,
        camera_names=tuple(camera.name for camera in job.cameras),
        intrinsics=np.stack([camera.intrinsics for camera in job.cameras]),
        columns=with_executed(env.columns) if flags.action_noise or job.labeller else env.columns,
        streams={name: env.streams[name] for name in flags.stream_names()},
        obs_terms=env.obs_terms,
        state_spec=env.state_spec,
        scene=env.scene,
        run=run,
        seed=flags.seed,
        success_rule=task.success_rule,
        language_instruction=instruction,
        video_interval=flags.video_interval,
        fps=flags.fps,
        only_success=flags.only_success,
        compress=flags.compress == "gzip",
        writer_workers=workers,
        use_processes=flags.writer == "processes" or (flags.writer == "auto" and workers > MOST_THREADS),
        metadata={
            "arguments": arguments(flags),
            "checkpoint": runs[0]["checkpoint"],
            "versions": runs[0]["versions"],
            "runs": runs,
            "cameras": camera_rows(job.cameras),
            "not_recorded": [name for name in OF_ANY_ARM if name not in env.columns],
            "conventions": {
                "units": "m, rad, s",
                "quaternions": "x, y, z, w",
                "world": "the env's own origin, at the robot's base",
                "extrinsics": "camera to world, OpenCV camera axes",
                "rows": "image and state before the action, the action, its reward",
            },
        },
    )


def progress_bar(flags: CollectFlags, num_cameras: int) -> tqdm:
    """Counts frames; silent where the output is not a terminal."""
    rows = -(-flags.steps // flags.video_interval)
    total = flags.num_episodes * flags.num_envs * rows * num_cameras
    layout = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} frames, {rate_fmt}{postfix}, {remaining} left"
    return tqdm(total=total, unit=" frames", disable=None, bar_format=layout, smoothing=0.1, postfix="0 episodes")


def show_progress(bar: tqdm | None, saver: Recorder, frames: int) -> None:
    if bar is None:
        return
    bar.set_postfix_str(f"{episode_counts(saver)}, waited {saver.writer_wait_s:.1f} s for the writers", refresh=False)
    bar.update(frames)


def tell_round(bar: tqdm | None, saver: Collected, name: str) -> None:
    """A line where there is no bar to be seen."""
    if bar is not None and bar.disable:
        print(f"{name}; on disk: {episode_counts(saver)}", flush=True)


def episode_counts(saver: Collected | Recorder) -> str:
    successes = f", {saver.episodes.num_successes} successful" if "success" in saver.cfg.columns else ""
    return f"{len(saver.episodes)} episodes{successes}"


def total_frames(saver: Collected) -> int:
    """Images in the dataset."""
    return len(saver.cfg.camera_names) * saver.episodes.num_frames


def print_summary(saver: Collected, found: int, seconds: float) -> None:
    """What was collected beside the `found` frames, where it is and what to type next."""
    root, rows, frames = saver.cfg.root, saver.episodes, total_frames(saver)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    rate = f" ({rows.num_successes / max(1, len(rows)):.1%})" if "success" in saver.cfg.columns else ""
    print(f"collected   {episode_counts(saver)}{rate}, {frames} frames, {size / 1e6:.0f} MB")
    if saver.dropped:
        print(f"left out    {len(saver.dropped)} episodes, under dropped in metadata.json; --resume tries them again")
    wait = f"waited {saver.writer_wait_s:.1f} s for the writers"
    print(f"took        {seconds:.1f} s: {(frames - found) / seconds:.0f} frames/s; {wait}")
    if "RUN_COLLECTION" in os.environ:
        return  # it says where the dataset is outside of the container
    command = [sys.executable, str(Path(__file__).with_name("vpl_dataset.py")), "info", str(root)]
    print(f"next        {shlex.join(word.removeprefix(f'{Path.cwd()}/') for word in command)}")


def leave(code: int) -> None:
    """End the process. Kit's fast shutdown would end it with 0 whatever happened, so Kit is not asked."""
    ignore_stop_signals()
    for output in filter(None, (sys.stdout, sys.stderr)):
        output.flush()
    if "isaacsim" in sys.modules:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    try:
        run(main)
    except SystemExit as error:
        leave(error.code if isinstance(error.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        leave(1)
