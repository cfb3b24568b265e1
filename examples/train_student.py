"""Train a student on a dataset: it sees what the cameras saw and feels what the robot felt, and answers with targets.

    python collect_tiled_with_checkpoint.py --num_envs 100 --num_episodes 13 --steps 120 --stop_after_success 10 \
        --enable_wrist_camera --width 128 --height 96 --action_noise 0.4 --only_success
    python examples/train_student.py vpl_tiled/NAME --output runs/first
    python evaluate_policy.py --policy student:runs/first/student.pt

Behaviour cloning of chunks of K joint targets (as ACT's) by an L1 loss. All images are held in memory as they are: a
thousand episodes of 80 rows and two cameras of 128x96 px are 6 GB. What a student may know are the images and the
columns of the role `state`; the drawer's place is not among them.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from mmap import mmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from flags import FlagError, exit_code, flag, parse, positional, required
from flags.collect import check_at_least_1, check_seed_and_device
from policies.visuomotor import StudentCfg, StudentNet, resized, save_student
from vpl.columns import Role
from vpl.files import read_json
from vpl.stats import succeeded
from vpl.usable_cores import usable_cores
from vpl_dataset import Episode, episode_folders, load_episode

STATE = ("joint_pos", "joint_vel")
"""Of the robot's state what helps (98 % with velocities, 88 % without: docs/LOG.md); any of the role `state` may be."""
LOG_EVERY = 25
EMA = 0.998
"""Of the weights: how much of them a step keeps."""
shared: list[Any] = []
"""Of a reading process: all images (R, C, H, W, 3), the student's cfg, its cameras' numbers, and the source."""


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """What can be told."""

    dataset: tuple[Path, ...] = positional("datasets; of several the episodes are put together")
    output: Path = required("new folder for the student", metavar="FOLDER")
    episodes: int | None = flag(None, "take this many of the demonstrations", default_says="all")
    iterations: int = flag(12000, "steps of the optimizer")
    batch: int = flag(512, "rows of a step")
    learning_rate: float = flag(5e-4, "at the start; falls to 0 as a cosine")
    horizon: int = flag(12, "joint targets of an answer")
    execute: int = flag(1, "how many of them are executed before it looks again")
    cameras: str = flag("", "names of the cameras to see with, such as wrist", default_says="all")
    height: int | None = flag(None, "resize images to this", unit="px", default_says="as recorded")
    width: int | None = flag(None, "resize images to this", unit="px", default_says="as recorded")
    state: str = flag(",".join(STATE), "columns of the robot's state to feel")
    source: str = flag("color", "read the lossless images, or the videos", choices=("color", "mp4"))
    shift_px: int = flag(4, "move images by up to this, at random", unit="px")
    tint: float = flag(0.2, "make each colour of an image brighter or darker by up to this share, at random")
    with_failures: bool = flag(False, "learn from episodes without success too, but not from those in failed/")
    save_every: int | None = flag(None, "keep the student every so many iterations", default_says="the last")
    seed: int = flag(0, "fixes the weights at the start and the order of rows")
    device: str = flag("cuda" if torch.cuda.is_available() else "cpu", "torch device", default_says="cuda or cpu")


@dataclass
class Demonstrations:
    """R rows of all episodes, one after the other."""

    images: Tensor
    """(R, C, H, W, 3) uint8."""
    state: Tensor
    """(R, P)."""
    target: Tensor
    """(R, J), rad and m."""
    last: Tensor
    """The last row of each row's episode, (R,) int64."""


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: train(parse(TrainFlags, argv, __doc__)))


def train(flags: TrainFlags) -> int:
    """Read, learn and save."""
    check_at_least_1(flags, "episodes", "iterations", "batch", "horizon", "execute", "save_every")
    check_seed_and_device(flags.seed, "mujoco", flags.device)
    if flags.execute > flags.horizon:
        raise FlagError(f"--execute {flags.execute} is above --horizon {flags.horizon}; give at most that")
    if flags.output.exists():
        raise FlagError(f"--output {flags.output} exists already; give a new folder")
    folders = choose(flags)
    with load_episode(folders[0]) as first:
        cfg = student_cfg(flags, first)
        names = first.camera_names
    cameras = [names.index(camera["name"]) for camera in cfg.cameras]
    start = time.monotonic()
    data = read(folders, cfg, cameras, flags.source)
    seconds = time.monotonic() - start
    count = len(data.images) * len(cameras)
    rate = f"{count} images in {seconds:.1f} s: {count / seconds:.0f} images/s"
    print(f"read        {len(folders)} episodes, {rate}", flush=True)
    flags.output.mkdir(parents=True)
    losses: list[tuple[int, float]] = []
    told = about(flags, folders)
    for iteration, loss, net in learn(data, cfg, flags):
        last = iteration == flags.iterations
        if last or iteration % LOG_EVERY == 0:
            losses.append((iteration, loss.item()))
        if last or (flags.save_every and iteration % flags.save_every == 0):
            path = flags.output / ("student.pt" if last else f"student_{iteration}.pt")
            seconds = round(time.monotonic() - start, 1)
            save_student(path, net, {**told, "iteration": iteration, "losses": losses, "seconds": seconds})
    print(f"loss        {losses[0][1]:.4f} to {losses[-1][1]:.4f}")
    print(f"done        {path} ({path.stat().st_size / 1e6:.1f} MB), {time.monotonic() - start:.0f} s")
    return 0


def choose(flags: TrainFlags) -> list[Path]:
    """The demonstrations to learn from.

    Raises:
        FlagError: there is none.
    """
    found = [folder for dataset in flags.dataset for folder in episode_folders(dataset)]
    chosen = [folder for folder in found if flags.with_failures or succeeded(folder, unlabelled=True)]
    if not chosen:
        raise FlagError(
            f"{', '.join(map(str, flags.dataset))}: no successful episode; give folders that hold episode_*"
        )
    cameras = [read_json(dataset / "metadata.json")["cameras"] for dataset in flags.dataset]
    if any(other != cameras[0] for other in cameras):
        raise FlagError(f"{', '.join(map(str, flags.dataset))} have different cameras; give datasets of the same ones")
    return chosen[: flags.episodes]


def student_cfg(flags: TrainFlags, first: Episode) -> StudentCfg:
    """What the student is, by the flags and by what the dataset has.

    Raises:
        FlagError: there is no such camera or column, or a column that a robot does not feel.
    """
    rows = read_json(first.folder.parent / "metadata.json")["cameras"]
    wanted = flags.cameras.split(",") if flags.cameras else first.camera_names
    if unknown := [name for name in wanted if name not in first.camera_names]:
        raise FlagError(
            f"--cameras {flags.cameras}: there is no {unknown[0]}; there are {', '.join(first.camera_names)}"
        )
    for name in flags.state.split(","):
        if name not in first.columns(Role.STATE):
            felt = ", ".join(first.columns(Role.STATE))
            raise FlagError(f"--state {flags.state}: {name} is not something that a robot feels; give some of {felt}")
    if (interval := first.attrs["video_interval"]) > 1:
        raise FlagError(f"{first.folder}: rows are {interval} control steps apart; a student needs each, collect anew")
    height, width = first["color"].shape[2:4]
    return StudentCfg(
        cameras=tuple(row for row in rows if row["name"] in wanted),
        height=flags.height or height,
        width=flags.width or width,
        state={name: int(np.prod(first[name].shape[1:])) for name in flags.state.split(",")},
        joints=first["joint_pos_target"].shape[1],
        horizon=flags.horizon,
        execute=flags.execute,
    )


def read(folders: list[Path], cfg: StudentCfg, cameras: list[int], source: str) -> Demonstrations:
    """All rows of the episodes, by some processes, to which the memory of the images is shared."""
    lengths = [length_of(folder) for folder in folders]
    ends = np.cumsum(lengths)
    shape = (int(ends[-1]), len(cameras), cfg.height, cfg.width, 3)
    images = np.frombuffer(mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
    torch.set_num_threads(1)  # of each process below
    with ProcessPoolExecutor(usable_cores(), get_context("fork"), share, (images, cfg, cameras, source)) as pool:
        rows = list(tqdm(pool.map(fill, folders, ends), total=len(folders), unit=" episodes", disable=None))
    torch.set_num_threads(usable_cores())
    state, target = (torch.from_numpy(np.concatenate(column)) for column in zip(*rows, strict=True))
    return Demonstrations(torch.from_numpy(images), state, target, torch.as_tensor(np.repeat(ends - 1, lengths)))


def share(*what: Any) -> None:
    """In a reading process: what `fill` takes and fills."""
    shared.extend(what)


def fill(folder: Path, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Put an episode's images where its rows end with `end`; returns its state (T, P) and target (T, J)."""
    all_images, cfg, cameras, source = shared
    with load_episode(folder) as episode:
        images = (episode.read_images() if source == "color" else episode.read_videos())[:, cameras]
        if images.shape[2:4] != (cfg.height, cfg.width):
            small = resized(torch.from_numpy(images), cfg.height, cfg.width)
            images = (small * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
        all_images[end - len(images) : end] = images
        state = [episode[name][:].reshape(len(images), -1) for name in cfg.state]
        return np.concatenate(state, axis=1), episode["joint_pos_target"][:]


def length_of(folder: Path) -> int:
    """Rows of an episode."""
    with load_episode(folder) as episode:
        return episode.attrs["num_frames"]


def learn(data: Demonstrations, cfg: StudentCfg, flags: TrainFlags) -> Iterator[tuple[int, Tensor, StudentNet]]:
    """After each iteration its number, its loss, and the student whose weights are the mean of the last ones."""
    torch.manual_seed(flags.seed)
    device = torch.device(flags.device)
    on_gpu = device.type == "cuda"
    torch.backends.cudnn.benchmark = True
    images, state, target, last = (part.to(device) for part in vars(data).values())
    net, mean = StudentNet(cfg), StudentNet(cfg).requires_grad_(False)
    for name, column in (("state", state), ("target", target)):
        getattr(net, f"{name}_mean").copy_(column.mean(dim=0))
        getattr(net, f"{name}_std").copy_(column.std(dim=0) + 1e-3)
    mean.load_state_dict(net.state_dict())
    net, mean = net.to(device), mean.to(device)
    run = torch.compile(net) if on_gpu else net  # 2.6 times as fast, after 25 s
    optimizer = torch.optim.AdamW(net.parameters(), flags.learning_rate, weight_decay=1e-4, fused=on_gpu)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, flags.iterations)
    ahead = torch.arange(cfg.horizon, device=device)
    for iteration in tqdm(range(1, flags.iterations + 1), unit=" steps", disable=None):
        rows = torch.randint(len(state), (flags.batch,), device=device)
        wanted = target[torch.minimum(rows[:, None] + ahead, last[rows][:, None])]
        color = augmented(images, rows, flags)
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            answer = run(color, state[rows])
        loss = ((answer.float() - wanted) / net.target_std).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            keep = min(EMA, iteration / (iteration + 10))
            torch._foreach_lerp_(list(mean.parameters()), list(net.parameters()), 1 - keep)
        yield iteration, loss.detach(), mean


def augmented(images: Tensor, rows: Tensor, flags: TrainFlags) -> Tensor:
    """Of images (R, C, H, W, 3) uint8 `rows` (B,), moved and coloured at random: (B, C, 3, H, W) from 0 to 1."""
    _, cameras, height, width, _ = images.shape
    device, batch = images.device, len(rows)
    dy, dx = torch.randint(-flags.shift_px, flags.shift_px + 1, (2, batch, 1), device=device)
    y = (dy + torch.arange(height, device=device)).clamp(0, height - 1)
    x = (dx + torch.arange(width, device=device)).clamp(0, width - 1)
    camera = torch.arange(cameras, device=device)[None, :, None, None]
    moved = images[rows[:, None, None, None], camera, y[:, None, :, None], x[:, None, None, :]]
    gain = 1 + flags.tint * (2 * torch.rand(batch, cameras, 1, 1, 3, device=device) - 1)
    return (moved * (gain / 255)).clamp(0, 1).permute(0, 1, 4, 2, 3)


def about(flags: TrainFlags, folders: list[Path]) -> dict:
    """What a student's checkpoint says of what it was trained on; JSON types."""
    seeds = set()
    for folder in folders:
        with load_episode(folder) as episode:
            seeds.add(episode.attrs["seed"])
    told = json.loads(json.dumps(asdict(flags), default=str))
    return {"seeds": sorted(seeds), "episodes": len(folders), "flags": told}


if __name__ == "__main__":
    sys.exit(main())
