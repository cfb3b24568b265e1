"""The collector's flags: what they are, and what is refused before anything boots."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from flags import FlagError, as_flag_error, flag, parse
from flags.cameras import CameraFlags
from flags.isaac import Abilities, IsaacFlags, abilities
from flags.recorded import as_flags, camera_rows, check_agreement, jsonable, read_resumable
from flags.variation import VariationFlags
from policies import Policy, PolicyError
from policies.checkpoint_settings import ACTIVATIONS, CheckpointError, known_activation
from policies.kinds import HELP, load
from policies.rsl_rl import CheckpointPolicy, load_policy
from simulators import SIMULATORS, resolve
from simulators.cameras import CameraCfg
from simulators.tasks import load_task
from vpl.files import open_file_limit

PROJECT = Path(__file__).parent.parent
SHIPPED_CHECKPOINT = PROJECT / "checkpoints" / "open_drawer_franka" / "model.pt"
PHYSX_CHECKPOINT = PROJECT / "checkpoints" / "open_drawer_physx" / "model.pt"
"""What Isaac Lab collects with: the same policy after more training, under PhysX."""
COMPRESSED_SHARE = 0.05
"""Least share of the raw images that a dataset takes on disk (measured: 0.08 at 640x480 to 0.36 at 96x64)."""


@dataclass(frozen=True, kw_only=True)
class CollectFlags(CameraFlags, VariationFlags, IsaacFlags):
    """What the collector can be told."""

    task: str = flag("Isaac-Open-Drawer-Franka-v0", "a registered task, or your own as module:Class")
    simulator: str = flag("auto", "what simulates; auto: the first that is installed", choices=("auto", *SIMULATORS))
    num_envs: int = flag(20, "envs simulated side by side")
    num_episodes: int = flag(2, "rounds: num_envs x num_episodes episodes in all")
    steps: int = flag(60, "most control steps of an episode, 60 per second")
    checkpoint: Path | None = flag(
        None, "RSL-RL model_*.pt", metavar="FILE", default_says="the shipped one; in Isaac Lab the one trained there"
    )
    activation: str | None = flag(None, "the actor's activation, such as elu", default_says="params/agent.yaml's")
    clip_actions: str | None = flag(
        None,
        "clip actions to plus or minus this, none: not at all",
        metavar="LIMIT",
        default_says="params/agent.yaml's",
    )
    policy: str | None = flag(None, f"what drives: {HELP}", metavar="KIND:PLACE", default_says="--checkpoint")
    relabel_with: Path | None = flag(
        None, "while --policy drives, store this RSL-RL checkpoint's answers as the action", metavar="FILE"
    )
    action_noise: float = flag(
        0.0, "each episode adds noise of a scale up to this to what is executed; what is stored as action is not noisy"
    )
    stop_after_success: int | None = flag(
        None, "end an episode K control steps after it has succeeded", metavar="K", default_says="it goes on"
    )
    language_instruction: str | None = flag(
        None, "what the episodes say is done in them", metavar="TEXT", default_says="the task's own"
    )
    fps: float | None = flag(None, "playback rate of the videos", unit="frames/s", default_says="real time")
    video_interval: int = flag(1, "keep every k-th step's images and row", metavar="K")
    only_success: bool = flag(False, "put episodes without success into failed/")
    data_root: Path = flag(Path("vpl_tiled"), "folder that gets the dataset's folder", metavar="FOLDER")
    robot_name: str = flag("franka", "part of the dataset's name")
    sim_or_real: str = flag("sim", "part of the dataset's name")
    seed: int = flag(42, "fixes every episode's start")
    device: str | None = flag(None, "torch device of task and policy", default_says="cpu with mujoco, else cuda:0")
    headless: bool = flag(False, "no window (MuJoCo never opens one)")
    compress: str = flag("gzip", "how color is stored in HDF5; both are lossless", choices=("gzip", "none"))
    writer: str = flag("auto", "auto: processes from the third on", choices=("auto", "threads", "processes"))
    writer_workers: int | None = flag(None, "writers side by side", default_says="one per usable core, at most 16")
    resume: Path | None = flag(
        None, "complete this dataset with its recorded flags; only --num_episodes may be raised", metavar="DATASET"
    )
    self_check: bool = flag(False, "check this machine, the simulator and the checkpoint; no dataset")


@dataclass(frozen=True)
class Job:
    """What a run of the collector is made of; nothing has been written or booted for it."""

    flags: CollectFlags
    """As `resolved` returns them."""
    simulator_reason: str
    cameras: tuple[CameraCfg, ...]
    policy: Policy
    labeller: CheckpointPolicy | None
    """Whose answers are stored where another policy drives; None: the policy's own."""
    recorded: dict[str, Any]
    """metadata.json of what is resumed, as it reads back; {} without --resume."""


Kind = TypeVar("Kind", bound=CollectFlags)


def parse_flags(argv: Sequence[str] | None, description: str | None = None) -> CollectFlags:
    """The collector's flags of `argv`; see `parse_resumable`."""
    return parse_resumable(CollectFlags, argv, description)


def parse_resumable(kind: type[Kind], argv: Sequence[str] | None, description: str | None) -> Kind:
    """The flags of `argv`; with --resume, what is not given is as the dataset was collected with.

    Raises:
        FlagError: the dataset to resume cannot be.
    """
    flags = parse(kind, argv, description)
    if flags.resume is None:
        return flags
    return parse(kind, argv, description, recorded=as_flags(read_resumable(flags.resume), kind))


def prepare(flags: CollectFlags) -> Job:
    """Refuse what cannot be collected, and load the policy.

    Raises:
        FlagError: there is such a flag.
    """
    job = prepare_unsaved(flags)
    if store := job.recorded.get("store"):
        raise FlagError(f"--resume {flags.resume}: its episodes are in {store}; go on with collect_on_ray.py --resume")
    check_place(job.flags)
    return job


def prepare_unsaved(flags: CollectFlags, recorded: dict[str, Any] | None = None) -> Job:
    """`prepare`, where no dataset is to be written.

    Args:
        flags: the flags.
        recorded: metadata.json of the dataset to resume; None: it is read.

    Raises:
        FlagError: there is a flag that cannot be.
    """
    reason = " (auto)" if flags.simulator == "auto" else ""
    flags = resolved(flags)
    check_seed_and_device(flags.seed, flags.simulator, str(flags.device))
    with as_flag_error(ValueError):
        # Isaac Lab's tasks say what they need when they are there
        task = None if flags.simulator == "isaac" else load_task(flags.task)
    cameras = flags.cameras()
    num_obs, num_actions = (task.num_obs, task.num_actions) if task else (None, None)
    policy, labeller = _load_policies(flags, num_obs, num_actions)
    if recorded is None:
        recorded = read_resumable(flags.resume) if flags.resume else {}
    if recorded:
        check_agreement(recorded, flags, policy_row(flags, policy, labeller), camera_rows(cameras))
    return Job(flags, reason, cameras, policy, labeller, jsonable(recorded))


def resolved(flags: CollectFlags) -> CollectFlags:
    """The flags with this installation's simulator and its defaults; what this machine lacks is not looked at.

    Raises:
        FlagError: there is a flag that cannot be.
    """
    with as_flag_error(ValueError):
        simulator = resolve(flags.simulator)
        able = abilities(simulator, flags.task, flags.isaac_renderer)
        flags = replace(
            flags,
            simulator=simulator,
            device=flags.device or able.device,
            checkpoint=flags.checkpoint or (PHYSX_CHECKPOINT if simulator == "isaac" else SHIPPED_CHECKPOINT),
            randomize=flags.randomize or able.default_kinds,
        )
        _check_values(flags, able)
        flags.cameras()
    return flags


def policy_row(flags: CollectFlags, policy: Policy, labeller: Policy | None) -> dict[str, Any]:
    """What drives and what labels, as metadata.json has it."""
    row = {"path": flags.policy or str(flags.checkpoint), **policy.describe()}
    return row | ({"relabelled_with": {"path": str(flags.relabel_with), **labeller.describe()}} if labeller else {})


def _load_policies(
    flags: CollectFlags, num_obs: int | None, num_actions: int | None
) -> tuple[Policy, CheckpointPolicy | None]:
    """What drives, and what labels where that is another one."""
    if flags.policy is None:
        if flags.relabel_with:
            raise FlagError(f"--relabel_with {flags.relabel_with} labels what another --policy does; give one")
        return _load_checkpoint(flags, "checkpoint", num_obs, num_actions), None
    if flags.self_check:
        raise FlagError(f"--policy {flags.policy}: --self_check tries --checkpoint; leave --policy out")
    try:
        policy = load(flags.policy)
    except PolicyError as error:
        raise FlagError(f"--policy: {error}") from error
    return policy, _load_checkpoint(flags, "relabel_with", num_obs, num_actions) if flags.relabel_with else None


def _load_checkpoint(flags: CollectFlags, name: str, num_obs: int | None, num_actions: int | None) -> CheckpointPolicy:
    """The RSL-RL checkpoint that the flag `name` gives."""
    activation = None
    if flags.activation is not None and (activation := known_activation(flags.activation)) is None:
        raise FlagError(f"--activation must be one of {', '.join(ACTIVATIONS)}, got '{flags.activation}'")
    try:
        clip = _limit(flags.clip_actions)
        return load_policy(getattr(flags, name), num_obs, num_actions, activation=activation, clip_actions=clip)
    except CheckpointError as error:
        raise FlagError(f"--{name}: {error}") from error


def _limit(text: str | None) -> float | None:
    """Of actions: infinity for "none", None where nothing is said."""
    if text is None or text == "none":
        return None if text is None else math.inf
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise FlagError(f"--clip_actions must be a number above 0, or none, got '{text}'")
    return limit


def _check_values(flags: CollectFlags, able: Abilities) -> None:
    counts = ("num_envs", "num_episodes", "steps", "video_interval", "writer_workers", "stop_after_success")
    check_at_least_1(flags, *counts)
    if not (math.isfinite(flags.action_noise) and flags.action_noise >= 0):
        raise FlagError(f"--action_noise must be 0 or above, got {flags.action_noise}")
    flags.check_isaac(flags.simulator)
    flags.check(able)
    flags.check_variation(able)
    if flags.fps is not None and not 0.1 <= flags.fps <= 1000:
        raise FlagError(f"--fps must be from 0.1 to 1000, got {flags.fps}")
    for name in ("robot_name", "sim_or_real"):
        if not re.fullmatch(r"[\w.+-]{1,64}", value := getattr(flags, name)):
            raise FlagError(f"--{name} becomes part of a folder's name: 1 to 64 letters, got '{value}'")
    if flags.video_interval > flags.steps:
        raise FlagError(
            f"--video_interval {flags.video_interval} is above --steps {flags.steps}: one row per episode is left"
        )
    most_files = open_file_limit()  # each env has an open HDF5
    if flags.num_envs + 100 > most_files:
        raise FlagError(
            f"--num_envs {flags.num_envs} needs as many open files, the system allows {most_files} (ulimit -Hn)"
        )


def check_at_least_1(flags: Any, *names: str) -> None:
    """Refuse counts below 1.

    Raises:
        FlagError: there is one.
    """
    for name in names:
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise FlagError(f"--{name} must be at least 1, got {value}")


def check_seed_and_device(seed: int, simulator: str, device: str) -> None:
    """Refuse a seed that NumPy or torch would not take, and a device that torch does not find.

    Raises:
        FlagError: it is one.
    """
    if not 0 <= seed < 2**63:
        raise FlagError(f"--seed must be from 0 to 2^63 - 1, got {seed}")
    if simulator == "mujoco_warp" and (device == "cpu" or not torch.cuda.is_available()):
        found = "--device is cpu" if torch.cuda.is_available() else "torch finds none"
        raise FlagError(f"--simulator mujoco_warp needs an NVIDIA GPU, {found}; use --simulator mujoco")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise FlagError(f"--device must be cpu or cuda[:index], got '{device}'")
    if device != "cpu" and int(device[5:] or 0) >= torch.cuda.device_count():
        raise FlagError(f"--device {device}: torch finds {torch.cuda.device_count()} CUDA devices; use --device cpu")


def check_place(flags: CollectFlags) -> None:
    """The dataset's place, or the folder that it would be made in, takes files; there is room for the least data."""
    name, place = ("--resume", flags.resume) if flags.resume else ("--data_root", flags.data_root)
    try:
        existing = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
        if not existing.is_dir() or (place.is_symlink() and not place.exists()):
            raise FlagError(f"{name} {place}: {existing} is not a folder")
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise FlagError(f"{name} {place} cannot be written: {error.strerror}; give another folder") from error
    if flags.resume:
        return  # part of it is there
    rows = flags.num_envs * flags.num_episodes * math.ceil(flags.steps / flags.video_interval)
    frames = rows * len(flags.cameras())
    needed, free = COMPRESSED_SHARE * frames * flags.width * flags.height * 3, shutil.disk_usage(existing).free
    if free < needed:
        raise FlagError(
            f"--data_root {place} has {free / 1e9:.2f} GB free and {frames} frames need at least "
            f"{needed / 1e9:.2f} GB; give another folder or fewer --num_episodes"
        )
