"""Collect a visuomotor dataset: N simulated Franka arms open drawers under an RSL-RL checkpoint while cameras film.

    python collect_tiled_with_checkpoint.py --num_envs 20 --num_episodes 2 --steps 60 --enable_wrist_camera

Every episode becomes one MP4 a camera and one HDF5; vpl_saver.py says what is in them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import torch
from tqdm import tqdm

from checkpoint_policy import CheckpointError, CheckpointPolicy, load_policy
from simulators import SIMULATORS, TASKS, CameraCfg, DrawerEnv, SimulatorCfg, SimulatorError, load, resolve, round_seed
from vpl_episode import DatasetCfg, SaverError
from vpl_saver import VPLSaver

SHIPPED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "open_drawer_franka" / "model.pt"
OVERVIEW_FOV_DEG, WRIST_FOV_DEG, TOP_FOV_DEG = 40.0, 40.0, 45.0  # vertical; chosen by looking
TOP_CAM_EYE, TOP_CAM_TARGET = (0.35, 0.0, 2.6), (0.35, 0.0, 0.0)
MAY_DIFFER = {"num_episodes", "checkpoint", "data_root", "headless", "writer", "writer_workers", "resume"}
"""Flags that change nothing in an episode that is yet to be collected (the checkpoint's content is compared)."""
MOST_THREADS = 2
"""With more writers than this, processes are faster than threads (benchmarks/README.md)."""
COMPRESSED_SHARE = 0.05
"""Least share of the raw images that a dataset takes on disk (measured: 0.06 for rendered images)."""


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        return run(args, StopSignal())
    except KeyboardInterrupt:
        print("left at once: the episodes published so far are whole", file=sys.stderr)
        return 128 + signal.SIGINT
    except (SaverError, SimulatorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


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
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        os.write(2, b"\nstopping: ended episodes are being published; press Ctrl-C again to leave at once\n")


def run(args: argparse.Namespace, stop: StopSignal) -> int:
    """Build policy, simulator and saver, collect, and say what came out."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # an open HDF5 an env
    torch.set_num_threads(1)  # the policy is small; a second thread would take a core from rendering and writing
    print(f"simulator   {args.simulator}{args.simulator_reason}", flush=True)
    print(f"checkpoint  {args.checkpoint} ({args.policy.layout}, iteration {args.policy.iteration})", flush=True)
    cfg = SimulatorCfg(
        task=args.task, num_envs=args.num_envs, cameras=args.cameras, seed=args.seed, device=args.device,
        env_spacing=args.env_spacing,
    )  # fmt: skip
    with load(args.simulator)(cfg) as env:
        dataset = dataset_cfg(args, env)
        print(f"dataset     {dataset.root}", flush=True)
        start = time.monotonic()
        with VPLSaver(dataset, resume=args.resume is not None) as saver, progress_bar(args) as bar:
            found = total_frames(saver)
            collect(env, args.policy.to(env.device), saver, args.num_episodes, args.steps, bar, stop)
        print_summary(saver, found, time.monotonic() - start)
    return 128 + stop.number if stop.number else 0


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
        for step in range(steps):
            if stop.number:
                return
            with torch.inference_mode():
                sample = env.capture(
                    render=saver.wants_images
                )  # before step(): after it, a done env shows its next episode
                action = policy(obs["policy"])
                obs, reward, dones, extras = env.step(action)
            target = extras["joint_pos_target"]
            saver.store(sample, to_numpy(action), to_numpy(target), to_numpy(reward), recording)
            done = recording & to_numpy(dones).astype(bool)
            ended = recording if step == steps - 1 else done
            if ended.any():
                terminated = done & ~to_numpy(extras["time_outs"])
                saver.end_episodes(ended, terminated, ended & ~terminated)
            show_progress(bar, saver, 0 if sample.color is None else int(recording.sum()) * len(env.cameras))
            recording = recording & ~ended
            if not recording.any():
                break
        if bar.disable:
            print(f"round {round_index + 1} of {rounds} simulated; on disk: {episode_counts(saver)}", flush=True)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def new_folder(data_root: Path, name: str) -> Path:
    """A folder that does not exist, named by the present second; a second run of this second waits for the next."""
    while (folder := data_root / f"{name}_{time.strftime('%Y%m%d_%H%M%S')}").exists():
        time.sleep(0.1)
    return folder


def dataset_cfg(args: argparse.Namespace, env: DrawerEnv) -> DatasetCfg:
    """The dataset's description."""
    task = TASKS[args.task]
    workers = min(args.num_envs, args.writer_workers or min(os.cpu_count() or 1, 16))
    packages = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return DatasetCfg(
        root=args.resume or new_folder(args.data_root, f"{args.task}_{args.sim_or_real}_{args.robot_name}"),
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
            "conventions": {
                "units": "m, rad, s", "quaternions": "x, y, z, w", "world": "the env's own origin, at the robot's base",
                "extrinsics": "camera to world, OpenCV camera axes",
                "rows": "image and state before the action, the action, its reward",
            },
        },
    )  # fmt: skip


def checkpoint_row(path: Path, policy: CheckpointPolicy) -> dict[str, Any]:
    """The policy as metadata.json has it; activation and clip_actions come from agent.yaml beside it."""
    names = ("sha256", "layout", "iteration", "normalized", "activation", "clip_actions")
    return {"path": str(path), **{name: getattr(policy, name) for name in names}}


def camera_rows(cameras: tuple[CameraCfg, ...]) -> list[dict[str, Any]]:
    """The cameras as metadata.json has them."""
    return [{**asdict(camera), "intrinsics": camera.intrinsics.tolist()} for camera in cameras]


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
    return f"{len(episodes)} episodes, {sum(row['success'] for row in episodes)} successful"


def total_frames(saver: VPLSaver) -> int:
    """Images in the dataset."""
    return len(saver.cfg.camera_names) * sum(row["num_frames"] for row in saver.episodes)


def print_summary(saver: VPLSaver, found: int, seconds: float) -> None:
    """What was collected beside the `found` frames, where it is and what to type next."""
    root, frames = saver.cfg.root, total_frames(saver)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    rate = sum(row["success"] for row in saver.episodes) / max(1, len(saver.episodes))
    print(f"collected   {episode_counts(saver)} ({rate:.1%}), {frames} frames, {size / 1e6:.0f} MB")
    wait = f"waited {saver.writer_wait_s:.1f} s for the writers"
    print(f"took        {seconds:.1f} s: {(frames - found) / seconds:.0f} frames/s; {wait}")
    command = [sys.executable, str(Path(__file__).with_name("vpl_dataset.py")), "info", str(root)]
    print(f"next        {shlex.join(word.removeprefix(f'{Path.cwd()}/') for word in command)}")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse and refuse; adds `policy`, `cameras`, `simulator_reason` and `given` (the flags as JSON types)."""
    # usage suppressed: bad input gets one line
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=_Help, allow_abbrev=False, usage=argparse.SUPPRESS
    )
    add = parser.add_argument
    add("--task", default="Isaac-Open-Drawer-Franka-v0", help="registered task")
    add("--simulator", default="auto", help=f"auto, {', '.join(SIMULATORS)}; auto: the first that is installed")
    add("--num_envs", type=int, default=20, help="envs simulated side by side")
    add("--num_episodes", type=int, default=2, help="rounds: num_envs x num_episodes episodes in all")
    add("--steps", type=int, default=60, help="most control steps of an episode (60 a second)")
    add("--env_spacing", type=float, default=2.5, help="m between envs that share a world (MuJoCo: each has its own)")
    add("--checkpoint", type=Path, default=SHIPPED_CHECKPOINT, help="RSL-RL model_*.pt")
    add("--enable_wrist_camera", action="store_true", help="film from the hand too")
    add("--wrist_cam_offset", type=float, nargs=3, default=(-0.05, 0.0, 0.08), metavar=("X", "Y", "Z"),
        help="the wrist camera's eye in the gripper frame (x along the fingers, y side, z up), m")  # fmt: skip
    add("--wrist_cam_look_offset", type=float, nargs=3, default=(0.25, 0.0, 0.0), metavar=("X", "Y", "Z"),
        help="the point it looks at in the gripper frame, m")  # fmt: skip
    add("--overview_cam_eye", type=float, nargs=3, default=(-0.92, 1.22, 1.28), metavar=("X", "Y", "Z"),
        help="the overview camera's eye in the env frame (x to the cabinet, z up), m")  # fmt: skip
    add("--overview_cam_target", type=float, nargs=3, default=(0.42, 0.0, 0.42), metavar=("X", "Y", "Z"),
        help="the point it looks at in the env frame, m")  # fmt: skip
    add("--enable_top_camera", action="store_true", help="film from above too")
    add("--width", type=int, default=320, help="image width, px")
    add("--height", type=int, default=240, help="image height, px")
    add("--fps", type=float, default=None, help="playback rate of the videos; default: real time")
    add("--video_interval", type=int, default=1, help="keep every k-th step's images and row")
    add("--only_success", action="store_true", help="put episodes without success into failed/")
    add("--data_root", type=Path, default=Path("data"), help="folder that gets the dataset's folder")
    add("--robot_name", default="franka", help="part of the dataset's name")
    add("--sim_or_real", default="sim", help="part of the dataset's name")
    add("--seed", type=int, default=42, help="fixes every episode's start")
    add("--device", default="cpu", help="torch device of task and policy")
    add("--headless", action="store_true", help="no window (MuJoCo never opens one)")
    add("--compress", choices=("gzip", "none"), default="gzip", help="how color is stored in HDF5; both are lossless")
    add(
        "--writer",
        choices=("auto", "threads", "processes"),
        default="auto",
        help="auto: processes from the third worker on",
    )
    add("--writer_workers", type=int, default=None, help="writers side by side; default: one a core, at most 16")
    add("--resume", type=Path, default=None, metavar="DATASET",
        help="complete this dataset with its recorded flags; only --num_episodes may be raised")  # fmt: skip
    resumed = _recorded(parser, argv)
    args = parser.parse_args(argv, argparse.Namespace(**resumed.get("arguments", {})))
    args.given = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    _check_values(parser, args)
    _check_place(parser, args)
    try:
        args.simulator_reason = " (auto)" if args.simulator == "auto" else ""
        args.simulator = resolve(args.simulator)
        args.cameras = cameras(args)
        task = TASKS[args.task]
        args.policy = load_policy(args.checkpoint, task.num_obs, task.num_actions)
        if resumed:
            _check_agreement(parser, args, resumed)
    except CheckpointError as error:
        parser.error(f"--checkpoint: {error}")
    except ValueError as error:
        parser.error(str(error))
    return args


def cameras(args: argparse.Namespace) -> tuple[CameraCfg, ...]:
    """The cameras that the flags ask for; raises ValueError where one has no direction of view."""
    size = {"width": args.width, "height": args.height}
    chosen = [
        CameraCfg("overview", tuple(args.overview_cam_eye), tuple(args.overview_cam_target),
                  vertical_fov_deg=OVERVIEW_FOV_DEG, **size)
    ]  # fmt: skip
    if args.enable_wrist_camera:
        eye, target = tuple(args.wrist_cam_offset), tuple(args.wrist_cam_look_offset)
        chosen.append(CameraCfg("wrist", eye, target, frame="gripper", vertical_fov_deg=WRIST_FOV_DEG, **size))
    if args.enable_top_camera:
        # up = x: the cabinet is at the upper edge
        chosen.append(
            CameraCfg("top", TOP_CAM_EYE, TOP_CAM_TARGET, up=(1.0, 0.0, 0.0), vertical_fov_deg=TOP_FOV_DEG, **size)
        )
    for camera in chosen:
        camera.pose  # noqa: B018  its checks
    return tuple(chosen)


def _recorded(parser: argparse.ArgumentParser, argv: list[str] | None) -> dict[str, Any]:
    """metadata.json of the dataset that --resume names, its arguments as they were parsed; {} without --resume."""
    dataset = parser.parse_known_args(argv)[0].resume
    if dataset is None:
        return {}
    if not (dataset / "metadata.json").is_file():
        parser.error(f"--resume {dataset} holds no metadata.json; give the folder that the collector named")
    metadata = json.loads((dataset / "metadata.json").read_text())
    arguments = metadata["arguments"] | {"simulator": metadata["simulator"]}
    arguments |= {key: Path(arguments[key]) for key in ("checkpoint", "data_root")}
    return metadata | {"arguments": arguments}


def _check_agreement(parser: argparse.ArgumentParser, args: argparse.Namespace, metadata: dict[str, Any]) -> None:
    """Refuse to resume with anything that would make the missing episodes differ from what they would have been."""
    recorded = metadata["arguments"]
    for key in sorted(recorded.keys() - MAY_DIFFER):
        if jsonable(getattr(args, key)) != jsonable(recorded[key]):
            parser.error(f"--resume: --{key} is {getattr(args, key)}, the dataset was collected with {recorded[key]}")
    if args.num_episodes < recorded["num_episodes"]:
        parser.error(f"--resume: --num_episodes {args.num_episodes} is below the dataset's {recorded['num_episodes']}")
    for key, value in checkpoint_row(args.checkpoint, args.policy).items():
        if key != "path" and value != metadata["checkpoint"][key]:
            parser.error(
                f"--resume: --checkpoint {args.checkpoint} is not the dataset's: its {key} is {value}, "
                f"recorded is {metadata['checkpoint'][key]}; give that one"
            )
    if jsonable(camera_rows(args.cameras)) != metadata["cameras"]:
        parser.error("--resume: this version places the cameras differently; resume with the version that collected")


def jsonable(value: Any) -> Any:
    """`value` as it reads back from JSON."""
    return json.loads(json.dumps(value, default=str))


def _check_values(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for flag in ("num_envs", "num_episodes", "steps", "video_interval", "writer_workers"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1, got {getattr(args, flag)}")
    for flag in ("width", "height"):
        if not 16 <= getattr(args, flag) <= 4096 or getattr(args, flag) % 2:
            parser.error(f"--{flag} must be even (H.264) and from 16 to 4096, got {getattr(args, flag)}")
    for flag in ("wrist_cam_offset", "wrist_cam_look_offset", "overview_cam_eye", "overview_cam_target"):
        if not all(map(math.isfinite, getattr(args, flag))):
            parser.error(f"--{flag} must be three finite numbers, got {' '.join(map(str, getattr(args, flag)))}")
    if not (math.isfinite(args.env_spacing) and args.env_spacing > 0):
        parser.error(f"--env_spacing must be above 0, got {args.env_spacing}")
    if args.fps is not None and not 0.1 <= args.fps <= 1000:
        parser.error(f"--fps must be from 0.1 to 1000, got {args.fps}")
    for flag in ("robot_name", "sim_or_real"):
        if not re.fullmatch(r"[\w.+-]{1,64}", getattr(args, flag)):
            parser.error(f"--{flag} becomes part of a folder's name: 1 to 64 letters, got '{getattr(args, flag)}'")
    if not 0 <= args.seed < 2**63:
        parser.error(f"--seed must be from 0 to 2^63 - 1, got {args.seed}")
    if args.video_interval > args.steps:
        parser.error(
            f"--video_interval {args.video_interval} is above --steps {args.steps}: one row an episode is left"
        )
    if args.task not in TASKS:
        parser.error(f"--task '{args.task}' is unknown; available: {', '.join(TASKS)}")
    if args.simulator not in ("auto", *SIMULATORS):
        parser.error(f"--simulator '{args.simulator}' is unknown; available: auto, {', '.join(SIMULATORS)}")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", args.device):
        parser.error(f"--device must be cpu or cuda[:index], got '{args.device}'")
    if args.device != "cpu" and int(args.device[5:] or 0) >= torch.cuda.device_count():
        parser.error(f"--device {args.device}: torch finds {torch.cuda.device_count()} CUDA devices; use --device cpu")
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files != resource.RLIM_INFINITY and args.num_envs + 100 > most_files:
        parser.error(
            f"--num_envs {args.num_envs} needs as many open files, the system allows {most_files} (ulimit -Hn)"
        )


def _check_place(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """The dataset's place, or the folder that it would be made in, takes files; there is room for the least data."""
    flag, place = ("--resume", args.resume) if args.resume else ("--data_root", args.data_root)
    try:
        existing = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
        if not existing.is_dir() or (place.is_symlink() and not place.exists()):
            parser.error(f"{flag} {place}: {existing} is not a folder")
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        parser.error(f"{flag} {place} cannot be written: {error.strerror}; give another folder")
    if args.resume:
        return  # part of it is there
    num_cameras = 1 + args.enable_wrist_camera + args.enable_top_camera
    frames = args.num_envs * args.num_episodes * math.ceil(args.steps / args.video_interval) * num_cameras
    needed, free = COMPRESSED_SHARE * frames * args.width * args.height * 3, shutil.disk_usage(existing).free
    if free < needed:
        parser.error(
            f"--data_root {place} has {free / 1e9:.2f} GB free and {frames} frames need at least "
            f"{needed / 1e9:.2f} GB; give another folder or fewer --num_episodes"
        )


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The module's docstring as it is, and every flag's default."""


if __name__ == "__main__":
    sys.exit(main())
