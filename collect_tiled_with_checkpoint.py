"""Collect a visuomotor dataset: N simulated Franka arms open drawers under an RSL-RL checkpoint while cameras film.

    python collect_tiled_with_checkpoint.py --num_envs 20 --num_episodes 2 --steps 60 --enable_wrist_camera

Every episode becomes one MP4 a camera and one HDF5; vpl_saver.py says what is in them.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import shlex
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import torch
from tqdm import tqdm

from checkpoint_policy import CheckpointPolicy
from collect_flags import camera_rows, checkpoint_row, new_path, parse_args
from self_check import self_check, table
from simulators import DrawerEnv, SimulatorCfg, SimulatorError, load, round_seed
from vpl_episode import OPTIONAL, DatasetCfg, SaverError, exit_on_sigterm
from vpl_saver import VPLSaver

SELF_CHECK_ENVS = 4
MOST_THREADS = 2
"""With more writers than this, processes are faster than threads (benchmarks/README.md)."""


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv, __doc__)
    try:
        return run(args)
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


class StopSignal:
    """The first Ctrl-C or SIGTERM ends the run after the present step, the second at once."""

    number = 0
    """The signal that came; 0: none."""

    def __init__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exit_on_sigterm()
        os.write(2, b"\nstopping: ended episodes are being published; press Ctrl-C again to leave at once\n")


def run(args: argparse.Namespace) -> int:
    """Build policy, simulator and saver, collect, and say what came out."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # an open HDF5 an env
    torch.set_num_threads(1)  # the policy is small; a second thread would take a core from rendering and writing
    print(f"simulator   {args.simulator}{args.simulator_reason}", flush=True)
    print(f"checkpoint  {args.checkpoint} ({policy_line(args.policy)})", flush=True)
    if args.self_check:
        return check_machine(args)
    with load(args.simulator)(simulator_cfg(args)) as env:
        stop = StopSignal()  # now: Kit has set handlers of its own, which would end the process with 0
        check_fit(args, env)
        dataset = dataset_cfg(args, env)
        print(f"dataset     {dataset.root}", flush=True)
        if absent := dataset.metadata["not_recorded"]:
            print(f"left out    {', '.join(absent)}: --task {args.task} has no such thing", flush=True)
        start = time.monotonic()
        with VPLSaver(dataset, resume=args.resume is not None) as saver, progress_bar(args) as bar:
            found = total_frames(saver)
            collect(env, args.policy.to(env.device), saver, args.num_episodes, args.steps, bar, stop)
        print_summary(saver, found, time.monotonic() - start)
    return 128 + stop.number if stop.number else 0


def policy_line(policy: CheckpointPolicy) -> str:
    """What the policy is, and where the settings that its checkpoint does not hold come from."""
    clip = "none" if policy.clip_actions is None else policy.clip_actions
    return (
        f"{policy.layout}, iteration {policy.iteration}; activation {policy.activation} ({policy.activation_from}), "
        f"clip_actions {clip} ({policy.clip_actions_from})"
    )


def check_machine(args: argparse.Namespace) -> int:
    """Try what this machine's simulator and the checkpoint are good for; prints a table, writes a contact sheet."""
    args.data_root.mkdir(parents=True, exist_ok=True)
    picture = new_path(args.data_root, "self_check", ".png")
    cfg = replace(simulator_cfg(args), num_envs=min(args.num_envs, SELF_CHECK_ENVS))
    with load(args.simulator)(cfg) as env:
        checks = self_check(env, args.policy.to(env.device), picture)
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
                if in_hand:
                    saver.store(*in_hand)  # the last step, while a GPU draws this one
                action = policy(obs["policy"])
                obs, reward, dones, extras = env.step(action)
                sample = finish_capture()
            in_hand = (sample, *map(to_numpy, (action, extras["joint_pos_target"], reward)), recording)
            done = recording & to_numpy(dones).astype(bool)
            ended = recording if step == steps - 1 else done
            if ended.any():
                terminated = done & ~to_numpy(extras["time_outs"])
                saver.store(*in_hand)
                in_hand = None
                saver.end_episodes(ended, terminated, ended & ~terminated)
            show_progress(bar, saver, 0 if sample.color is None else int(recording.sum()) * len(env.cameras))
            recording = recording & ~ended
            if not recording.any():
                break
        if bar.disable:
            print(f"round {round_index + 1} of {rounds} simulated; on disk: {episode_counts(saver)}", flush=True)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def dataset_cfg(args: argparse.Namespace, env: DrawerEnv) -> DatasetCfg:
    """The dataset's description."""
    task = env.task
    task_name = re.sub(r"[^\w.+-]", "_", args.task)  # Gymnasium's names may hold / and :
    workers = min(args.num_envs, args.writer_workers or min(os.cpu_count() or 1, 16))
    packages = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return DatasetCfg(
        root=args.resume or new_path(args.data_root, f"{task_name}_{args.sim_or_real}_{args.robot_name}"),
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
            "checkpoint": checkpoint_row(args.checkpoint, args.policy),
            "versions": {**packages, "h5py": h5py.__version__, "av": av.__version__, **env.describe()},
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
    bar.set_postfix_str(f"{episode_counts(saver)}, writers waited for {saver.writer_wait_s:.1f} s", refresh=False)
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
    wait = f"waited {saver.writer_wait_s:.1f} s for the writers"
    print(f"took        {seconds:.1f} s: {(frames - found) / seconds:.0f} frames/s; {wait}")
    if "RUN_COLLECTION" in os.environ:
        return  # it says where the dataset is outside of the container
    command = [sys.executable, str(Path(__file__).with_name("vpl_dataset.py")), "info", str(root)]
    print(f"next        {shlex.join(word.removeprefix(f'{Path.cwd()}/') for word in command)}")


def leave(code: int) -> None:
    """End the process. Kit's fast shutdown would end it with 0 whatever happened, so Kit is not asked."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "isaacsim" in sys.modules:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    try:
        exit_code = main()
    except SystemExit as error:  # argparse's, and the second SIGTERM's
        exit_code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        exit_code = 1
    leave(exit_code)
