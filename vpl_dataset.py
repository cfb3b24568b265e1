"""Reads a VPL dataset; vpl_saver.py says what is in it.

Example:
    python vpl_dataset.py info vpl_tiled/Isaac-Open-Drawer-Franka-v0_sim_franka_20261123_112233

    with load_episode("vpl_tiled/.../episode_000") as episode:
        image, action = episode["color"][t, 0], episode["action"][t]
"""

from __future__ import annotations

import json
import os
import sys
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flags import FlagError, as_flag_error, exit_code, flag, parse_command, positional, required
from vpl.checks import validate
from vpl.files import check_outside, exit_on_stop_signals, published, read_json, run
from vpl.index import index
from vpl.listing import all_episode_folders, final_value, without_damaged
from vpl.merge import merge
from vpl.reader import Episode, episode_folders, iter_episodes, load_episode
from vpl.report import serve, write_report
from vpl.stats import column_stats, image_stats, print_stats, split, split_folders, unlisted, variation_stats
from vpl.variation import variation_of

__all__ = ["Episode", "episode_folders", "iter_episodes", "load_episode", "validate"]
"""What programs that read a dataset import."""


MANY = 2000
"""Episodes, of which `info` prints the totals only."""


@dataclass(frozen=True, kw_only=True)
class DatasetFlags:
    """What every command but merge is given."""

    dataset: Path = positional("folder that holds episode_*")


@dataclass(frozen=True, kw_only=True)
class InfoFlags(DatasetFlags):
    """Of `info`."""

    all: bool = flag(False, "open every episode, however many there are")


@dataclass(frozen=True, kw_only=True)
class ValidateFlags(DatasetFlags):
    """Of `validate`."""

    json: bool = flag(False, "print the problems as JSON")
    sample: int | None = flag(None, "check this many episodes and the list of all", default_says="all")


@dataclass(frozen=True, kw_only=True)
class ViewFlags(DatasetFlags):
    """Of `view`."""

    open: bool = flag(False, "open it in this machine's browser")
    output: Path | None = flag(None, "where to write it", metavar="PAGE", default_says="DATASET/report.html")
    port: int | None = flag(None, "serve page and videos to browsers of this machine")
    host: str = flag("127.0.0.1", "address to serve on; 0.0.0.0: to other machines too")


@dataclass(frozen=True, kw_only=True)
class StatsFlags(DatasetFlags):
    """Of `stats`."""

    split: str | None = flag(None, "of the episodes in this list: train or val")
    splits: Path | None = flag(None, "the file of lists", metavar="FILE", default_says="DATASET/splits.json")
    json: bool = flag(False, "print them as JSON, with the columns' names and meanings")


@dataclass(frozen=True, kw_only=True)
class SplitFlags(DatasetFlags):
    """Of `split`."""

    val: float = flag(0.1, "share of the episodes to validate on")
    seed: int = flag(0, "fixes which")
    only_success: bool = flag(False, "leave out episodes without success")
    output: Path | None = flag(None, "where to write the lists", metavar="FILE", default_says="DATASET/splits.json")


@dataclass(frozen=True, kw_only=True)
class MergeFlags:
    """Of `merge`."""

    dataset: tuple[Path, ...] = positional("folders that hold episode_*")
    output: Path = required("the new dataset's folder", metavar="FOLDER")
    copy: bool = flag(False, "copy the files instead of linking them")


@dataclass(frozen=True, kw_only=True)
class IndexFlags(DatasetFlags):
    """Of `index`."""


def info(folders: list[Path]) -> None:
    """Print a row for each episode, and the totals."""
    print(f"{'episode':<14}{'frames':>7}{'seconds':>9}{'success':>9}{'measured':>10}{'size':>10}")
    frames, successes, seconds, size = 0, [], 0.0, 0
    kinds: set[str] = set()
    for folder in folders:
        with load_episode(folder) as episode:
            attrs, folder_size = episode.attrs, own_bytes(episode)
            metric = attrs.get("success_metric")
            unit = episode.declared[metric].unit if metric else ""
            measured = f"{final_value(episode.h5, metric):.3f} {unit}" if metric else "-"
            kinds |= variation_of(episode.h5).keys()
            last = attrs | {"shape": episode["color"].shape, "cameras": ", ".join(episode.camera_names)}
            last["streams"] = ", ".join(episode.streams)
        duration = attrs["num_frames"] * attrs["step_dt"] * attrs["video_interval"]
        success = {True: "yes", False: "no", None: "-"}[attrs.get("success")]
        print(
            f"{folder.name:<14}{attrs['num_frames']:>7}{duration:>9.2f}{success:>9}{measured:>10}"
            f"{folder_size / 1e6:>7.1f} MB"
        )
        frames, seconds, size = frames + attrs["num_frames"], seconds + duration, size + folder_size
        successes += [attrs["success"]] if "success" in attrs else []
    height, width = last["shape"][2:4]
    rate = f", {sum(successes)} successful ({sum(successes) / len(successes):.1%})" if successes else ""
    print(f"\n{len(folders)} episodes{rate}; {frames} rows, {seconds:.0f} s, ", end="")
    print(f"{size / 1e6:.0f} MB; {last['task']} on {last['simulator']}")
    if metric:
        most = "at most" if last.get("success_comparison") == "<=" else "at least"
        print(f"success is {metric} of {most} {last['success_threshold']:g} {unit} at the end")
    print(f"cameras {last['cameras']} at {width}x{height}, {last['fps']:g} frames/s; {last['streams']}")
    print(f"varies  {', '.join(sorted(kinds)) or 'nothing but the start'}")


def own_bytes(episode: Episode) -> int:
    """Size of the episode's own files; others may lie in its folder."""
    videos = [episode.video(camera) for camera in range(len(episode.camera_names))]
    files = {Path(episode.h5.filename), Path(episode["color"].file.filename), *videos}
    return sum(file.stat().st_size for file in files if file.exists())


def splits_of(dataset: Path) -> Path:
    """Where the lists of a dataset are unless they are told to be elsewhere."""
    return dataset / "splits.json"


def main(argv: list[str] | None = None) -> int:
    command, flags = parse_command({name: entry[:2] for name, entry in COMMANDS.items()}, argv, __doc__)

    def work() -> int:
        with as_flag_error(ValueError):
            check(flags)
            return COMMANDS[command][2](flags)

    return exit_code(work, KeyError, OSError)


def info_of_many(dataset: Path, rows: list[dict[str, Any]]) -> None:
    """Print the totals of what metadata.json lists, and what its first episode says of all."""
    frames, successes = sum(row["num_frames"] for row in rows), sum(row.get("success", False) for row in rows)
    with load_episode(dataset / rows[0]["path"]) as first:
        attrs, (height, width) = first.attrs, first["color"].shape[2:4]
        rate = f", {successes} successful ({successes / len(rows):.1%})" if "success" in rows[0] else ""
        seconds = frames * attrs["step_dt"] * attrs["video_interval"]
        print(f"{len(rows)} episodes{rate}; {frames} rows, {seconds:.0f} s; {attrs['task']} on {attrs['simulator']}")
        print(f"cameras {', '.join(first.camera_names)} at {width}x{height}, {attrs['fps']:g} frames/s")
    print(f"as metadata.json lists them, since there are more than {MANY}; --all opens each and prints a row")


def run_info(flags: InfoFlags) -> int:
    path = flags.dataset / "metadata.json"
    if not flags.all and path.is_file() and len(rows := read_json(path).get("episodes", [])) > MANY:
        info_of_many(flags.dataset, rows)
        return 0
    found = episode_folders(flags.dataset)
    if whole := without_damaged(found):
        info(whole)
    else:
        print(f"0 episodes; {len(all_episode_folders(flags.dataset)) - len(found)} in failed/")
    return int(len(whole) < len(found))


def run_validate(flags: ValidateFlags) -> int:
    problems = validate(flags.dataset, flags.sample)
    if flags.json:
        print(json.dumps([asdict(problem) for problem in problems], indent=1))
    else:
        lines = [str(problem) for problem in problems]
        checked = "" if flags.sample is None else f"{flags.sample} of "
        print("\n".join(lines) or f"{checked}{len(all_episode_folders(flags.dataset))} episodes, no problems")
    return 1 if problems else 0


def run_view(flags: ViewFlags) -> int:
    """Write the report, and show it where the flags say."""
    found = all_episode_folders(flags.dataset)
    whole = without_damaged(found)
    if found and not whole:
        return 1
    report = write_report(flags.dataset, whole, flags.output or flags.dataset / "report.html")
    print(f"{report} ({report.stat().st_size / 1e6:.1f} MB)", flush=True)
    if flags.open:
        webbrowser.open(report.resolve().as_uri())
    if flags.port is not None:
        with suppress(KeyboardInterrupt):  # it is how to end it
            serve(report, whole, flags.host, flags.port)
    return int(len(whole) < len(found))


def run_stats(flags: StatsFlags) -> int:
    splits = flags.splits or splits_of(flags.dataset)
    found = split_folders(flags.dataset, flags.split, splits)
    folders = without_damaged(found)
    if not folders:
        return 1
    if flags.split is None and splits.is_file():
        print("note: of all episodes, also of those to validate on; normalize with --split train", file=sys.stderr)
    if flags.split is not None and (missing := unlisted(flags.dataset, splits)):
        count = f"{len(missing)} of {len(episode_folders(flags.dataset))}"
        print(
            f"note: {count} episodes are in no list of {splits.name}, the first is {missing[0].name}",
            file=sys.stderr,
        )
    columns, images, drawn = column_stats(folders), image_stats(folders), variation_stats(folders)
    if flags.json:
        print(json.dumps({"split": flags.split, "columns": columns, "cameras": images, "variation": drawn}, indent=1))
    else:
        print_stats(columns, images, drawn)
    return int(len(folders) < len(found))


def run_split(flags: SplitFlags) -> int:
    found = episode_folders(flags.dataset)
    whole = without_damaged(found)
    lists = split(whole, flags.val, flags.seed, flags.only_success)
    output = flags.output or splits_of(flags.dataset)
    with published(output) as path:
        path.write_text(json.dumps(lists, indent=1))
    print(f"{output}: {len(lists['train'])} episodes to train, {len(lists['val'])} to validate")
    return int(len(whole) < len(found))


def run_merge(flags: MergeFlags) -> int:
    exit_on_stop_signals()
    episodes = merge(list(flags.dataset), flags.output, flags.copy)
    print(f"{flags.output}: {episodes} episodes of {len(flags.dataset)} datasets")
    if any((dataset / "splits.json").exists() for dataset in flags.dataset):
        print(f"lists of splits.json were not taken over; vpl_dataset.py split {flags.output} draws new ones")
    return 0


def run_index(flags: IndexFlags) -> int:
    """Make metadata.json anew from the episodes."""
    rows = index(flags.dataset)
    print(f"{flags.dataset / 'metadata.json'}: {rows} episodes")
    return 0


COMMANDS: dict[str, tuple[type, str, Callable[..., int]]] = {
    "info": (InfoFlags, "a table by episode and the totals", run_info),
    "validate": (ValidateFlags, "check every episode; exit code 1 if something is wrong", run_validate),
    "view": (ViewFlags, "write report.html into the dataset: videos, curves and the tool's way, offline", run_view),
    "stats": (StatsFlags, "mean, std, range and quantiles of each column, and of the cameras' pixels", run_stats),
    "split": (SplitFlags, "write splits.json into the dataset: episodes to train and to validate on", run_split),
    "merge": (MergeFlags, "make one dataset of several", run_merge),
    "index": (IndexFlags, "make metadata.json anew from the episodes' files", run_index),
}
"""By name: flags, purpose, and what does it."""


def check(flags: Any) -> None:
    """Refuse what cannot be.

    Raises:
        FlagError: there is such a flag.
    """
    if isinstance(flags, ValidateFlags) and flags.sample is not None and flags.sample < 1:
        raise FlagError(f"--sample must be at least 1, got {flags.sample}")
    if isinstance(flags, ViewFlags) and flags.port is not None and not 0 <= flags.port <= 65535:
        raise FlagError(f"--port must be from 0 to 65535, got {flags.port}")
    if isinstance(flags, SplitFlags):
        if not 0 < flags.val < 1:
            raise FlagError(f"--val must be above 0 and below 1, got {flags.val}")
        if flags.seed < 0:
            raise FlagError(f"--seed must be at least 0, got {flags.seed}")
        if os.path.lexists(flags.output or splits_of(flags.dataset)):
            raise FlagError(f"{flags.output or splits_of(flags.dataset)} exists already; move it to draw another split")
    if isinstance(flags, MergeFlags):
        _check_merge(flags)
    elif not (flags.dataset / "metadata.json").is_file() and not episode_folders(flags.dataset):
        raise FlagError(f"{flags.dataset} holds no episode_* folder; give the folder that the collector named")


def _check_merge(flags: MergeFlags) -> None:
    if os.path.lexists(flags.output):
        raise FlagError(f"--output {flags.output} exists already; give a new folder")
    for dataset in flags.dataset:
        if not ((dataset / "metadata.json").is_file() and all_episode_folders(dataset)):
            raise FlagError(f"{dataset} holds no metadata.json or no episode; merge takes datasets of this project")
    check_outside(flags.output, flags.dataset)


if __name__ == "__main__":
    run(main)
