"""The collector's flags: what they are, what is refused before anything boots, and what --resume takes over."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import resource
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import torch

from policies.checkpoint_settings import ACTIVATIONS, CheckpointError, known_activation
from policies.rsl_rl import CheckpointPolicy, load_policy
from simulators import SIMULATORS, TASKS, CameraCfg, DrawerEnv, resolve
from vpl.episode import read_metadata
from vpl.runs import project_versions

PROJECT = Path(__file__).parent.parent
SHIPPED_CHECKPOINT = PROJECT / "checkpoints" / "open_drawer_franka" / "model.pt"
OVERVIEW_FOV_DEG, WRIST_FOV_DEG, TOP_FOV_DEG = 40.0, 40.0, 45.0  # vertical; chosen by looking
TOP_CAM_EYE, TOP_CAM_TARGET = (0.35, 0.0, 2.6), (0.35, 0.0, 0.0)
MAY_DIFFER = {
    "num_episodes", "checkpoint", "data_root", "headless", "writer", "writer_workers", "resume", "enable_cameras",
    "kit_args", "self_check", "activation", "clip_actions",
}  # fmt: skip
"""Flags that change nothing in an episode that is yet to be collected (the policy that comes of them is compared)."""
WARP_FLAGS = ("samples_per_pixel", "shadows")
"""What only MuJoCo Warp draws."""
COMPRESSED_SHARE = 0.05
"""Least share of the raw images that a dataset takes on disk (measured: 0.06 for rendered images)."""


def parse_args(argv: list[str] | None, description: str | None = None) -> argparse.Namespace:
    """Parse and refuse; adds `policy`, `cameras`, `simulator_reason`, `given` (the flags as JSON types) and `recorded`
    (metadata.json of what is resumed, or {}).
    """
    # usage suppressed: bad input gets one line
    parser = argparse.ArgumentParser(
        description=description, formatter_class=_Help, allow_abbrev=False, usage=argparse.SUPPRESS
    )
    _add_flags(parser)
    try:
        resumed = _recorded(parser, argv)
        args = parser.parse_args(argv, argparse.Namespace(**resumed.get("arguments", {})))
        reason = " (auto)" if args.simulator == "auto" else ""
        args.simulator = resolve(args.simulator)
        args.device = args.device or SIMULATORS[args.simulator].device
        args.given = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        args.simulator_reason = reason
        _check_values(parser, args)
        _check_place(parser, args)
        args.cameras = cameras(args)
        # Isaac Lab's other tasks say what they need when they are there
        task = TASKS.get(args.task)
        num_obs, num_actions = (task.num_obs, task.num_actions) if task else (None, None)
        clip = math.inf if args.clip_actions == "none" else args.clip_actions
        args.policy = load_policy(args.checkpoint, num_obs, num_actions, activation=args.activation, clip_actions=clip)
        args.recorded = jsonable(resumed)
        if resumed:
            _check_agreement(parser, args, resumed)
    except CheckpointError as error:
        parser.error(f"--checkpoint: {error}")
    except ValueError as error:
        parser.error(str(error))
    return args


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--task", default="Isaac-Open-Drawer-Franka-v0", help="registered task")
    add("--simulator", default="auto", help=f"auto, {', '.join(SIMULATORS)}; auto: the first that is installed")
    add("--num_envs", type=int, default=20, help="envs simulated side by side")
    add("--num_episodes", type=int, default=2, help="rounds: num_envs x num_episodes episodes in all")
    add("--steps", type=int, default=60, help="most control steps of an episode (60 a second)")
    add("--env_spacing", type=float, default=2.5, help="m between envs that share a world (MuJoCo: each has its own)")
    add("--checkpoint", type=Path, default=SHIPPED_CHECKPOINT, help="RSL-RL model_*.pt")
    add("--activation", default=None, help="the actor's activation, such as elu; default: that of params/agent.yaml")
    add("--clip_actions", type=_clip, default=None, metavar="LIMIT",
        help="clip actions to plus or minus this, none: not at all; default: as params/agent.yaml says")  # fmt: skip
    add_camera_flags(parser)
    add("--fps", type=float, default=None, help="playback rate of the videos; default: real time")
    add("--video_interval", type=int, default=1, help="keep every k-th step's images and row")
    add("--only_success", action="store_true", help="put episodes without success into failed/")
    add("--data_root", type=Path, default=Path("data"), help="folder that gets the dataset's folder")
    add("--robot_name", default="franka", help="part of the dataset's name")
    add("--sim_or_real", default="sim", help="part of the dataset's name")
    add("--seed", type=int, default=42, help="fixes every episode's start")
    add("--device", default=None, help="torch device of task and policy; default: cpu with mujoco, else cuda:0")
    add("--headless", action="store_true", help="no window (MuJoCo never opens one)")
    add("--compress", choices=("gzip", "none"), default="gzip", help="how color is stored in HDF5; both are lossless")
    add("--writer", choices=("auto", "threads", "processes"), default="auto", help="auto: processes from the third on")
    add(
        "--writer_workers",
        type=int,
        default=None,
        help="writers side by side; default: one per usable core, at most 16",
    )
    add("--resume", type=Path, default=None, metavar="DATASET",
        help="complete this dataset with its recorded flags; only --num_episodes may be raised")  # fmt: skip
    add("--self_check", action="store_true", help="check this machine, the simulator and the checkpoint; no dataset")
    kit = parser.add_argument_group("Isaac Lab")
    kit.add_argument("--rerenders", type=int, default=3,
        help="renders before the first picture after a reset; later ones take one")  # fmt: skip
    kit.add_argument("--rendering_mode", choices=("performance", "balanced", "quality"), default=None,
        help="AppLauncher's preset")  # fmt: skip
    kit.add_argument("--kit_args", default="", help="arguments for Omniverse Kit, in one string")
    kit.add_argument("--enable_cameras", action="store_true", help="accepted; cameras are always on")


def _clip(text: str) -> float | str:
    """A limit of actions, or "none"."""
    limit = math.inf if text == "none" else float(text)
    if not limit > 0 or (math.isinf(limit) and text != "none"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, or none, got '{text}'")
    return text if text == "none" else limit


def add_camera_flags(parser: argparse.ArgumentParser) -> None:
    """What `cameras` reads, and how the pictures are drawn."""
    add = parser.add_argument
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
    add("--samples_per_pixel", type=int, default=1, help="MuJoCo Warp: 1, 4, 9 or 16 rays; more smooth the edges")
    add("--shadows", action="store_true", help="MuJoCo Warp: cast shadows")


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
    return tuple(chosen)


def checkpoint_row(path: Path, policy: CheckpointPolicy) -> dict[str, Any]:
    """The policy as metadata.json has it."""
    names = ("sha256", "layout", "iteration", "normalized", "activation", "clip_actions", "settings")
    return {"path": str(path), **{name: getattr(policy, name) for name in names}}


def versions(env: DrawerEnv) -> dict[str, Any]:
    """What makes the episodes, as metadata.json has it."""
    return {
        **project_versions(PROJECT),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "av": av.__version__,
        **env.describe(),
    }


def camera_rows(cameras: tuple[CameraCfg, ...]) -> list[dict[str, Any]]:
    """The cameras as metadata.json has them."""
    return [{**asdict(camera), "intrinsics": camera.intrinsics.tolist()} for camera in cameras]


def _recorded(parser: argparse.ArgumentParser, argv: list[str] | None) -> dict[str, Any]:
    """metadata.json of the dataset that --resume names, its arguments as they were parsed; {} without --resume."""
    dataset = parser.parse_known_args(argv)[0].resume
    if dataset is None:
        return {}
    if not (dataset / "metadata.json").is_file():
        parser.error(f"--resume {dataset} holds no metadata.json; give the folder that the collector named")
    metadata = read_metadata(dataset)
    if "sources" in metadata:
        parser.error(f"--resume {dataset} was merged from several datasets; resume those and merge again")
    if "replayed" in metadata:
        parser.error(f"--resume {dataset} was filmed by replay_episode.py; film {metadata['replayed']['from']} again")
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
        if key not in ("path", "settings") and value != metadata["checkpoint"][key]:
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
    for flag in ("num_envs", "num_episodes", "steps", "video_interval", "writer_workers", "rerenders"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1, got {getattr(args, flag)}")
    if args.activation is not None and (known := known_activation(args.activation)) is None:
        parser.error(f"--activation must be one of {', '.join(ACTIVATIONS)}, got '{args.activation}'")
    args.activation = args.activation and known
    check_camera_flags(parser, args)
    if not (math.isfinite(args.env_spacing) and args.env_spacing > 0):
        parser.error(f"--env_spacing must be above 0, got {args.env_spacing}")
    if args.fps is not None and not 0.1 <= args.fps <= 1000:
        parser.error(f"--fps must be from 0.1 to 1000, got {args.fps}")
    for flag in ("robot_name", "sim_or_real"):
        if not re.fullmatch(r"[\w.+-]{1,64}", getattr(args, flag)):
            parser.error(f"--{flag} becomes part of a folder's name: 1 to 64 letters, got '{getattr(args, flag)}'")
    check_seed_and_device(parser, args)
    if args.video_interval > args.steps:
        parser.error(
            f"--video_interval {args.video_interval} is above --steps {args.steps}: one row an episode is left"
        )
    if args.task not in TASKS and args.simulator != "isaac":
        parser.error(f"--task '{args.task}' is unknown; available: {', '.join(TASKS)}, and with isaac Isaac Lab's own")
    for name, values in {"ENABLE_CAMERAS": ("0", "1"), "HEADLESS": ("0", "1"), "LIVESTREAM": ("0", "1", "2")}.items():
        if args.simulator == "isaac" and os.environ.get(name, "0") not in values:
            parser.error(f"environment variable {name} must be {' or '.join(values)}, got '{os.environ[name]}'")
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files != resource.RLIM_INFINITY and args.num_envs + 100 > most_files:
        parser.error(
            f"--num_envs {args.num_envs} needs as many open files, the system allows {most_files} (ulimit -Hn)"
        )


def check_camera_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse sizes and places that no camera can have, and what the simulator cannot draw."""
    for flag in ("width", "height"):
        if not 16 <= getattr(args, flag) <= 4096 or getattr(args, flag) % 2:
            parser.error(f"--{flag} must be even (H.264) and from 16 to 4096, got {getattr(args, flag)}")
    if args.samples_per_pixel not in (1, 4, 9, 16):
        parser.error(f"--samples_per_pixel must be 1, 4, 9 or 16, got {args.samples_per_pixel}")
    if (args.samples_per_pixel > 1 or args.shadows) and args.simulator != "mujoco_warp":
        parser.error(f"--samples_per_pixel and --shadows are of --simulator mujoco_warp, this is {args.simulator}")
    for flag in ("wrist_cam_offset", "wrist_cam_look_offset", "overview_cam_eye", "overview_cam_target"):
        if not all(map(math.isfinite, getattr(args, flag))):
            parser.error(f"--{flag} must be three finite numbers, got {' '.join(map(str, getattr(args, flag)))}")


def check_seed_and_device(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a seed that NumPy or torch would not take, and a device that torch does not find."""
    if not 0 <= args.seed < 2**63:
        parser.error(f"--seed must be from 0 to 2^63 - 1, got {args.seed}")
    if args.simulator == "mujoco_warp" and (args.device == "cpu" or not torch.cuda.is_available()):
        found = "--device is cpu" if torch.cuda.is_available() else "torch finds none"
        parser.error(f"--simulator mujoco_warp needs an NVIDIA GPU, {found}; use --simulator mujoco")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", args.device):
        parser.error(f"--device must be cpu or cuda[:index], got '{args.device}'")
    if args.device != "cpu" and int(args.device[5:] or 0) >= torch.cuda.device_count():
        parser.error(f"--device {args.device}: torch finds {torch.cuda.device_count()} CUDA devices; use --device cpu")


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
