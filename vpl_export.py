"""Writes a dataset in the format of another library's loader; the lossless images or the MP4s go over as they are.

    python vpl_export.py lerobot data/NAME --output exports/drawer           LeRobotDataset v3; lerobot 0.4.4 or 0.6.1
    python vpl_export.py robomimic data/NAME --output exports/drawer.hdf5    robomimic's HDF5
    python vpl_export.py act data/NAME --output exports/drawer_act           ACT's episode_0.hdf5, episode_1.hdf5, ...
    python vpl_export.py zarr data/NAME --output exports/drawer.zarr         diffusion policy's buffer; needs zarr 3

Actions are the drives' joint targets (rad, m), absolute; `--action action` takes the policy's raw output instead. What
columns mean, their names, units, frames and orders, and the cameras' calibration go into each export as `vpl`: a key of
LeRobot's meta/info.json, else an attribute (JSON in HDF5). What the robot itself feels goes along; what only a
simulator knows goes along with `--privileged`. Where splits.json is there its lists train and val are what is exported,
in this order, and the formats that know splits (LeRobot's, robomimic's) get them. Whatever scales or normalizes is
taken from the list train alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from vpl.columns import Role
from vpl.episode import all_episode_folders, without_damaged
from vpl.files import check_outside, exit_on_stop_signals, published, read_json, run
from vpl.format import SCHEMA, SUCCESS_ATTRIBUTES
from vpl.lerobot import RecordedVideos, VideoError, create_writer
from vpl.reader import Episode, episode_folders, load_episode
from vpl.stats import check_split_is_complete, column_stats, split_folders, split_lists, succeeded


@dataclass(frozen=True)
class Export:
    """What to export, for every format."""

    name: str
    folders: list[Path]
    lists: dict[str, list[int]]
    """Numbers of the episodes of each list of splits.json, in the order of `folders`."""
    action: str
    """The column that becomes the action."""
    metadata: dict[str, Any]
    """The dataset's metadata.json."""
    scaled_by: list[Path]
    """The episodes whose range scales actions: the list train, also where another one is exported; else `folders`."""
    left_out: int
    """How many episodes of the dataset are not exported."""
    damaged: int
    """How many of these because they cannot be read."""
    privileged: bool
    """Whether what only a simulator knows goes along."""

    def columns(self, episode: Episode) -> list[str]:
        """What goes along besides images, calibration, the action and the reward, in SCHEMA's order."""
        known = episode.columns(Role.PRIVILEGED) if self.privileged else []
        return [*episode.columns(Role.STATE), *(name for name in known if name != "sim_state")]

    def about(self) -> dict[str, Any]:
        """What a reader must know of the numbers; JSON types."""
        with load_episode(self.folders[0]) as first:
            columns: dict[str, Any] = {
                name: {
                    "role": SCHEMA[name].role.value,
                    "meaning": SCHEMA[name].meaning,
                    "names": first.element_names(name),
                }
                for name in (self.action, *self.columns(first), "reward")
            }
            return {
                "dataset": self.name, "robot": self.metadata.get("arguments", {}).get("robot_name", "unknown"),
                "task": first.attrs["task"], "simulator": first.attrs["simulator"],
                "language_instruction": first.attrs["language_instruction"],
                "step_dt": first.attrs["step_dt"], "video_interval": first.attrs["video_interval"],
                "action": {"column": self.action, **columns.pop(self.action)},
                "columns": columns | {
                    "extrinsics": {"role": Role.CALIBRATION.value, "meaning": SCHEMA["extrinsics"].meaning}
                },
                "cameras": [
                    {"name": camera, "intrinsics": K.tolist()}
                    for camera, K in zip(first.camera_names, first["intrinsics"][:], strict=True)
                ],
                "conventions": self.metadata.get("conventions", {}),
                "episodes": [folder.name for folder in self.folders],
                "splits": self.lists,
            }  # fmt: skip

    def episodes(self) -> Any:
        """Each episode's number and file, with a progress bar."""
        for index, folder in enumerate(tqdm(self.folders, unit="episode", disable=not sys.stderr.isatty())):
            with load_episode(folder) as episode:
                yield index, episode


def export_robomimic(export: Export, output: Path) -> None:
    """One HDF5: data/demo_i with actions, rewards, dones, states and obs/, and mask/train and mask/valid.

    robomimic's actors end in a tanh, so `actions` are in [-1, 1]: column = offset + scale * actions, with the
    attributes action_offset and action_scale of data/, from the smallest and largest values of the list train. Actions
    of other episodes may lie beyond; they are not clipped, since that would falsify what a policy is validated on.
    """
    stats = column_stats(export.scaled_by, [export.action])[export.action]
    low, high = np.array(stats["min"]), np.array(stats["max"])
    offset, half_range = (high + low) / 2, (high - low) / 2
    scale = np.where(half_range > 1e-6, half_range, 1)  # a column that never moves is only shifted
    beyond = 0
    with h5py.File(output, "w", rdcc_nbytes=0, locking=False) as file:
        data = file.create_group("data")
        for index, episode in export.episodes():
            demo = data.create_group(f"demo_{index}")
            actions = episode[export.action][:]
            scaled = ((actions - offset) / scale).astype(np.float32)
            demo["actions"] = scaled
            beyond += int((np.abs(scaled).max(axis=1) > 1).sum())
            demo["states"] = episode["sim_state"][:]
            demo["rewards"] = episode["reward"][:]
            demo["dones"] = np.arange(len(actions)) == len(actions) - 1
            for name in export.columns(episode):
                demo[f"obs/{name}"] = episode[name][:].reshape(len(actions), -1)
            for camera, camera_name in enumerate(episode.camera_names):
                copy_frames(episode, camera, demo["obs"], f"{camera_name}_image")
                demo[f"camera_poses/{camera_name}"] = episode["extrinsics"][:, camera]
            demo.attrs.update(num_samples=len(actions), source=episode.folder.name)
            demo.attrs.update({key: episode.attrs[key] for key in SUCCESS_ATTRIBUTES if key in episode.attrs})
        for name, mask in (("train", "train"), ("val", "valid")):
            if name in export.lists:
                file[f"mask/{mask}"] = np.array([f"demo_{i}" for i in export.lists[name]], "S")
        # type 2: a gym environment, as Isaac Lab writes it
        about = export.about()
        data.attrs.update(
            total=sum(demo.attrs["num_samples"] for demo in data.values()), action_offset=offset, action_scale=scale,
            env_args=json.dumps({"env_name": about["task"], "type": 2, "env_kwargs": {}}), vpl=json.dumps(about),
        )  # fmt: skip
    if beyond:
        print(f"{beyond} rows have actions beyond -1 ... 1, which is the range of the list train; they are not clipped")


def export_act(export: Export, output: Path) -> None:
    """A folder of HDF5s: action, observations/qpos, observations/qvel and observations/images/<camera>."""
    output.mkdir()
    of_all = ("episodes", "splits")  # not in each file; `source` says which episode it is
    about = json.dumps({key: value for key, value in export.about().items() if key not in of_all})
    lengths = set()
    for index, episode in export.episodes():
        with h5py.File(output / f"episode_{index}.hdf5", "w", rdcc_nbytes=0, locking=False) as file:
            file["action"] = episode[export.action][:]
            file["observations/qpos"], file["observations/qvel"] = episode["joint_pos"][:], episode["joint_vel"][:]
            images = file.create_group("observations/images")
            for camera, name in enumerate(episode.camera_names):
                copy_frames(episode, camera, images, name)
            # sim: an action belongs to the observation of its own row, not to the one before
            file.attrs.update(sim=True, compress=False, source=episode.folder.name, vpl=about)
            lengths.add(len(file["action"]))
    if len(export.lists) > 1:
        print("ACT's own loader knows no lists and would also train on val; --split train leaves it out")
    if len(lengths) > 1:
        print(f"episodes have {min(lengths)} to {max(lengths)} rows; ACT's own loader wants one length for all")


def copy_frames(episode: Episode, camera: int, group: h5py.Group, name: str) -> None:
    """A camera's frames as (T, H, W, 3), a frame a chunk: the stored chunks, neither inflated nor deflated."""
    color = episode["color"]
    frames = group.create_dataset(
        name, (len(color), *color.shape[2:]), "u1", chunks=(1, *color.shape[2:]),
        compression=color.compression, compression_opts=color.compression_opts, shuffle=color.shuffle,
        fletcher32=color.fletcher32,
    )  # fmt: skip
    if color.chunks != (1, 1, *color.shape[2:]):  # another writer's
        frames[:] = color[:, camera]
        return
    for row in range(len(color)):
        mask, chunk = color.id.read_direct_chunk((row, camera, 0, 0, 0))
        frames.id.write_direct_chunk((row, 0, 0, 0), chunk, mask)


def export_zarr(export: Export, output: Path) -> None:
    """A zarr group of format 2: data/<column>, data/<camera>_image and data/action of all episodes; meta/episode_ends.

    zstd without shuffling: of what Blosc has it reads rendered frames fastest (0.16 ms a frame of 320x240) and is a
    third smaller than diffusion policy's default.
    """
    import numcodecs
    import zarr

    codec = numcodecs.Blosc("zstd", 3, numcodecs.Blosc.NOSHUFFLE)
    root = zarr.open_group(str(output), mode="w-", zarr_format=2)
    data = root.create_group("data")
    columns: dict[str, list[np.ndarray]] = {}
    ends = [0]
    for _, episode in export.episodes():
        length = len(episode["color"])
        names = {"action": export.action, **{name: name for name in (*export.columns(episode), "reward")}}
        arrays = {name: episode[column][:].reshape(length, -1) for name, column in names.items()}
        for camera, name in enumerate(episode.camera_names):
            arrays[f"{name}_extrinsics"] = episode["extrinsics"][:, camera]
            folder = output / "data" / f"{name}_image"
            folder.mkdir(exist_ok=True)
            for row in range(length):  # a chunk is a file; zarr's own writing takes three times as long
                image = np.ascontiguousarray(episode["color"][row, camera])
                (folder / f"{ends[-1] + row}.0.0.0").write_bytes(codec.encode(image))
        for name, rows in arrays.items():
            columns.setdefault(name, []).append(rows)
        ends.append(ends[-1] + length)
        cameras, shape = episode.camera_names, episode["color"].shape[2:]
    for name in cameras:
        data.create_array(f"{name}_image", shape=(ends[-1], *shape), dtype="u1", chunks=(1, *shape), compressors=codec)
    for name, parts in columns.items():
        data.create_array(name, data=np.concatenate(parts), compressors=codec)
    root.create_group("meta").create_array("episode_ends", data=np.array(ends[1:], np.int64))
    root.attrs["vpl"] = export.about()
    if len(export.lists) > 1:
        print("diffusion policy's loader knows no lists and would also train on val; --split train leaves it out")


def export_lerobot(export: Export, output: Path) -> None:
    """A LeRobotDataset of codebase version 3, written by LeRobot itself; its videos are the recorded ones, joined."""
    import av
    import datasets

    av.logging.set_libav_level(av.logging.ERROR)  # LeRobot lets FFmpeg tell of each video, and a bar be drawn for each
    datasets.disable_progress_bars()
    about = export.about()
    with load_episode(export.folders[0]) as first:
        features = lerobot_features(first, export)
        keys = {f"observation.images.{name}": camera for camera, name in enumerate(first.camera_names)}
    rate = Fraction(1 / (about["step_dt"] * about["video_interval"])).limit_denominator(1001)
    output = output.absolute()  # LeRobot opens videos there by FFmpeg, to which `a:b/x.mp4` is of a protocol `a`
    videos = RecordedVideos(keys, output, rate)
    fps = int(rate) if rate.denominator == 1 else float(rate)
    writer = create_writer(f"local/{export.name}", output, fps, about["robot"], features, videos)
    stats, of_train = output / "meta" / "stats.json", b""
    try:
        for index, episode in export.episodes():
            videos.episode = episode
            rows: dict[str, Any] = lerobot_rows(episode, export)
            length = len(rows["timestamp"])
            rows |= {"size": length, "task": [about["language_instruction"]] * length, "episode_index": index}
            rows |= {"index": [], "task_index": [], **{key: [None] * length for key in keys}}
            writer.save_episode(rows)
            if index in export.lists.get("train", []):
                of_train = stats.read_bytes()
    finally:
        writer.finalize()  # also after a failure: LeRobot would write once more when it is collected
    if of_train:  # LeRobot's policies normalize with them; by now they are of the list val, too
        stats.write_bytes(of_train)
    info = output / "meta" / "info.json"
    ranges = {name: f"{numbers[0]}:{numbers[-1] + 1}" for name, numbers in export.lists.items() if numbers}
    document = json.loads(info.read_text())
    info.write_text(json.dumps(document | {"vpl": about, "splits": ranges or document["splits"]}, indent=4))


def lerobot_features(first: Episode, export: Export) -> dict[str, Any]:
    """LeRobot's description of what `lerobot_rows` returns, and of the cameras."""
    features: dict[str, Any] = {
        f"observation.images.{name}": {
            "dtype": "video", "shape": first["color"].shape[2:], "names": ["height", "width", "channels"]
        }
        for name in first.camera_names
    }  # fmt: skip
    names = {name: first.element_names(name) for name in export.columns(first)}
    names["action"] = first.element_names(export.action)
    names["observation.state"] = [
        f"{column}.{element}" for column in first.columns(Role.STATE) for element in first.element_names(column)
    ]
    for name, rows in lerobot_rows(first, export).items():
        if name not in ("timestamp", "frame_index"):
            shape = rows.shape[1:] or (1,)
            features[name] = {"dtype": str(rows.dtype), "shape": shape, "names": names.get(name)}
    return features


def lerobot_rows(episode: Episode, export: Export) -> dict[str, np.ndarray]:
    """An episode's columns under LeRobot's names.

    What the robot feels is one vector, `observation.state`. What is privileged keeps its name, which is not under
    `observation`, so that policies do not take it in.
    """
    length, step = len(episode["color"]), episode.attrs["step_dt"] * episode.attrs["video_interval"]
    felt = episode.columns(Role.STATE)
    rows = {
        "action": episode[export.action][:],
        "observation.state": np.concatenate([episode[name][:].reshape(length, -1) for name in felt], axis=1),
        "next.reward": episode["reward"][:],
        "next.done": np.arange(length) == length - 1,
        "timestamp": (np.arange(length) * step).astype(np.float32),
        "frame_index": np.arange(length),
    }
    rows |= {name: episode[name][:] for name in export.columns(episode) if name not in felt}
    if "success" in episode.attrs:
        rows["next.success"] = rows["next.done"] & episode.attrs["success"]
    for camera, name in enumerate(episode.camera_names):
        rows[f"extrinsics.{name}"] = episode["extrinsics"][:, camera]
    return rows


FORMATS: dict[str, Callable[[Export, Path], None]] = {
    "lerobot": export_lerobot, "robomimic": export_robomimic, "act": export_act, "zarr": export_zarr,
}  # fmt: skip
NEEDS: dict[str, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "lerobot": {"lerobot>=0.4.4,<0.5": ((0, 4, 4), (0, 5)), "lerobot[dataset]>=0.6.1,<0.7": ((0, 6, 1), (0, 7))},
    "zarr": {"zarr>=3,<4": ((3,), (4,))},
}
"""Formats that are written by a library: what to install, from which release on it works, and before which."""


def main(argv: list[str] | None = None) -> int:
    export, write, output = parse_args(argv)
    exit_on_stop_signals()
    try:
        with published(output) as path:
            write(export, path)
    except KeyError as error:
        print(f"error: an episode is not whole: {error.args[0]}; vpl_dataset.py validate says which", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (OSError, VideoError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    left_out = f" ({export.left_out} left out)" if export.left_out else ""
    print(f"{output}: {len(export.folders)} episodes{left_out}, action = {export.action}")
    return int(export.damaged > 0)


def parse_args(argv: list[str] | None) -> tuple[Export, Callable[[Export, Path], None], Path]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        usage=argparse.SUPPRESS,
    )  # fmt: skip
    parser.add_argument("format", choices=tuple(FORMATS), metavar="format", help="lerobot, robomimic, act or zarr")
    parser.add_argument("dataset", type=Path, help="folder that holds episode_*")
    parser.add_argument("--output", type=Path, required=True, help="new folder (robomimic: file)")
    parser.add_argument("--action", choices=("joint_pos_target", "action"), default="joint_pos_target",
        help="what becomes the action: joint targets, or the policy's raw output [joint_pos_target]")  # fmt: skip
    parser.add_argument("--privileged", action="store_true",
        help="take in what only a simulator knows; a student on a robot has none of it")  # fmt: skip
    parser.add_argument("--split", help="only this list: train or val")
    parser.add_argument("--splits", type=Path, metavar="FILE", help="the file of lists [DATASET/splits.json]")
    parser.add_argument("--only_success", action="store_true", help="leave out episodes without success")
    parser.add_argument("--failed", action="store_true", help="take in the episodes in failed/, which are in no list")
    args = parser.parse_args(argv)
    try:
        if os.path.lexists(args.output):
            parser.error(f"--output {args.output} exists already; give a new one")
        found = all_episode_folders(args.dataset) if args.failed else episode_folders(args.dataset)
        if not (args.dataset / "metadata.json").is_file() or not found:
            parser.error(f"{args.dataset} holds no metadata.json or no episode; give the folder that was collected")
        check_library(args.format)
        check_outside(args.output, [args.dataset])
        export = choose(args)
    except (OSError, ValueError) as error:
        parser.error(" ".join(str(error).split()))
    return export, FORMATS[args.format], args.output


def check_library(name: str) -> None:
    """Refuse a format whose library is missing, or of a release that is not known to work.

    Raises:
        ValueError: with the remedy.
    """
    if name not in NEEDS:
        return
    try:
        found = version(name)
    except PackageNotFoundError:
        found = "none"
    release = tuple(map(int, re.findall(r"\d+", found)[:3]))
    works = any(low <= release < high for low, high in NEEDS[name].values())
    if works and name == "lerobot" and find_spec("datasets") is None:
        works, found = False, f"{found} without its extra dataset"
    if not works:
        wanted = " or ".join(f"'{requirement}'" for requirement in NEEDS[name])
        raise ValueError(f"{name} is needed, found {found}: pip install {wanted}")


def choose(args: argparse.Namespace) -> Export:
    """The episodes to export: those of one list, else of train and val where there are lists, else all.

    Raises:
        ValueError: there is no such list, one is out of date, nothing is left, or metadata.json is damaged.
    """
    dataset, splits = args.dataset, args.splits or args.dataset / "splits.json"
    lists = split_lists(dataset, splits)
    names: list[str | None] = [args.split] if args.split else [name for name in ("train", "val") if lists.get(name)]
    if lists and not names:
        raise ValueError(f"{splits} has no train or val; give one of its lists with --split")
    if not args.split:
        check_split_is_complete(dataset, splits)
    of_dataset = all_episode_folders(dataset) if args.failed else episode_folders(dataset)
    whole = set(without_damaged(of_dataset))

    def wanted(folders: list[Path]) -> list[Path]:
        readable = [folder for folder in folders if folder in whole]
        return [folder for folder in readable if succeeded(folder)] if args.only_success else readable

    listed = names or ([None] if episode_folders(dataset) else [])  # all may have failed
    chosen = {name: wanted(split_folders(dataset, name, splits)) for name in listed}
    folders = [folder for part in chosen.values() for folder in part]
    if args.failed:
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
        action=args.action,
        metadata=read_json(dataset / "metadata.json"),
        scaled_by=train or folders,
        left_out=len(of_dataset) - len(folders),
        damaged=len(of_dataset) - len(whole),
        privileged=args.privileged,
    )


if __name__ == "__main__":
    run(main)
