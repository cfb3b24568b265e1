"""The collecting job that the benchmarks measure."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from flags import FlagError, refuse
from flags.collect import Job, parse_flags, prepare


def collecting_job(data_root: Path, num_envs: int, steps: int, width: int, height: int, *flags: str) -> Job:
    """The collector's job of one round of that size with both cameras; ends the program if it cannot be collected."""
    size = f"--num_envs {num_envs} --num_episodes 1 --steps {steps} --width {width} --height {height}"
    try:
        return prepare(parse_flags([*size.split(), "--enable_wrist_camera", "--data_root", str(data_root), *flags]))
    except FlagError as error:
        refuse(error)
