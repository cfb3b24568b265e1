"""LeRobot's dataset of codebase version 3."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vpl.columns import Role
from vpl.exports import Export
from vpl.exports.lerobot_writer import RecordedVideos, create_writer
from vpl.reader import Episode, load_episode


def export_lerobot(export: Export, output: Path) -> None:
    """A LeRobotDataset of codebase version 3, written by LeRobot itself; its videos are the recorded ones, joined."""
    import av
    import datasets

    av.logging.set_libav_level(av.logging.ERROR)  # LeRobot lets FFmpeg tell of each video, and a bar be drawn for each
    datasets.disable_progress_bars()
    about = export.about()
    export.say_left_out()
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
            "dtype": "video",
            "shape": first["color"].shape[2:],
            "names": ["height", "width", "channels"],
        }
        for name in first.camera_names
    }
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
    `observation`, so that policies do not take it in. Extrinsics are 16 numbers, the matrix line by line: LeRobot takes
    a quarter of its time for two columns of matrices (4.8 ms for a row of two images, 3.6 ms without them).
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
        rows[f"extrinsics.{name}"] = episode["extrinsics"][:, camera].reshape(length, 16)
    return rows
