"""Makes one dataset of several: python vpl_dataset.py merge data/A data/B --output data/C

All is hard links where the disk allows it, so it takes no time and no space. An episode's number is written in its
HDF5, so a merged one has a small HDF5 of its own, whose attributes are the new ones and whose datasets are HDF5's
external links to those of the source, `recorded.h5` beside it. With --copy, or where there are no links, it is a copy.
Episodes are numbered anew, in the order of the datasets; attribute `source` of each, and `sources`
in metadata.json, say where it came from. Lists of splits.json are not taken over.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, repeat
from pathlib import Path
from typing import Any

import h5py

from vpl.checks.episodes import MOTION, motion_digest
from vpl.files import ignore_stop_signals, published
from vpl.format import declared
from vpl.listing import all_episode_folders, damage, describe, flaw, read_metadata
from vpl.runs import recorded_runs
from vpl.usable_cores import usable_cores
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
RECORDED = "recorded.h5"
"""In a merged episode, the source's HDF5, to whose datasets the episode's own one links."""
AT_A_TIME = 16
"""Episodes that a process takes; so few are not worth one."""
OWN = ("episodes", "runs")
"""What the merged dataset has of all of them, so that `sources` does not repeat it."""


def merge(datasets: list[Path], output: Path, copy: bool = False) -> int:
    """Merge into the new folder `output`, which appears when it is whole; with `copy` nothing is a link.

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
    num_envs = metadata[0]["arguments"]["num_envs"]
    runs = list(map(recorded_runs, metadata))
    first_run = dict(zip(datasets, accumulate(map(len, runs), initial=0), strict=False))
    # in this order: where it fails, the processes have ended before their folder is removed
    with published(output) as folder, _mapping(len(episodes)) as for_each:
        sources = list(for_each(_read, episodes))
        _check_agreement(datasets, metadata)
        _check_distinct(sources)
        folder.mkdir()
        targets, attrs = [], []
        for index, (dataset, episode) in enumerate(found):
            parent = folder if episode.parent == dataset else folder / "failed"
            targets.append(parent / f"episode_{index:03d}")
            # round and env_index count on, as they do in a collection of num_envs
            numbers = {"episode_index": index, "round": index // num_envs, "env_index": index % num_envs}
            source = f"{dataset.resolve().name}/{episode.name}"
            attrs.append({**numbers, "run": first_run[dataset], "source": source})
        taken = list(for_each(_take_episode, sources, targets, attrs, repeat(copy)))
        rows = [{**row, "path": str(target.relative_to(folder))} for row, target in zip(taken, targets, strict=True)]
        counts = {"num_episodes": len(rows), "num_successes": sum(row.get("success", False) for row in rows)}
        parts = [
            {"name": dataset.resolve().name, **{key: value for key, value in source.items() if key not in OWN}}
            for dataset, source in zip(datasets, metadata, strict=True)
        ]
        document = metadata[0] | {key: counts[key] for key in counts if key in metadata[0]}
        document |= {"runs": list(chain(*runs)), "sources": parts, "episodes": rows}
        (folder / "metadata.json").write_text(json.dumps(document, indent=1, allow_nan=False))
    return len(rows)


@contextmanager
def _mapping(num_episodes: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """What does as `map` for so many episodes, by all cores where there are many."""
    if num_episodes <= AT_A_TIME:
        yield map
        return
    # forks end with this process, whose signals they leave to it; a forkserver's workers outlive a signal to all
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(usable_cores(), context, initializer=ignore_stop_signals) as pool:
        yield partial(pool.map, chunksize=AT_A_TIME)


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


@dataclass(frozen=True)
class _Source:
    """A whole episode, and all that its file says but the rows: a file is opened once."""

    folder: Path
    digest: str
    """Of its motion."""
    attrs: dict[str, Any]
    names: list[str]
    """What its file holds."""
    num_cameras: int
    row: dict[str, Any]
    """Of metadata.json, but for the path."""


def _read(episode: Path) -> _Source:
    with suppress(OSError, TypeError), h5py.File(episode / f"{episode.name}.h5", locking=False) as h5:
        if not flaw(h5):
            digest = motion_digest({name: h5[name][:] for name in MOTION}, variation_of(h5))
            return _Source(episode, digest, dict(h5.attrs), list(h5), h5["color"].shape[1], describe(h5))
    raise OSError(damage(episode) or f"{episode} cannot be read")


def _check_distinct(sources: Sequence[_Source]) -> None:
    seen: dict[str, Path] = {}
    for source in sources:
        if source.digest in seen:
            raise ValueError(
                f"{source.folder} repeats {seen[source.digest]}; were both collected with the same --seed?"
            )
        seen[source.digest] = source.folder


def _take_episode(source: _Source, target: Path, attrs: dict[str, Any], copy: bool) -> dict[str, Any]:
    """Link or copy an episode; returns its row of metadata.json, but for the path.

    `attrs` are the episode's new attributes; `run` is that of its dataset's run 0.
    """
    target.mkdir(parents=True)
    folder, found, h5_path = source.folder, source.attrs, target / f"{target.name}.h5"
    before = folder / RECORDED  # of what was merged before
    data = before if before.exists() else folder / f"{folder.name}.h5"
    new = {**attrs, "run": attrs["run"] + int(found.get("run", 0)), "source": found.get("source", attrs["source"])}
    linked = not copy and _link(data, target / RECORDED)
    if not linked:
        _copy(data, h5_path)
    with h5py.File(h5_path, "x" if linked else "r+", locking=False) as h5:
        for name in source.names if linked else ():
            h5[name] = h5py.ExternalLink(RECORDED, f"/{name}")
        h5.attrs.update({**found, **new})
    for camera in range(source.num_cameras):
        place = target / f"camera_{camera}"
        place.mkdir()
        video, here = folder / place.name / f"{folder.name}.mp4", place / f"{target.name}.mp4"
        if copy or not _link(video, here):
            _copy(video, here)
    return {**source.row, **new}


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as old, open(target, "xb") as new:
        shutil.copyfileobj(old, new, 1 << 20)


def _link(source: Path, target: Path) -> bool:
    """Whether the disk allows a hard link, which is made."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return False
    return True
