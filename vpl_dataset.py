"""Reads a VPL dataset; vpl_saver.py says what is in it.

python vpl_dataset.py info data/Isaac-Open-Drawer-Franka-v0_sim_franka_20261123_112233

with load_episode("data/.../episode_000") as episode:
    image, action = episode["color"][t, 0], episode["action"][t]
"""

from __future__ import annotations

import argparse
import json
import sys
import webbrowser
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py

from vpl_episode import all_episode_folders
from vpl_validate import validate


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
    """Open one episode after the other; each is closed when the next is taken, or the iterator is gone."""
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


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.command == "validate":
        problems = validate(args.dataset)
        if args.json:
            print(json.dumps([asdict(problem) for problem in problems], indent=1))
        else:
            lines = [str(problem) for problem in problems]
            print("\n".join(lines) or f"{len(all_episode_folders(args.dataset))} episodes, no problems")
        return 1 if problems else 0
    if args.command == "view":
        return view(args)
    if not episode_folders(args.dataset):
        print(f"0 episodes; {len(list(args.dataset.glob('failed/episode_*')))} in failed/")
        return 0
    info(args.dataset)
    return 0


def view(args: argparse.Namespace) -> int:
    """Write the report, and show it where the flags say."""
    from vpl_report import serve, write_report  # it imports this module

    try:
        report = write_report(args.dataset)
        print(f"{report} ({report.stat().st_size / 1e6:.1f} MB)", flush=True)
        if args.open:
            webbrowser.open(report.resolve().as_uri())
        if args.port is not None:
            serve(report, args.port)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(f"error: {error}; give another --port or a folder that can be written", file=sys.stderr)
        return 1
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=raw, allow_abbrev=False, usage=argparse.SUPPRESS
    )
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {}
    for name, purpose in (
        ("info", "a table by episode and the totals"),
        ("validate", "check every episode; exit code 1 if something is wrong"),
        ("view", "write report.html into the dataset: videos, curves and the tool's way, offline"),
    ):
        parsers[name] = commands.add_parser(name, help=purpose, allow_abbrev=False, usage=argparse.SUPPRESS)
        parsers[name].add_argument("dataset", type=Path, help="folder that holds episode_*")
    parsers["validate"].add_argument("--json", action="store_true", help="print the problems as JSON")
    parsers["view"].add_argument("--open", action="store_true", help="open it in this machine's browser")
    parsers["view"].add_argument("--port", type=int, help="serve it to browsers on other machines")
    args = parser.parse_args(argv)
    if args.command == "view" and args.port is not None and not 0 <= args.port <= 65535:
        parser.error(f"--port must be from 0 to 65535, got {args.port}")
    if not (args.dataset / "metadata.json").is_file() and not episode_folders(args.dataset):
        parser.error(f"{args.dataset} holds no episode_* folder; give the folder that the collector named")
    return args


if __name__ == "__main__":
    sys.exit(main())
