"""The collecting job that the benchmarks measure, their pictures' size, and what makes two episodes the same."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import h5py

from flags import FlagError, refuse
from flags.collect import Job, parse_flags, prepare
from vpl_dataset import load_episode


def collecting_job(data_root: Path, num_envs: int, steps: int, width: int, height: int, *flags: str) -> Job:
    """The collector's job of one round of that size with both cameras; ends the program if it cannot be collected."""
    words = f"--num_envs {num_envs} --num_episodes 1 --steps {steps} --width {width} --height {height}"
    try:
        return prepare(parse_flags([*words.split(), "--enable_wrist_camera", "--data_root", str(data_root), *flags]))
    except FlagError as error:
        refuse(error)


def size(text: str) -> str:
    """A picture's width and height in px, `320x240`."""
    if not re.fullmatch(r"\d+x\d+", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 320x240")
    return text


def digest(path: Path) -> str:
    """SHA-256 of a file; of an episode's HDF5, of all that it holds: isal deflates a picture, once in thousands of
    times, to other bytes that inflate to the same."""
    if path.suffix != ".h5":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    found = hashlib.sha256()
    with load_episode(path.parent) as episode:

        def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
            found.update(f"{name} {sorted((key, str(value)) for key, value in item.attrs.items())}".encode())
            if isinstance(item, h5py.Dataset):
                found.update((episode.read_images(name) if name in episode.streams else item[()]).tobytes())

        add("", episode.h5)
        episode.h5.visititems(add)
    return found.hexdigest()
