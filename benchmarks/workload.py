"""The collecting job that the benchmarks measure, and the flags for its size."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import collect_flags


def size_parser(description: str | None, repetitions: int) -> argparse.ArgumentParser:
    """A parser with the flags that both benchmarks take."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--num_envs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--repetitions", type=int, default=repetitions)
    parser.add_argument("--data_root", type=Path, default=None, help="folder for frames and files, removed afterwards")
    return parser


def collecting_job(args: argparse.Namespace, data_root: Path) -> argparse.Namespace:
    """The collector's arguments for one round of that size with both cameras."""
    flags = f"--num_envs {args.num_envs} --num_episodes 1 --steps {args.steps} --enable_wrist_camera"
    flags += f" --width {args.width} --height {args.height}"
    return collect_flags.parse_args([*flags.split(), "--data_root", str(data_root)])
