"""Makes one dataset of several: python vpl_dataset.py merge data/A data/B --output data/C

Videos are hard links where the disk allows it, so they take no space; HDF5 files are copied, since an episode's number
is written in them. Episodes are numbered anew, in the order of the datasets; attribute `source` of each, and `sources`
in metadata.json, say where it came from. Lists of splits.json are not taken over.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import h5py

from vpl.checks.episodes import MOTION, motion_digest
from vpl.files import published
from vpl.format import declared
from vpl.listing import all_episode_folders, damage, read_metadata, read_row
from vpl.runs import recorded_runs
from vpl.variation import variation_of

SHARED = ("format_version", "task", "simulator", "cameras", "conventions", "not_recorded")
"""What datasets must have in common, of metadata.json."""
SHARED_ATTRIBUTES = (
    "step_dt",
    "video_interval",
    "fps",
    "language_instruction",
    "success_metric",
    "success_comparison",
    "success_threshold",
)
"""And of an episode's attributes."""


NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""Another disk, one without hard links, a file of another user, or too many links."""
OWN = ("episodes", "runs")
"""What the merged dataset has of all of them, so that `sources` does not repeat it."""


def merge(datasets: list[Path], output: Path, copy: bool = False) -> int:
    """Merge into the new folder `output`, which appears when it is whole; with `copy` videos are copied, too.

    What metadata.json says of arguments, checkpoint and versions is the first dataset's; `sources` has each one's, and
    `runs` has all runs, of which every episode says its own.

    Returns:
        The number of episodes.

    Raises:
        FileExistsError: `output` exists.
        ValueError: the datasets do not go together, or an episode is in two of them.
        OSError: an episode cannot be read: a merged dataset lacks none silently.
    """
    metadata = [read_metadata(dataset) for dataset in datasets]
    found = [(dataset, folder) for dataset in datasets for folder in all_episode_folders(dataset)]
    episodes = [folder for _, folder in found]
    if damaged := next(filter(None, map(damage, episodes)), None):
        raise OSError(damaged)
    _check_agreement(datasets, metadata)
    _check_distinct(episodes)
    num_envs = metadata[0]["arguments"]["num_envs"]
    runs = list(map(recorded_runs, metadata))
    first_run = dict(zip(datasets, accumulate(map(len, runs), initial=0), strict=False))
    with published(output) as folder:
        folder.mkdir()
        for index, (dataset, episode) in enumerate(found):
            parent = folder if episode.parent == dataset else folder / "failed"
            # round and env_index count on, as they do in a collection of num_envs
            numbers = {"episode_index": index, "round": index // num_envs, "env_index": index % num_envs}
            attrs = {**numbers, "run": first_run[dataset], "source": f"{dataset.resolve().name}/{episode.name}"}
            _copy_episode(episode, parent / f"episode_{index:03d}", attrs, copy)
        rows = [read_row(episode, folder) for episode in all_episode_folders(folder)]
        counts = {"num_episodes": len(rows), "num_successes": sum(row.get("success", False) for row in rows)}
        sources = [
            {"name": dataset.resolve().name, **{key: value for key, value in source.items() if key not in OWN}}
            for dataset, source in zip(datasets, metadata, strict=True)
        ]
        document = metadata[0] | {key: counts[key] for key in counts if key in metadata[0]}
        document |= {"runs": list(chain(*runs)), "sources": sources, "episodes": rows}
        (folder / "metadata.json").write_text(json.dumps(document, indent=1, allow_nan=False))
    return len(rows)


def _check_agreement(datasets: list[Path], metadata: list[dict[str, Any]]) -> None:
    described = [_describe(dataset, document) for dataset, document in zip(datasets, metadata, strict=True)]
    for dataset, other in zip(datasets[1:], described[1:], strict=True):
        for key, value in described[0].items():
            if other[key] != value:
                raise ValueError(
                    f"{dataset} does not go with {datasets[0]}: not the same {key}"
                    + ("; replay_episode.py films one again as the other" if key == "cameras" else "")
                )


def _describe(dataset: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """What must be equal in all datasets."""
    first = all_episode_folders(dataset)[0]
    with h5py.File(first / f"{first.name}.h5", locking=False) as h5:
        attrs = {name: h5.attrs.get(name) for name in SHARED_ATTRIBUTES}
        columns = {name: (column.shape, column.role) for name, column in declared(h5).items()}
        names = {name: column.names for name, column in declared(h5).items()}
        cameras = {"size of images": h5["color"].shape[1:], "names of cameras": list(h5["color"].attrs["names"])}
    shared = {name: metadata.get(name) for name in SHARED}
    shared["robot_name"] = metadata["arguments"]["robot_name"]
    return {**shared, **attrs, **cameras, "columns": columns, "names of columns": names}


def _check_distinct(episodes: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for folder in episodes:
        with h5py.File(folder / f"{folder.name}.h5", locking=False) as h5:
            digest = motion_digest({name: h5[name][:] for name in MOTION}, variation_of(h5))
        if digest in seen:
            raise ValueError(f"{folder} repeats {seen[digest]}; were both collected with the same --seed?")
        seen[digest] = folder


def _copy_episode(source: Path, target: Path, attrs: dict[str, Any], copy: bool) -> None:
    """`attrs` are the episode's new attributes; `run` is that of its dataset's run 0."""
    target.mkdir(parents=True)
    h5_path = target / f"{target.name}.h5"
    _copy(source / f"{source.name}.h5", h5_path)
    with h5py.File(h5_path, "r+", locking=False) as h5:
        for camera in range(h5["color"].shape[1]):
            place = target / f"camera_{camera}"
            place.mkdir()
            video = source / place.name / f"{source.name}.mp4"
            (_copy if copy else _link)(video, place / f"{target.name}.mp4")
        first = {"source": h5.attrs["source"]} if "source" in h5.attrs else {}
        h5.attrs.update({**attrs, **first, "run": attrs["run"] + int(h5.attrs.get("run", 0))})


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as old, open(target, "xb") as new:
        shutil.copyfileobj(old, new, 1 << 20)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        _copy(source, target)
