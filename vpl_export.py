"""Writes a dataset in the format of another library's loader; the lossless images or the MP4s go over as they are.

    python vpl_export.py lerobot vpl_tiled/NAME --output out/drawer           LeRobotDataset v3; lerobot 0.4.4 or 0.6.1
    python vpl_export.py robomimic vpl_tiled/NAME --output out/drawer.hdf5    robomimic's HDF5
    python vpl_export.py act vpl_tiled/NAME --output out/drawer_act           ACT's episode_0.hdf5, episode_1.hdf5, ...
    python vpl_export.py zarr vpl_tiled/NAME --output out/drawer.zarr         diffusion policy's buffer; needs zarr 3

Actions are the drives' joint targets (rad, m), absolute; `--action action` takes the policy's raw output instead. What
columns mean, their names, units, frames and orders, and the cameras' calibration go into each export as `vpl`: a key of
LeRobot's meta/info.json, else an attribute (JSON in HDF5). What the robot itself feels goes along; what only a
simulator knows goes along with `--privileged`. Depth goes into robomimic's file and into the zarr buffer, segmentation
too with `--privileged`; ACT's loader and LeRobot's policies would take them for pictures of colours. Where splits.json
is there its lists train and val are what is exported, in this order, and the formats that know splits (LeRobot's,
robomimic's) get them. Whatever scales or normalizes is taken from the list train alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from flags import as_flag_error, exit_code, flag, parse, positional, required
from vpl.exports import Export
from vpl.exports.act import export_act
from vpl.exports.lerobot_dataset import export_lerobot
from vpl.exports.lerobot_writer import VideoError
from vpl.exports.robomimic import export_robomimic
from vpl.exports.zarr_buffer import export_zarr
from vpl.files import check_outside, exit_on_stop_signals, published, read_json, run
from vpl.listing import all_episode_folders, without_damaged
from vpl.reader import episode_folders
from vpl.stats import check_split_is_complete, split_folders, split_lists, succeeded

FORMATS: dict[str, Callable[[Export, Path], None]] = {
    "lerobot": export_lerobot,
    "robomimic": export_robomimic,
    "act": export_act,
    "zarr": export_zarr,
}
NEEDS: dict[str, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "lerobot": {"lerobot>=0.4.4,<0.5": ((0, 4, 4), (0, 5)), "lerobot[dataset]>=0.6.1,<0.7": ((0, 6, 1), (0, 7))},
    "zarr": {"zarr>=3,<4": ((3,), (4,))},
}
"""Formats that are written by a library: what to install, from which release on it works, and before which."""


@dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """What can be told."""

    format: str = positional("what to write", choices=tuple(FORMATS))
    dataset: Path = positional("folder that holds episode_*")
    output: Path = required("new folder (robomimic: file)", metavar="PATH")
    action: str = flag(
        "joint_pos_target",
        "what becomes the action: joint targets, or the policy's raw output",
        choices=("joint_pos_target", "action"),
    )
    privileged: bool = flag(False, "take in what only a simulator knows; a student on a robot has none of it")
    split: str | None = flag(None, "only this list: train or val")
    splits: Path | None = flag(None, "the file of lists", metavar="FILE", default_says="DATASET/splits.json")
    only_success: bool = flag(False, "leave out episodes without success")
    failed: bool = flag(False, "take in the episodes in failed/, which are in no list")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: export_dataset(parse(ExportFlags, argv, __doc__)), KeyError, OSError, VideoError)


def export_dataset(flags: ExportFlags) -> int:
    """Write what the flags say; returns the exit code."""
    with as_flag_error(OSError, ValueError):
        export = prepare(flags)
    exit_on_stop_signals()
    with published(flags.output) as path:
        FORMATS[flags.format](export, path)
    left_out = f" ({export.left_out} left out)" if export.left_out else ""
    print(f"{flags.output}: {len(export.folders)} episodes{left_out}, action = {export.action}")
    return int(export.damaged > 0)


def prepare(flags: ExportFlags) -> Export:
    """What is to be exported.

    Raises:
        ValueError: a flag cannot be used.
    """
    if os.path.lexists(flags.output):
        raise ValueError(f"--output {flags.output} exists already; give a new one")
    found = all_episode_folders(flags.dataset) if flags.failed else episode_folders(flags.dataset)
    if not (flags.dataset / "metadata.json").is_file() or not found:
        raise ValueError(f"{flags.dataset} holds no metadata.json or no episode; give the folder that was collected")
    check_library(flags.format)
    check_outside(flags.output, [flags.dataset])
    return choose(flags)


def check_library(name: str) -> None:
    """Refuse a format whose library is missing, or of a release that is not known to work.

    Raises:
        ValueError: with the remedy.
    """
    if name not in NEEDS:
        return
    found = next((installed.version for installed in distributions(name=name)), "none")
    release = tuple(map(int, re.findall(r"\d+", found)[:3]))
    works = any(low <= release < high for low, high in NEEDS[name].values())
    if works and name == "lerobot" and find_spec("datasets") is None:
        works, found = False, f"{found} without its extra dataset"
    if not works:
        wanted = " or ".join(f"'{requirement}'" for requirement in NEEDS[name])
        raise ValueError(f"{name} is needed, found {found}: pip install {wanted}")


def choose(flags: ExportFlags) -> Export:
    """The episodes to export: those of one list, else of train and val where there are lists, else all.

    Raises:
        ValueError: there is no such list, one is out of date, nothing is left, or metadata.json is damaged.
    """
    dataset, splits = flags.dataset, flags.splits or flags.dataset / "splits.json"
    lists = split_lists(dataset, splits)
    names: list[str | None] = [flags.split] if flags.split else [name for name in ("train", "val") if lists.get(name)]
    if lists and not names:
        raise ValueError(f"{splits} has no train or val; give one of its lists with --split")
    if not flags.split:
        check_split_is_complete(dataset, splits)
    of_dataset = all_episode_folders(dataset) if flags.failed else episode_folders(dataset)
    whole = set(without_damaged(of_dataset))

    def wanted(folders: list[Path]) -> list[Path]:
        readable = [folder for folder in folders if folder in whole]
        return [folder for folder in readable if succeeded(folder)] if flags.only_success else readable

    listed = names or ([None] if episode_folders(dataset) else [])  # all may have failed
    chosen = {name: wanted(split_folders(dataset, name, splits)) for name in listed}
    folders = [folder for part in chosen.values() for folder in part]
    if flags.failed:
        folders += wanted([folder for folder in of_dataset if folder.parent != dataset])
    if not folders:
        raise ValueError(f"{dataset}: no episode is left to export")
    ends = np.cumsum([len(part) for part in chosen.values()]).tolist()
    numbers = {n: list(range(end - len(chosen[n]), end)) for n, end in zip(chosen, ends, strict=True) if n}
    train = wanted(split_folders(dataset, "train", splits)) if lists.get("train") else []
    return Export(
        name=dataset.resolve().name,
        folders=folders,
        lists=numbers,
        action=flags.action,
        metadata=read_json(dataset / "metadata.json"),
        scaled_by=train or folders,
        left_out=len(of_dataset) - len(folders),
        damaged=len(of_dataset) - len(whole),
        privileged=flags.privileged,
    )


if __name__ == "__main__":
    run(main)
