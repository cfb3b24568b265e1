"""Reads a VPL dataset; vpl_saver.py says what is in it.

python vpl_dataset.py info data/Isaac-Open-Drawer-Franka-v0_sim_franka_20261123_112233

with load_episode("data/.../episode_000") as episode:
    image, action = episode["color"][t, 0], episode["action"][t]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import webbrowser
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from vpl.checks import validate
from vpl.episode import all_episode_folders, final_value, without_damaged
from vpl.files import check_outside, exit_on_stop_signals, published, run
from vpl.merge import merge
from vpl.reader import Episode, episode_folders, iter_episodes, load_episode
from vpl.report import serve, write_report
from vpl.stats import column_stats, image_stats, print_stats, split, split_folders, unlisted

__all__ = ["Episode", "episode_folders", "iter_episodes", "load_episode", "validate"]
"""What programs that read a dataset import."""


def info(folders: list[Path]) -> None:
    """Print a row for each episode, and the totals."""
    print(f"{'episode':<14}{'frames':>7}{'seconds':>9}{'success':>9}{'measured':>10}{'size':>10}")
    frames, successes, seconds, size = 0, [], 0.0, 0
    for folder in folders:
        with load_episode(folder) as episode:
            attrs, folder_size = episode.attrs, own_bytes(episode)
            metric = attrs.get("success_metric")
            unit = episode.declared[metric].unit if metric else ""
            measured = f"{final_value(episode.h5, metric):.3f} {unit}" if metric else "-"
            last = attrs | {"shape": episode["color"].shape, "cameras": ", ".join(episode.camera_names)}
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
    print(f"cameras {last['cameras']} at {width}x{height}, {last['fps']:g} frames/s")


def own_bytes(episode: Episode) -> int:
    """Size of the episode's own files; others may lie in its folder."""
    videos = [episode.video(camera) for camera in range(len(episode.camera_names))]
    return sum(file.stat().st_size for file in (Path(episode.h5.filename), *videos) if file.exists())


def main(argv: list[str] | None = None) -> int:
    try:
        args = parse_args(argv)
        return COMMANDS[args.command](args)
    except KeyboardInterrupt:
        return 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyError as error:
        what = f"{error.args[0]}; vpl_dataset.py validate says which"
        print(f"error: an episode of {args.dataset} is not whole: {what}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def run_info(args: argparse.Namespace) -> int:
    found = episode_folders(args.dataset)
    if whole := without_damaged(found):
        info(whole)
    else:
        print(f"0 episodes; {len(all_episode_folders(args.dataset)) - len(found)} in failed/")
    return int(len(whole) < len(found))


def run_validate(args: argparse.Namespace) -> int:
    problems = validate(args.dataset)
    if args.json:
        print(json.dumps([asdict(problem) for problem in problems], indent=1))
    else:
        lines = [str(problem) for problem in problems]
        print("\n".join(lines) or f"{len(all_episode_folders(args.dataset))} episodes, no problems")
    return 1 if problems else 0


def run_view(args: argparse.Namespace) -> int:
    """Write the report, and show it where the flags say."""
    found = all_episode_folders(args.dataset)
    whole = without_damaged(found)
    if found and not whole:
        return 1
    report = write_report(args.dataset, whole, args.output or args.dataset / "report.html")
    print(f"{report} ({report.stat().st_size / 1e6:.1f} MB)", flush=True)
    if args.open:
        webbrowser.open(report.resolve().as_uri())
    if args.port is not None:
        with suppress(KeyboardInterrupt):  # it is how to end it
            serve(report, whole, args.host, args.port)
    return int(len(whole) < len(found))


def run_stats(args: argparse.Namespace) -> int:
    found = split_folders(args.dataset, args.split, args.splits)
    folders = without_damaged(found)
    if not folders:
        return 1
    if args.split is None and args.splits.is_file():
        print("note: of all episodes, also of those to validate on; normalize with --split train", file=sys.stderr)
    if args.split is not None and (missing := unlisted(args.dataset, args.splits)):
        count = f"{len(missing)} of {len(episode_folders(args.dataset))}"
        print(
            f"note: {count} episodes are in no list of {args.splits.name}, the first is {missing[0].name}",
            file=sys.stderr,
        )
    columns, images = column_stats(folders), image_stats(folders)
    if args.json:
        print(json.dumps({"split": args.split, "columns": columns, "cameras": images}, indent=1))
    else:
        print_stats(columns, images)
    return int(len(folders) < len(found))


def run_split(args: argparse.Namespace) -> int:
    found = episode_folders(args.dataset)
    whole = without_damaged(found)
    lists = split(whole, args.val, args.seed, args.only_success)
    with published(args.output) as path:
        path.write_text(json.dumps(lists, indent=1))
    print(f"{args.output}: {len(lists['train'])} episodes to train, {len(lists['val'])} to validate")
    return int(len(whole) < len(found))


def run_merge(args: argparse.Namespace) -> int:
    exit_on_stop_signals()
    print(f"{args.output}: {merge(args.dataset, args.output, args.copy)} episodes of {len(args.dataset)} datasets")
    if any((dataset / "splits.json").exists() for dataset in args.dataset):
        print(f"lists of splits.json were not taken over; vpl_dataset.py split {args.output} draws new ones")
    return 0


COMMANDS = {
    "info": run_info, "validate": run_validate, "view": run_view, "stats": run_stats, "split": run_split,
    "merge": run_merge,
}  # fmt: skip


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=raw, allow_abbrev=False, usage=argparse.SUPPRESS
    )
    commands = parser.add_subparsers(dest="command", required=True)
    flags = {}
    for name, purpose in (
        ("info", "a table by episode and the totals"),
        ("validate", "check every episode; exit code 1 if something is wrong"),
        ("view", "write report.html into the dataset: videos, curves and the tool's way, offline"),
        ("stats", "mean, std, range and quantiles of each column, and of the cameras' pixels"),
        ("split", "write splits.json into the dataset: lists of episodes to train and to validate on"),
        ("merge", "make one dataset of several"),
    ):
        command = commands.add_parser(name, help=purpose, allow_abbrev=False, usage=argparse.SUPPRESS)
        many = "+" if name == "merge" else None
        command.add_argument("dataset", type=Path, nargs=many, help="folder that holds episode_*")
        flags[name] = command.add_argument
    flags["validate"]("--json", action="store_true", help="print the problems as JSON")
    flags["view"]("--open", action="store_true", help="open it in this machine's browser")
    flags["view"]("--output", type=Path, metavar="PAGE", help="where to write it [DATASET/report.html]")
    flags["view"]("--port", type=int, help="serve page and videos to browsers of this machine")
    flags["view"]("--host", default="127.0.0.1", help="address to serve on; 0.0.0.0: to other machines too [127.0.0.1]")
    flags["stats"]("--split", help="of the episodes in this list: train or val")
    flags["stats"]("--splits", type=Path, metavar="FILE", help="the file of lists [DATASET/splits.json]")
    flags["stats"]("--json", action="store_true", help="print them as JSON, with the columns' names and meanings")
    flags["split"]("--val", type=float, default=0.1, help="share of the episodes to validate on [0.1]")
    flags["split"]("--seed", type=int, default=0, help="fixes which [0]")
    flags["split"]("--only_success", action="store_true", help="leave out episodes without success")
    flags["split"]("--output", type=Path, metavar="FILE", help="where to write the lists [DATASET/splits.json]")
    flags["merge"]("--output", type=Path, required=True, help="the new dataset's folder")
    flags["merge"]("--copy", action="store_true", help="copy the videos instead of linking them")
    args = parser.parse_args(argv)
    if args.command == "split":
        args.output = args.output or args.dataset / "splits.json"
    if args.command == "stats":
        args.splits = args.splits or args.dataset / "splits.json"
    _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.command == "view" and args.port is not None and not 0 <= args.port <= 65535:
        parser.error(f"--port must be from 0 to 65535, got {args.port}")
    if args.command == "split":
        if not 0 < args.val < 1:
            parser.error(f"--val must be above 0 and below 1, got {args.val}")
        if args.seed < 0:
            parser.error(f"--seed must be at least 0, got {args.seed}")
        if os.path.lexists(args.output):
            parser.error(f"{args.output} exists already; move it to draw another split")
    if args.command == "merge" and os.path.lexists(args.output):
        parser.error(f"--output {args.output} exists already; give a new folder")
    for dataset in args.dataset if args.command == "merge" else [args.dataset]:
        if not (dataset / "metadata.json").is_file() and not episode_folders(dataset):
            parser.error(f"{dataset} holds no episode_* folder; give the folder that the collector named")
        if args.command == "merge" and not ((dataset / "metadata.json").is_file() and all_episode_folders(dataset)):
            parser.error(f"{dataset} holds no metadata.json or no episode; merge takes datasets of this project")
    if args.command == "merge":
        check_outside(args.output, args.dataset)


if __name__ == "__main__":
    run(main)
