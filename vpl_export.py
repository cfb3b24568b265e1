"""Writes a dataset in the format of another library's loader; the lossless images or the MP4s go over as they are.

    python vpl_export.py lerobot data/NAME --output exports/drawer           LeRobotDataset v3; needs lerobot 0.4
    python vpl_export.py robomimic data/NAME --output exports/drawer.hdf5    robomimic's HDF5
    python vpl_export.py act data/NAME --output exports/drawer_act           ACT's episode_0.hdf5, episode_1.hdf5, ...
    python vpl_export.py zarr data/NAME --output exports/drawer.zarr         diffusion policy's buffer; needs zarr 3

Actions are the drives' joint targets (rad, m), absolute; `--action action` takes the policy's raw output instead. What
columns mean, their names, units, frames and orders, and the cameras' calibration go into each export as `vpl`: a key of
LeRobot's meta/info.json, else an attribute (JSON in HDF5). Where splits.json is there its lists train and val are what
is exported, in this order, and the formats that know splits (LeRobot's, robomimic's) get them.
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
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from vpl_dataset import Episode, episode_folders, load_episode
from vpl_episode import SCHEMA, SUCCESS_ATTRIBUTES, exit_on_sigterm, published, read_json
from vpl_image_checks import STRIDE, check_video
from vpl_stats import FRAMES_PER_EPISODE, column_stats, split_folders, split_lists, spread_rows, succeeded
from vpl_video import write_mp4

COLUMNS = ("joint_pos", "joint_vel", "ee_position", "ee_rotation", "drawer_pos", "reward")
"""What is exported besides images, calibration and the action, where an episode has it."""


class VideoError(ValueError):
    """A recorded video does not show what was recorded, so it cannot be passed on."""


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

    def about(self) -> dict[str, Any]:
        """What a reader must know of the numbers; JSON types."""
        with load_episode(self.folders[0]) as first:
            columns: dict[str, Any] = {
                name: {"meaning": SCHEMA[name].meaning, "names": first.element_names(name)}
                for name in (self.action, *COLUMNS) if name in first.h5
            }  # fmt: skip
            return {
                "dataset": self.name, "robot": self.metadata.get("arguments", {}).get("robot_name", "unknown"),
                "task": first.attrs["task"], "simulator": first.attrs["simulator"],
                "language_instruction": first.attrs["language_instruction"],
                "step_dt": first.attrs["step_dt"], "video_interval": first.attrs["video_interval"],
                "action": {"column": self.action, **columns.pop(self.action)},
                "columns": columns | {"extrinsics": {"meaning": SCHEMA["extrinsics"].meaning}},
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
    attributes action_offset and action_scale of data/, from the smallest and largest values of the exported episodes.
    """
    stats = column_stats(export.folders, [export.action])[export.action]
    low, high = np.array(stats["min"]), np.array(stats["max"])
    offset, scale = (high + low) / 2, np.maximum((high - low) / 2, 1e-6)
    with h5py.File(output, "w", rdcc_nbytes=0) as file:
        data = file.create_group("data")
        for index, episode in export.episodes():
            demo = data.create_group(f"demo_{index}")
            actions = episode[export.action][:]
            demo["actions"] = np.clip((actions - offset) / scale, -1, 1).astype(np.float32)
            demo["states"] = episode["sim_state"][:]
            demo["rewards"] = episode["reward"][:]
            demo["dones"] = np.arange(len(actions)) == len(actions) - 1
            for name in COLUMNS:
                if name in episode.h5 and name != "reward":
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


def export_act(export: Export, output: Path) -> None:
    """A folder of HDF5s: action, observations/qpos, observations/qvel and observations/images/<camera>."""
    output.mkdir()
    of_all = ("episodes", "splits")  # not in each file; `source` says which episode it is
    about = json.dumps({key: value for key, value in export.about().items() if key not in of_all})
    lengths = set()
    for index, episode in export.episodes():
        with h5py.File(output / f"episode_{index}.hdf5", "w", rdcc_nbytes=0) as file:
            file["action"] = episode[export.action][:]
            file["observations/qpos"], file["observations/qvel"] = episode["joint_pos"][:], episode["joint_vel"][:]
            images = file.create_group("observations/images")
            for camera, name in enumerate(episode.camera_names):
                copy_frames(episode, camera, images, name)
            # sim: an action belongs to the observation of its own row, not to the one before
            file.attrs.update(sim=True, compress=False, source=episode.folder.name, vpl=about)
            lengths.add(len(file["action"]))
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
        names = {"action": export.action, **{name: name for name in COLUMNS if name in episode.h5}}
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


def export_lerobot(export: Export, output: Path) -> None:
    """A LeRobotDataset of codebase version 3, written by LeRobot itself; its videos are the recorded ones, joined."""
    import av
    import datasets
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    av.logging.set_libav_level(av.logging.ERROR)  # LeRobot lets FFmpeg tell of each video, and a bar be drawn for each
    datasets.disable_progress_bars()
    about = export.about()
    with load_episode(export.folders[0]) as first:
        features = lerobot_features(first, about)
        keys = {f"observation.images.{name}": camera for camera, name in enumerate(first.camera_names)}
    rate = Fraction(1 / (about["step_dt"] * about["video_interval"])).limit_denominator(1001)
    dataset = LeRobotDataset.create(
        f"local/{export.name}", fps=int(rate) if rate.denominator == 1 else float(rate), features=features,
        root=output, robot_type=about["robot"], vcodec="h264",
    )  # fmt: skip
    videos = dataset._streaming_encoder = RecordedVideos(keys, output, rate)
    dataset.meta.info["vpl"] = about
    try:
        for index, episode in export.episodes():
            videos.episode = episode
            rows: dict[str, Any] = lerobot_rows(episode, about)
            length = len(rows["timestamp"])
            rows |= {"size": length, "task": [about["language_instruction"]] * length, "episode_index": index}
            rows |= {"index": [], "task_index": [], **{key: [None] * length for key in keys}}
            dataset.save_episode(rows)
    finally:
        dataset.finalize()  # also after a failure: LeRobot would write once more when it is collected
    if ranges := {name: f"{numbers[0]}:{numbers[-1] + 1}" for name, numbers in export.lists.items() if numbers}:
        path = output / "meta" / "info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": ranges}, indent=4))


def lerobot_features(first: Episode, about: dict[str, Any]) -> dict[str, Any]:
    """LeRobot's description of what `lerobot_rows` returns, and of the cameras."""
    features: dict[str, Any] = {
        f"observation.images.{name}": {
            "dtype": "video", "shape": first["color"].shape[2:], "names": ["height", "width", "channels"]
        }
        for name in first.camera_names
    }  # fmt: skip
    names = {"action": about["action"]["names"], "observation.state": about["columns"]["joint_pos"]["names"]}
    names |= {name: about["columns"][name]["names"] for name in lerobot_columns(first)}
    for name, rows in lerobot_rows(first, about).items():
        if name not in ("timestamp", "frame_index"):
            shape = rows.shape[1:] or (1,)
            features[name] = {"dtype": str(rows.dtype), "shape": shape, "names": names.get(name)}
    return features


def lerobot_columns(episode: Episode) -> list[str]:
    """Columns that keep their names: not under `observation`, so that policies do not take them in."""
    return [name for name in COLUMNS if name in episode.h5 and name not in ("joint_pos", "reward")]


def lerobot_rows(episode: Episode, about: dict[str, Any]) -> dict[str, np.ndarray]:
    """An episode's columns under LeRobot's names."""
    length, step = len(episode["color"]), about["step_dt"] * about["video_interval"]
    rows = {
        "action": episode[about["action"]["column"]][:],
        "observation.state": episode["joint_pos"][:],
        "next.reward": episode["reward"][:],
        "next.done": np.arange(length) == length - 1,
        "timestamp": (np.arange(length) * step).astype(np.float32),
        "frame_index": np.arange(length),
    }
    rows |= {name: episode[name][:] for name in lerobot_columns(episode)}
    if "success" in episode.attrs:
        rows["next.success"] = rows["next.done"] & episode.attrs["success"]
    for camera, name in enumerate(episode.camera_names):
        rows[f"extrinsics.{name}"] = episode["extrinsics"][:, camera]
    return rows


class RecordedVideos:
    """Stands in the place of LeRobot's StreamingVideoEncoder and hands it the recorded videos, in real time."""

    episode: Episode
    """Whose turn it is."""

    def __init__(self, cameras: dict[str, int], folder: Path, fps: Fraction) -> None:
        self._cameras, self._folder, self._fps = cameras, folder, fps

    def finish_episode(self) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
        """By feature a video, in a folder of its own that LeRobot removes, and its pixels' statistics."""
        return {key: (self._video(camera), self._stats(camera)) for key, camera in self._cameras.items()}

    def close(self) -> None:
        """LeRobot's call at the end; nothing is open."""

    def _video(self, camera: int) -> Path:
        self._check_colours(camera)
        path = self._folder / f"tmp_{camera}" / f"{self.episode.folder.name}.mp4"
        path.parent.mkdir()
        write_mp4(self.episode.video(camera), path, self._fps)
        return path

    def _check_colours(self, camera: int) -> None:
        """Refuse what earlier releases recorded at a height of 4 n + 2 px, with displaced colours."""
        color = self.episode["color"]
        if color.shape[2] % 4 != 2:
            return
        images = np.stack([image[::STRIDE, ::STRIDE] for image in color[:, camera]])
        for _, reason in check_video(images, self.episode.video(camera), self.episode.h5):
            folder = self.episode.folder
            raise VideoError(f"{folder.name}: {reason}; film it again: replay_episode.py {folder.parent} --mode states")

    def _stats(self, camera: int) -> dict[str, np.ndarray]:
        from lerobot.datasets.compute_stats import RunningQuantileStats

        color, stats = self.episode["color"], RunningQuantileStats()
        for row in spread_rows(len(color), FRAMES_PER_EPISODE):
            stats.update(color[row, camera][::2, ::2].reshape(-1, 3))
        return stats.get_statistics()


FORMATS: dict[str, Callable[[Export, Path], None]] = {
    "lerobot": export_lerobot, "robomimic": export_robomimic, "act": export_act, "zarr": export_zarr,
}  # fmt: skip
NEEDS = {"lerobot": ((0, 4, 4), (0, 5)), "zarr": ((3,), (4,))}
"""Formats that are written by a library: from which release on, and before which."""


def main(argv: list[str] | None = None) -> int:
    export, write, output = parse_args(argv)
    exit_on_sigterm()
    try:
        with published(output) as path:
            write(export, path)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (OSError, VideoError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"{output}: {len(export.folders)} episodes, action = {export.action}")
    return 0


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
    parser.add_argument("--split", help="only this list of splits.json: train or val")
    parser.add_argument("--only_success", action="store_true", help="leave out episodes without success")
    args = parser.parse_args(argv)
    try:
        if os.path.lexists(args.output):
            parser.error(f"--output {args.output} exists already; give a new one")
        if not (args.dataset / "metadata.json").is_file() or not episode_folders(args.dataset):
            parser.error(f"{args.dataset} holds no metadata.json or no episode; give the folder that was collected")
        check_library(args.format)
        export = choose(args.dataset, args.split, args.action, args.only_success)
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
    low, high = NEEDS[name]
    try:
        found = version(name)
    except PackageNotFoundError:
        found = "none"
    if not low <= tuple(map(int, re.findall(r"\d+", found)[:3])) < high:
        wanted = f"{name}>={'.'.join(map(str, low))},<{'.'.join(map(str, high))}"
        raise ValueError(f"{name} is needed, found {found}: pip install '{wanted}'")


def choose(dataset: Path, split: str | None, action: str, only_success: bool) -> Export:
    """The episodes to export: those of one list, else of train and val where there are lists, else all.

    Raises:
        ValueError: there is no such list, nothing is left, or metadata.json is damaged.
    """
    lists = split_lists(dataset)
    names = [split] if split else [name for name in ("train", "val") if lists.get(name)]
    if lists and not names:
        raise ValueError(f"{dataset / 'splits.json'} has no train or val; give one of its lists with --split")
    chosen = {name: split_folders(dataset, name) for name in names} or {"": episode_folders(dataset)}
    if only_success:
        chosen = {name: [folder for folder in folders if succeeded(folder)] for name, folders in chosen.items()}
    folders = [folder for part in chosen.values() for folder in part]
    if not folders:
        raise ValueError(f"{dataset}: no episode is left to export")
    ends = np.cumsum([len(part) for part in chosen.values()]).tolist()
    numbers = {n: list(range(end - len(chosen[n]), end)) for n, end in zip(chosen, ends, strict=True) if n}
    return Export(dataset.resolve().name, folders, numbers, action, read_json(dataset / "metadata.json"))


if __name__ == "__main__":
    sys.exit(main())
