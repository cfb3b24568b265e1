"""Collect a visuomotor dataset: N simulated Franka arms open drawers under an RSL-RL checkpoint while cameras film.

    python collect_tiled_with_checkpoint.py --num_envs 20 --num_episodes 2 --steps 60 --enable_wrist_camera

Every episode becomes one MP4 a camera and one HDF5; vpl_saver.py says what is in them.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from checks.self_check import self_check, table
from flags.collect import camera_rows, checkpoint_row, parse_args, versions
from policies.rsl_rl import CheckpointPolicy
from simulators import DrawerEnv, SimulatorCfg, SimulatorError, load, round_seed
from vpl.episode import DatasetCfg, SaverError
from vpl.files import StopSignal, at_free_name, ignore_stop_signals, run
from vpl.format import OPTIONAL
from vpl.round import said_of
from vpl.runs import continue_runs, describe_run, differences, recorded_runs
from vpl.usable_cores import usable_cores
from vpl_saver import VPLSaver

SELF_CHECK_ENVS = 4
MOST_THREADS = 2
"""With more writers than this, processes are faster than threads (benchmarks/README.md)."""


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv, __doc__)
    try:
        return collect_dataset(args)
    except KeyboardInterrupt:
        print("left at once: the episodes published so far are whole", file=sys.stderr)
        return 128 + signal.SIGINT
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (SaverError, SimulatorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


class InputError(ValueError):
    """A flag does not fit the task, which only the simulator knows; one line that names the remedy."""


def collect_dataset(args: argparse.Namespace) -> int:
    """Build policy, simulator and saver, collect, and say what came out."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # an open HDF5 an env
    torch.set_num_threads(1)  # the policy is small; a second thread would take a core from rendering and writing
    print(f"simulator   {args.simulator}{args.simulator_reason}", flush=True)
    print(f"checkpoint  {args.checkpoint} ({args.policy.layout}, iteration {args.policy.iteration})", flush=True)
    print(f"activation  {args.policy.settings}", flush=True)
    if args.self_check:
        return check_machine(args)
    with load(args.simulator)(simulator_cfg(args)) as env:
        # now: Kit has set handlers of its own, which would end the process with 0
        stop = StopSignal("ended episodes are being published")
        check_fit(args, env)
        start = time.monotonic()
        with open_saver(args, env) as saver:
            stop.hurry = saver.give_up
            print(f"dataset     {saver.cfg.root}", flush=True)
            if absent := saver.cfg.metadata["not_recorded"]:
                print(f"left out    {', '.join(absent)}: --task {args.task} has no such thing", flush=True)
            if saver.cfg.run:
                runs = saver.cfg.metadata["runs"]
                changed = "; ".join(differences(runs[0], runs[saver.cfg.run]))
                print(f"note        bytes may differ from an uninterrupted run's, for what differs: {changed}")
            found = total_frames(saver)
            with progress_bar(args) as bar:
                collect(env, args.policy.to(env.device), saver, args.num_episodes, args.steps, bar, stop)
        print_summary(saver, found, time.monotonic() - start)
    if stop.number:
        return 128 + stop.number
    return 1 if saver.dropped else 0


def check_machine(args: argparse.Namespace) -> int:
    """Try what this machine's simulator and the checkpoint are good for; prints a table, writes a contact sheet."""
    cfg = replace(simulator_cfg(args), num_envs=min(args.num_envs, SELF_CHECK_ENVS))
    with load(args.simulator)(cfg) as env, TemporaryDirectory() as folder:
        sheet = Path(folder, "sheet.png")
        checks = self_check(env, args.policy.to(env.device), sheet)

        def keep(picture: Path) -> Path:
            with open(picture, "xb") as file:
                file.write(sheet.read_bytes())
            return picture

        args.data_root.mkdir(parents=True, exist_ok=True)
        picture = at_free_name(args.data_root, "self_check", keep, ".png")
    print(f"{table(checks)}\npictures    {picture}", flush=True)
    return 0 if all(check.passed for check in checks) else 1


def simulator_cfg(args: argparse.Namespace) -> SimulatorCfg:
    """What the simulator is built from."""
    return SimulatorCfg(
        task=args.task, num_envs=args.num_envs, cameras=args.cameras, seed=args.seed, device=args.device,
        env_spacing=args.env_spacing, headless=args.headless, rendering_mode=args.rendering_mode,
        kit_args=args.kit_args, rerenders=args.rerenders, samples_per_pixel=args.samples_per_pixel,
        shadows=args.shadows,
    )  # fmt: skip


def check_fit(args: argparse.Namespace, env: DrawerEnv) -> None:
    """Refuse what does not fit the task.

    Raises:
        InputError: the checkpoint is another task's, or there is no success to select by.
    """
    policy, task = args.policy, env.task
    if (policy.num_obs, policy.num_actions) != (task.num_obs, task.num_actions):
        raise InputError(
            f"--checkpoint {args.checkpoint} maps {policy.num_obs} observations to {policy.num_actions} actions, "
            f"--task {args.task} needs {task.num_obs} and {task.num_actions}; give a checkpoint of this task"
        )
    if task.success_metric is None and args.only_success:
        raise InputError(f"--only_success: --task {args.task} has no measure of success; leave it out")


def collect(
    env: DrawerEnv, policy: CheckpointPolicy, saver: VPLSaver, rounds: int, steps: int, bar: tqdm, stop: StopSignal
) -> None:
    """Run `rounds` rounds of at most `steps` control steps; store every step of each env's first episode in each.

    Episodes that are on disk already are simulated along, so that the others come out as they would have.
    """
    for round_index in range(rounds):
        recording = saver.begin_round(round_index)
        if not recording.any():
            continue
        obs = env.reset(round_seed(saver.cfg.seed, round_index))
        in_hand: tuple[Any, ...] | None = None
        for step in range(steps):
            if stop.number:
                return
            with torch.inference_mode():
                # before step(): after it, a done env shows its next episode
                finish_capture = env.start_capture(render=saver.wants_images(step))
                if in_hand:  # the last step, while a GPU draws this one
                    recording = without(recording, saver.store(*in_hand))
                action = policy(obs["policy"])
                obs, reward, dones, extras = env.step(action)
                sample = finish_capture()
            in_hand = (sample, *map(to_numpy, (action, extras["joint_pos_target"], reward)), recording)
            done = recording & to_numpy(dones).astype(bool)
            ended = recording if step == steps - 1 else done
            if ended.any():
                terminated = done & ~to_numpy(extras["time_outs"])
                recording = without(recording, saver.store(*in_hand))
                in_hand = None
                diverged = recording & to_numpy(extras["diverged"])
                recording = without(recording, saver.drop_episodes(diverged, "the simulation diverged"))
                saver.end_episodes(ended & recording, terminated, ended & ~terminated)
            show_progress(bar, saver, 0 if sample.color is None else int(recording.sum()) * len(env.cameras))
            recording = recording & ~ended
            if not recording.any():
                break
        if bar.disable:
            print(f"round {round_index + 1} of {rounds} simulated; on disk: {episode_counts(saver)}", flush=True)


def without(recording: np.ndarray, dropped: list[dict[str, Any]]) -> np.ndarray:
    """Who still records when these episodes are dropped, (N,) bool, a new array; says which they are."""
    for row in dropped:
        tqdm.write(said_of(row), file=sys.stderr)
    lost = {row["env_index"] for row in dropped}
    return recording & np.array([env not in lost for env in range(len(recording))])


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def open_saver(args: argparse.Namespace, env: DrawerEnv) -> VPLSaver:
    """The saver of a new dataset, or of the one to resume."""
    if args.resume:
        return VPLSaver(dataset_cfg(args, env, args.resume), resume=True)
    task = re.sub(r"[^\w.+-]", "_", args.task)  # Gymnasium's names may hold / and :
    name = f"{task}_{args.sim_or_real}_{args.robot_name}"
    return at_free_name(args.data_root, name, lambda root: VPLSaver(dataset_cfg(args, env, root)))


def dataset_cfg(args: argparse.Namespace, env: DrawerEnv, root: Path) -> DatasetCfg:
    """The description of the dataset in the folder `root`."""
    task = env.task
    workers = min(args.num_envs, args.writer_workers or min(usable_cores(), 16))
    present = describe_run(versions(env), args.given, checkpoint_row(args.checkpoint, args.policy))
    runs, run = continue_runs(recorded_runs(args.recorded), present)
    return DatasetCfg(
        root=root,
        task=args.task,
        simulator=args.simulator,
        num_envs=args.num_envs,
        steps=args.steps,
        step_dt=env.step_dt,
        width=args.width,
        height=args.height,
        camera_names=tuple(camera.name for camera in args.cameras),
        intrinsics=np.stack([camera.intrinsics for camera in args.cameras]),
        joint_names=env.joint_names,
        obs_terms=env.obs_terms,
        state_spec=env.state_spec,
        scene=env.scene,
        run=run,
        seed=args.seed,
        success_metric=task.success_metric,
        success_threshold=task.success_threshold,
        language_instruction=task.language_instruction,
        video_interval=args.video_interval,
        fps=args.fps,
        only_success=args.only_success,
        compress=args.compress == "gzip",
        writer_workers=workers,
        use_processes=args.writer == "processes" or (args.writer == "auto" and workers > MOST_THREADS),
        metadata={
            "arguments": args.given,
            "checkpoint": runs[0]["checkpoint"],
            "versions": runs[0]["versions"],
            "runs": runs,
            "cameras": camera_rows(args.cameras),
            "not_recorded": not_recorded(env),
            "conventions": {
                "units": "m, rad, s", "quaternions": "x, y, z, w", "world": "the env's own origin, at the robot's base",
                "extrinsics": "camera to world, OpenCV camera axes",
                "rows": "image and state before the action, the action, its reward",
            },
        },
    )  # fmt: skip


def not_recorded(env: DrawerEnv) -> list[str]:
    """What the format has and this task has not."""
    sample = env.capture(render=False)
    columns = [name for name in OPTIONAL if getattr(sample, name) is None]
    return columns if env.task.success_metric else [*columns, "success"]


def progress_bar(args: argparse.Namespace) -> tqdm:
    """Counts frames; silent where the output is not a terminal."""
    rows = -(-args.steps // args.video_interval)
    total = args.num_episodes * args.num_envs * rows * len(args.cameras)
    layout = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} frames, {rate_fmt}{postfix}, {remaining} left"
    return tqdm(total=total, unit=" frames", disable=None, bar_format=layout, smoothing=0.1, postfix="0 episodes")


def show_progress(bar: tqdm, saver: VPLSaver, frames: int) -> None:
    bar.set_postfix_str(f"{episode_counts(saver)}, waited {saver.writer_wait_s:.1f} s for the writers", refresh=False)
    bar.update(frames)


def episode_counts(saver: VPLSaver) -> str:
    episodes = list(saver.episodes)
    successes = f", {sum(row['success'] for row in episodes)} successful" if saver.cfg.success_metric else ""
    return f"{len(episodes)} episodes{successes}"


def total_frames(saver: VPLSaver) -> int:
    """Images in the dataset."""
    return len(saver.cfg.camera_names) * sum(row["num_frames"] for row in saver.episodes)


def print_summary(saver: VPLSaver, found: int, seconds: float) -> None:
    """What was collected beside the `found` frames, where it is and what to type next."""
    root, frames = saver.cfg.root, total_frames(saver)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    rate = f" ({saver.num_successes / max(1, len(saver.episodes)):.1%})" if saver.cfg.success_metric else ""
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
