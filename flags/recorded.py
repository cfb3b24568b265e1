"""What metadata.json records of a run's command line and machine, and what --resume takes over of it."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import torch

from flags import FlagError, as_flag_error, converted
from simulators import CameraEnv
from simulators.cameras import CameraCfg
from vpl.format import FORMAT_VERSION
from vpl.listing import all_episode_folders, read_metadata
from vpl.runs import project_versions

MAY_DIFFER = {
    "num_episodes",
    "checkpoint",
    "policy",
    "relabel_with",
    "data_root",
    "headless",
    "writer",
    "writer_workers",
    "resume",
    "enable_cameras",
    "kit_args",
    "self_check",
    "activation",
    "clip_actions",
}
"""Flags that change nothing in an episode that is yet to be collected (the policy that comes of them is compared)."""


def arguments(flags: Any) -> dict[str, Any]:
    """The flags as metadata.json has them; JSON types."""
    return {f.name: jsonable(getattr(flags, f.name)) for f in fields(flags)}


def dataset_name(task: str, sim_or_real: str, robot_name: str) -> str:
    """What a dataset's folder is called before the time; Gymnasium's names of tasks may hold / and :."""
    folder_safe = re.sub(r"[^\w.+-]", "_", task)
    return f"{folder_safe}_{sim_or_real}_{robot_name}"


def camera_rows(cameras: tuple[CameraCfg, ...]) -> list[dict[str, Any]]:
    """The cameras as metadata.json has them."""
    return [{**asdict(camera), "intrinsics": camera.intrinsics.tolist()} for camera in cameras]


def versions(env: CameraEnv) -> dict[str, Any]:
    """What makes the episodes, as metadata.json has it."""
    return {**package_versions(), **env.describe()}


def package_versions() -> dict[str, str]:
    """Of what episodes depend on, whatever simulates."""
    return {
        **project_versions(Path(__file__).parent.parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "av": av.__version__,
    }


def read_resumable(dataset: Path) -> dict[str, Any]:
    """metadata.json of the dataset that --resume names.

    Raises:
        FlagError: it cannot be gone on with.
    """
    if not (dataset / "metadata.json").is_file():
        raise FlagError(f"--resume {dataset} holds no metadata.json; give the folder that the collector named")
    with as_flag_error(ValueError):
        metadata = read_metadata(dataset)
    if "sources" in metadata:
        raise FlagError(f"--resume {dataset} was merged from several datasets; resume those and merge again")
    if "evaluated" in metadata:
        raise FlagError(f"--resume {dataset} holds the rollouts of evaluate_policy.py; evaluate again")
    if "replayed" in metadata:
        raise FlagError(
            f"--resume {dataset} was filmed by replay_episode.py; film {metadata['replayed']['from']} again"
        )
    if "store" in metadata and all_episode_folders(dataset):
        del metadata["store"]  # it was fetched from there, and is a dataset of its own
    return metadata


def as_flags(metadata: Mapping[str, Any], flags: type) -> dict[str, Any]:
    """The recorded values of the flags that there are, in the types of the dataclass `flags`."""
    kept = {name: metadata[name] for name in ("simulator", "store") if name in metadata}
    return converted(flags, {"randomize": "none", "action_noise": 0.0} | metadata["arguments"] | kept)


def check_agreement(
    metadata: Mapping[str, Any], flags: Any, policy: Mapping[str, Any], cameras: list[dict[str, Any]]
) -> None:
    """Refuse to resume with anything that would make the missing episodes differ from what they would have been.

    Raises:
        FlagError: there is such a thing.
    """
    recorded, given = metadata["arguments"], arguments(flags)
    for name in sorted((recorded.keys() & given.keys()) - MAY_DIFFER):
        if given[name] != recorded[name]:
            raise FlagError(f"--resume: --{name} is {given[name]}, the dataset was collected with {recorded[name]}")
    if flags.num_episodes < recorded["num_episodes"]:
        raise FlagError(
            f"--resume: --num_episodes {flags.num_episodes} is below the dataset's {recorded['num_episodes']}"
        )
    _check_policy("--policy" if flags.policy else "--checkpoint", jsonable(policy), metadata["checkpoint"])
    if jsonable(cameras) != metadata["cameras"]:
        raise FlagError("--resume: this version places the cameras differently; resume with the version that collected")
    if metadata.get("format_version") != FORMAT_VERSION:
        raise FlagError(
            f"--resume: the dataset is of format version {metadata.get('format_version')}, this program writes "
            f"{FORMAT_VERSION}; collect the rest as a dataset of its own, or resume with the version that collected"
        )


def _check_policy(flag: str, given: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """Refuse another policy than the recorded one, wherever its file is now, and another labeller."""
    for name in dict.fromkeys([*given, *recorded]):
        if name not in ("path", "settings", "relabelled_with") and given.get(name) != recorded.get(name):
            raise FlagError(
                f"--resume: {flag} {given.get('path')} is not the dataset's: its {name} is {given.get(name)}, "
                f"recorded is {recorded.get(name)}; give that one"
            )
    if {"relabelled_with"} & {*given, *recorded}:
        _check_policy("--relabel_with", given.get("relabelled_with", {}), recorded.get("relabelled_with", {}))


def jsonable(value: Any) -> Any:
    """`value` as it reads back from JSON."""
    return json.loads(json.dumps(value, default=str))
