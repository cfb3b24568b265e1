"""What a learner asks before it trains: statistics to normalize with, and which episodes to train and to validate on.

python vpl_dataset.py split data/NAME --val 0.1
python vpl_dataset.py stats data/NAME --split train

Episodes are split, never rows: neighbouring rows are nearly the same, so that a validation on them would say nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vpl.columns import Role
from vpl.files import read_json
from vpl.reader import Episode, episode_folders, load_episode
from vpl.variation import flat, variation_of

NOT_LEARNT = ("sim_state", "timestamps")
"""Columns without statistics, beside calibration."""
FRAMES_PER_EPISODE = 16
"""Of each camera, evenly spaced, for the statistics of `color`: neighbouring frames are alike."""


def spread_rows(length: int, most: int) -> np.ndarray:
    """At most `most` of the rows 0 ... length - 1, evenly spaced, with the first and the last; (K,) int64."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))


def learnt_columns(episode: Episode) -> list[str]:
    """The columns that have statistics; `color` has its own."""
    return [
        name
        for name, column in episode.declared.items()
        if column.role is not Role.CALIBRATION and name not in NOT_LEARNT
    ]


def column_stats(folders: Iterable[Path], columns: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Of each of these columns, None: of all that are learnt: mean, std, min, max and the quantiles q01 and q99, each
    (D,), names and meaning.
    """
    rows: dict[str, list[np.ndarray]] = {}
    said: dict[str, dict[str, Any]] = {}
    for folder in folders:
        with load_episode(folder) as episode:
            for name in learnt_columns(episode) if columns is None else columns:
                rows.setdefault(name, []).append(episode[name][:].reshape(len(episode[name]), -1))
                said[name] = {"names": episode.element_names(name), "meaning": episode.declared[name].meaning}
    stats = {}
    for name, parts in rows.items():
        data = np.concatenate(parts).astype(float)
        low, high = np.quantile(data, (0.01, 0.99), axis=0)
        stats[name] = {
            "count": len(data),
            "mean": data.mean(axis=0).tolist(),
            "std": data.std(axis=0).tolist(),
            "min": data.min(axis=0).tolist(),
            "max": data.max(axis=0).tolist(),
            "q01": low.tolist(),
            "q99": high.tolist(),
            **said[name],
        }
    return stats


def image_stats(folders: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Of each camera: mean and std of R, G and B, as shares of 255, over FRAMES_PER_EPISODE frames an episode."""
    counts: dict[str, np.ndarray] = {}
    for folder in folders:
        with load_episode(folder) as episode:
            for row in spread_rows(len(episode["color"]), FRAMES_PER_EPISODE):
                for camera, name in enumerate(episode.camera_names):
                    image = episode["color"][row, camera].reshape(-1, 3)
                    of_image = [np.bincount(channel, minlength=256) for channel in image.T]
                    counts[name] = counts.get(name, 0) + np.array(of_image)
    levels, stats = np.arange(256) / 255, {}
    for name, histogram in counts.items():
        share = histogram / histogram.sum(axis=1, keepdims=True)
        mean = share @ levels
        stats[name] = {"mean": mean.tolist(), "std": np.sqrt(share @ levels**2 - mean**2).tolist()}
    return stats


def variation_stats(folders: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Of what was drawn for the episodes: count, mean, std, min and max of numbers, and how often each word came."""
    drawn: dict[str, list[float | str]] = {}
    for folder in folders:
        with load_episode(folder) as episode:
            for key, value in flat(variation_of(episode.h5)).items():
                drawn.setdefault(key, []).append(value)
    stats: dict[str, dict[str, Any]] = {}
    for key, values in drawn.items():
        if isinstance(values[0], str):
            stats[key] = {"count": len(values), "words": dict(Counter(values).most_common())}
        else:
            numbers = np.array(values, float)
            summary = {name: float(getattr(numbers, name)()) for name in ("mean", "std", "min", "max")}
            stats[key] = {"count": len(values), **summary}
    return stats


def print_stats(
    columns: dict[str, dict[str, Any]], images: dict[str, dict[str, Any]], drawn: dict[str, dict[str, Any]]
) -> None:
    """A line for each number of a column, for each camera, and for each number that was drawn for the episodes."""
    print(f"{'column':<38}" + "".join(f"{key:>10}" for key in ("mean", "std", "min", "q01", "q99", "max")))
    for name, stats in columns.items():
        for i, element in enumerate(stats["names"]):
            values = (stats[key][i] for key in ("mean", "std", "min", "q01", "q99", "max"))
            label = element if element.startswith(name) else f"{name} {element}"
            print(f"{label:<38}" + "".join(f"{value:>10.4f}" for value in values))
    for name, stats in images.items():
        of_channels = ", ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(stats["mean"], stats["std"], strict=True))
        print(f"camera {name}: R, G, B {of_channels} (of 1)")
    for key, stats in drawn.items():
        if "words" in stats:
            print(f"drawn {key}: {', '.join(f'{word} {count}' for word, count in stats['words'].items())}")
        else:
            print(f"drawn {key}: {stats['mean']:.4f} ± {stats['std']:.4f}, {stats['min']:.4f} to {stats['max']:.4f}")


def split(folders: list[Path], val: float, seed: int, only_success: bool) -> dict[str, Any]:
    """Draw validation episodes, a share `val` of the successful and of the other ones; `only_success` drops the latter.

    Raises:
        ValueError: one of the lists would be empty.
    """
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for folder in folders:
        kinds[succeeded(folder, unlabelled=None if only_success else True)].append(folder.name)
    if only_success:
        kinds[False] = []
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for names in kinds.values():
        chosen += rng.permutation(names)[: round(val * len(names))].tolist()
    rest = [name for names in kinds.values() for name in names if name not in chosen]
    if not chosen or not rest:
        raise ValueError(f"--val {val} of {len(chosen + rest)} episodes leaves one of the lists empty")
    order = [folder.name for folder in folders]
    return {
        "train": sorted(rest, key=order.index),
        "val": sorted(chosen, key=order.index),
        "val_share": val,
        "seed": seed,
        "only_success": only_success,
    }


def succeeded(folder: Path, unlabelled: bool | None = None) -> bool:
    """Whether an episode is labelled as successful; `unlabelled` is what counts without a label.

    Raises:
        ValueError: it has no label, and `unlabelled` is None.
    """
    with load_episode(folder) as episode:
        label = episode.attrs.get("success", unlabelled)
    if label is None:
        raise ValueError(f"--only_success: {folder} has no success label")
    return label


def split_lists(dataset: Path, splits: Path) -> dict[str, list[str]]:
    """The lists of the file `splits`, {} where there is none.

    Raises:
        ValueError: the file is damaged, names an episode that is not there, or one twice.
    """
    if not splits.is_file():
        return {}
    document = read_json(splits)
    lists = {name: value for name, value in document.items() if isinstance(value, list)}
    named = [episode for episodes in lists.values() for episode in episodes]
    there = {folder.name for folder in episode_folders(dataset)}
    if wrong := [episode for episode in named if episode not in there]:
        raise ValueError(f"{splits} names {wrong[0]}, which is not in the dataset")
    if len(set(named)) < len(named):
        raise ValueError(f"{splits} names an episode twice")
    return lists


def unlisted(dataset: Path, splits: Path) -> list[Path]:
    """The episodes in none of the lists of the file `splits`, but for those that `split --only_success` left out.

    Without the file there are none.

    Raises:
        ValueError: the file is damaged.
    """
    lists = split_lists(dataset, splits)
    if not lists:
        return []
    named = {episode for episodes in lists.values() for episode in episodes}
    missing = [folder for folder in episode_folders(dataset) if folder.name not in named]
    if read_json(splits).get("only_success"):
        missing = [folder for folder in missing if succeeded(folder, unlabelled=True)]
    return missing


def check_split_is_complete(dataset: Path, splits: Path) -> None:
    """Refuse lists that `split` drew before more episodes were collected; a user's own may leave some out.

    Raises:
        ValueError: with the number of episodes that would be missing, and the remedy.
    """
    missing = unlisted(dataset, splits)
    if missing and "only_success" in read_json(splits):  # `split` writes it
        raise ValueError(
            f"{splits} lacks {len(missing)} of {len(episode_folders(dataset))} episodes, which were "
            f"collected after it was drawn, the first is {missing[0].name}; move it and run vpl_dataset.py split "
            f"{dataset}, or take one list: --split train"
        )


def split_folders(dataset: Path, name: str | None, splits: Path) -> list[Path]:
    """The episodes of the list `name` in the file `splits`; all of the dataset without a name.

    Raises:
        ValueError: there is no such list, or none is left.
    """
    if name is None:
        folders = episode_folders(dataset)
    else:
        lists = split_lists(dataset, splits)
        if name not in lists:
            found = f"has {', '.join(lists)}" if lists else f"make one with vpl_dataset.py split {dataset}"
            raise ValueError(f"--split {name}: no such list in {splits}; {found}")
        folders = [dataset / episode for episode in lists[name]]
    if not folders:
        raise ValueError(f"{dataset} has no episode here")
    return folders
