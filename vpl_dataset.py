"""Reads a VPL dataset; vpl_saver.py says what is in it.

python vpl_dataset.py info data/Isaac-Open-Drawer-Franka-v0_sim_franka_20261123_112233

with load_episode("data/.../episode_000") as episode:
    image, action = episode["color"][t, 0], episode["action"][t]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np

from vpl_episode import (
    ATTRIBUTES,
    FORMAT_VERSION,
    OPTIONAL,
    SCHEMA,
    SUCCESS_ATTRIBUTES,
    all_episode_folders,
    final_metric,
    read_row,
)

LEAST_PSNR_DB = 25.0
"""Of a video frame against its row; x264 at crf 18 gives 35 to 45."""


@dataclass(frozen=True)
class Episode:
    """One episode, read lazily: `episode["color"][t, c]` reads one frame of one camera."""

    folder: Path
    h5: h5py.File

    def __getitem__(self, name: str) -> h5py.Dataset:
        """The dataset `name` of vpl_saver.SCHEMA; slice it to get an array."""
        return self.h5[name]

    @property
    def attrs(self) -> dict[str, Any]:
        """The file's attributes, as Python values."""
        return {key: value.item() if hasattr(value, "item") else value for key, value in self.h5.attrs.items()}

    @property
    def camera_names(self) -> list[str]:
        """In the order of `color`'s second axis."""
        return list(self.h5["color"].attrs["names"])

    def video(self, camera: int) -> Path:
        """The MP4 of camera number `camera`."""
        return self.folder / f"camera_{camera}" / f"{self.folder.name}.mp4"

    def __enter__(self) -> Episode:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.h5.close()


def load_episode(folder: str | Path) -> Episode:
    """Open the episode in `folder` (`.../episode_007`).

    Raises:
        FileNotFoundError: there is no such episode.
    """
    folder = Path(folder)
    return Episode(folder, h5py.File(folder / f"{folder.name}.h5", "r"))


def episode_folders(dataset: str | Path) -> list[Path]:
    """The whole episodes of a dataset by index, without those in failed/."""
    return sorted(Path(dataset).glob("episode_*"), key=lambda folder: int(folder.name.split("_")[1]))


def iter_episodes(dataset: str | Path) -> Iterator[Episode]:
    """Open one episode after the other."""
    for folder in episode_folders(dataset):
        with load_episode(folder) as episode:
            yield episode


def info(dataset: Path) -> None:
    """Print a row an episode and the totals."""
    print(f"{'episode':<14}{'frames':>7}{'seconds':>9}{'success':>9}{'drawer':>9}{'size':>10}")
    frames, successes, seconds, size = 0, [], 0.0, 0
    for episode in iter_episodes(dataset):
        attrs, folder_size = episode.attrs, sum(f.stat().st_size for f in episode.folder.rglob("*") if f.is_file())
        duration = attrs["num_frames"] * attrs["step_dt"] * attrs["video_interval"]
        success = {True: "yes", False: "no", None: "-"}[attrs.get("success")]
        drawer = f"{episode['drawer_pos'][-1]:.3f} m" if "drawer_pos" in episode.h5 else "-"
        print(
            f"{episode.folder.name:<14}{attrs['num_frames']:>7}{duration:>9.2f}{success:>9}{drawer:>9}"
            f"{folder_size / 1e6:>7.1f} MB"
        )
        frames, seconds, size = frames + attrs["num_frames"], seconds + duration, size + folder_size
        successes += [attrs["success"]] if "success" in attrs else []
        last = attrs | {"shape": episode["color"].shape, "cameras": ", ".join(episode.camera_names)}
    count = len(episode_folders(dataset))
    height, width = last["shape"][2:4]
    rate = f", {sum(successes)} successful ({sum(successes) / count:.1%})" if successes else ""
    print(f"\n{count} episodes{rate}; {frames} rows, {seconds:.0f} s, ", end="")
    print(f"{size / 1e6:.0f} MB; {last['task']} on {last['simulator']}")
    print(f"cameras {last['cameras']} at {width}x{height}, {last['fps']:g} frames/s")


def validate(dataset: Path) -> list[str]:
    """Check every episode against the format, its videos and metadata.json; returns what is wrong, a line each."""
    folders = all_episode_folders(dataset)
    problems = [f"{f.relative_to(dataset)}: {problem}" for f in folders for problem in validate_episode(f)]
    return problems + _metadata(dataset, folders)


def validate_episode(folder: Path) -> list[str]:
    """Check one episode against the format and its videos; returns what is wrong, a line each."""
    if not (folder / f"{folder.name}.h5").is_file():
        return [f"has no {folder.name}.h5"]
    with load_episode(folder) as episode:
        return [*_columns(episode), *_labels(episode), *_success(episode)] or [*_videos(episode)]


def _columns(episode: Episode) -> Iterator[str]:
    """Every column is there, as long, wide and finite as the others and SCHEMA say."""
    sizes: dict[str, int] = {"T": int(episode.attrs.get("num_frames", -1))}
    for name, column in SCHEMA.items():
        if name not in episode.h5:
            if name not in OPTIONAL or name == episode.attrs.get("success_metric"):
                yield f"{name} is missing"
            continue
        data = episode[name]
        if data.dtype != column.dtype or data.ndim != len(column.shape):
            yield f"{name} is {data.ndim}-dimensional {data.dtype}, not {column.shape} {column.dtype}"
            continue
        pairs = zip(column.shape, data.shape, strict=True)
        expected = tuple(sizes.setdefault(size, n) if isinstance(size, str) else size for size, n in pairs)
        if data.shape != expected:
            yield f"{name} has the shape {data.shape}, expected {expected}"
        elif data.dtype.kind == "f" and not np.isfinite(data[:]).all():
            yield f"{name} holds NaN or infinity in row {np.argwhere(~np.isfinite(data[:]))[0][0]}"
    if "color" in episode.h5 and episode["color"].id.get_num_chunks() != np.prod(episode["color"].shape[:2]):
        yield f"color lacks images: {episode['color'].id.get_num_chunks()} are stored"


def _labels(episode: Episode) -> Iterator[str]:
    """Attributes are complete and agree with the columns."""
    attrs = episode.attrs
    if missing := [name for name in ATTRIBUTES if name not in attrs]:
        yield f"attributes {', '.join(missing)} are missing"
    elif attrs["format_version"] != FORMAT_VERSION:
        yield f"format version {attrs['format_version']}, this program reads {FORMAT_VERSION}"
    if "timestamps" in episode.h5 and (np.diff(episode["timestamps"][:]) <= 0).any():
        yield "timestamps do not increase"


def _success(episode: Episode) -> Iterator[str]:
    """The label is what the metric's column says, or both are absent."""
    attrs, present = episode.attrs, [name for name in SUCCESS_ATTRIBUTES if name in episode.attrs]
    if not present and "drawer_pos" not in episode.h5:
        return  # this task has no measure of success
    if missing := set(SUCCESS_ATTRIBUTES) - set(present):
        yield f"attributes {', '.join(sorted(missing))} are missing"
    elif attrs["success_metric"] in episode.h5:
        metric = final_metric(episode.h5, attrs["success_metric"])
        if attrs["success"] != (metric >= attrs["success_threshold"]):
            yield f"success is {attrs['success']} but {attrs['success_metric']} ends at {metric:.3f}"


def _videos(episode: Episode) -> Iterator[str]:
    """Each camera's video has the frames of `color`, but for its lossy compression."""
    frames, cameras, height, width = episode["color"].shape[:4]
    for camera in range(cameras):
        path = episode.video(camera)
        if not path.is_file():
            yield f"{path.relative_to(episode.folder)} is missing"
            continue
        try:
            with av.open(str(path)) as container:
                images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        except av.FFmpegError as error:
            yield f"{path.relative_to(episode.folder)} cannot be decoded: {error.strerror}"
            continue
        if len(images) != frames or images[0].shape != (height, width, 3):
            shape = images[0].shape[:2] if images else "no"
            yield f"camera_{camera} has {len(images)} frames of {shape}, color {frames} of {(height, width)}"
            continue
        for row in {0, frames // 2, frames - 1}:
            difference = images[row].astype(np.float32) - episode["color"][row, camera]
            if 10 * np.log10(255**2 / max(np.mean(difference**2), 1e-9)) < LEAST_PSNR_DB:
                yield f"camera_{camera} differs from color in row {row}"


def _metadata(dataset: Path, folders: list[Path]) -> list[str]:
    """metadata.json lists exactly the episodes on disk, as their files say."""
    path = dataset / "metadata.json"
    if not path.is_file():
        return ["metadata.json is missing"]
    listed = {row["path"]: row for row in json.loads(path.read_text())["episodes"]}
    problems = []
    for folder in folders:
        name = str(folder.relative_to(dataset))
        row = listed.pop(name, None)
        if row is None:
            problems.append(f"{name}: is not in metadata.json")
        elif (folder / f"{folder.name}.h5").is_file() and row != read_row(folder, dataset):
            problems.append(f"{name}: metadata.json says something else than its HDF5")
    return problems + [f"{name}: is in metadata.json and not on disk" for name in listed]


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.command == "validate":
        problems = validate(args.dataset)
        print("\n".join(problems) or f"{len(all_episode_folders(args.dataset))} episodes, no problems")
        return 1 if problems else 0
    if not episode_folders(args.dataset):
        print(f"0 episodes; {len(list(args.dataset.glob('failed/episode_*')))} in failed/")
        return 0
    info(args.dataset)
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=raw, allow_abbrev=False, usage=argparse.SUPPRESS
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (
        ("info", "a table by episode and the totals"),
        ("validate", "check every episode; exit code 1 if something is wrong"),
    ):
        command = commands.add_parser(name, help=purpose, allow_abbrev=False, usage=argparse.SUPPRESS)
        command.add_argument("dataset", type=Path, help="folder that holds episode_*")
    args = parser.parse_args(argv)
    if not (args.dataset / "metadata.json").is_file() and not episode_folders(args.dataset):
        parser.error(f"{args.dataset} holds no episode_* folder; give the folder that the collector named")
    return args


if __name__ == "__main__":
    sys.exit(main())
