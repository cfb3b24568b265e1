"""Checks a VPL dataset, `python vpl_dataset.py validate DATASET`: format, labels, listing.

    problems = validate(Path("vpl_tiled/NAME"))

Nothing is believed because the writer said so: positions follow from velocities, the tool from the joint angles,
a camera from what carries it, labels from the columns. A check looks at what an episode has, so files of other writers
that follow the format in part are read too, and are told what they lack. vpl/checks/episodes.py checks episodes side by
side: by vpl/checks/format.py what they are made of, by vpl/checks/rows.py what numbers tell of each other, and by
vpl/checks/images.py the pictures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpl.checks.episodes import Checked, check_episode, check_episodes
from vpl.files import read_json
from vpl.format import READABLE_VERSIONS
from vpl.listing import all_episode_folders

METADATA = {"format_version": int, "task": str, "simulator": str, "num_episodes": int, "episodes": list}
"""What metadata.json holds at least, and of which types."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    episode: str
    """Its path in the dataset; empty where it concerns the dataset."""
    row: int | None
    reason: str

    def __str__(self) -> str:
        place = self.episode if self.row is None else f"{self.episode} row {self.row}"
        return f"{place}: {self.reason}" if place else self.reason


def validate(dataset: Path, sample: int | None = None) -> list[Problem]:
    """Check every episode, also those in failed/, and metadata.json; returns what is wrong.

    Args:
        dataset: its folder.
        sample: how many episodes to check, the same ones each time; that all are listed is checked in any case.
    """
    names = [str(folder.relative_to(dataset)) for folder in all_episode_folders(dataset)]
    chosen = names if sample is None else random.Random(0).sample(names, min(sample, len(names)))
    metadata, problems = _read_metadata(dataset)
    found = check_episodes([dataset / name for name in chosen], metadata.get("cameras", []))
    checked = dict(zip(chosen, found, strict=True))
    for name, episode in checked.items():
        problems += [Problem(name, row, reason) for row, reason in episode.found]
    return [*problems, *_check_repeats(checked), *_check_listing(names, checked, metadata)]


def validate_episode(folder: Path) -> list[Problem]:
    """Check one episode by itself, also one in .partial/; returns what is wrong."""
    return [Problem(folder.name, row, reason) for row, reason in check_episode(folder, []).found]


def _read_metadata(dataset: Path) -> tuple[dict[str, Any], list[Problem]]:
    """What metadata.json says where it is of the right type, and what is wrong with the rest."""
    path = dataset / "metadata.json"
    if not path.is_file():
        return {}, [Problem("", None, "metadata.json is missing")]
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        return {}, [Problem("", None, str(error))]
    problems = []
    if missing := [key for key in METADATA if key not in document]:
        problems.append(Problem("", None, f"metadata.json lacks {', '.join(missing)}"))
    for key, kind in {**METADATA, "num_successes": int, "cameras": list}.items():
        if key in document and not isinstance(document[key], kind):
            problems.append(Problem("", None, f"metadata.json: {key} is {str(document.pop(key))[:60]}"))
    for key, own in (("episodes", "path"), ("cameras", "name")):
        if not all(isinstance(row, dict) and isinstance(row.get(own), str) for row in document.get(key, [])):
            problems.append(Problem("", None, f"metadata.json: something in {key} has no {own}"))
            del document[key]
    if (version := document.get("format_version", READABLE_VERSIONS[0])) not in READABLE_VERSIONS:
        reason = (
            f"metadata.json: format version {version}, this program reads {' and '.join(map(str, READABLE_VERSIONS))}"
        )
        problems.append(Problem("", None, reason))
    return document, problems


def _check_repeats(checked: Mapping[str, Checked]) -> Iterator[Problem]:
    """No episode is another one's copy."""
    first: dict[str, str] = {}
    for name, episode in checked.items():
        if episode.motion and first.setdefault(episode.motion, name) != name:
            yield Problem(name, None, f"repeats {first[episode.motion]}")


def _check_listing(
    names: Sequence[str], checked: Mapping[str, Checked], metadata: Mapping[str, Any]
) -> Iterator[Problem]:
    """metadata.json lists exactly the episodes on disk, as their files say."""
    if "episodes" not in metadata:
        return
    listed = {row.get("path"): row for row in metadata["episodes"]}
    for name in names:
        if name not in listed:
            yield Problem(name, None, "is not in metadata.json")
            continue
        row, own = listed.pop(name), {**checked[name].row, "path": name} if name in checked else {}
        if len(own) > 1 and row != own:
            different = ", ".join(sorted(key for key in row.keys() | own.keys() if row.get(key) != own.get(key)))
            yield Problem(name, None, f"metadata.json says something else of {different} than its HDF5")
    yield from (Problem(str(name), None, "is in metadata.json and not on disk") for name in listed)
    counts = {"num_episodes": len(names)}
    if any("success" in row for row in metadata["episodes"]):
        counts["num_successes"] = sum(row.get("success") is True for row in metadata["episodes"])
    for key, count in counts.items():
        if metadata.get(key, count) != count:
            yield Problem("", None, f"metadata.json: {key} is {metadata[key]}, the dataset's is {count}")
