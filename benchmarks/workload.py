"""The collecting job that the benchmarks measure."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from flags import collect as collect_flags


def collecting_job(
    data_root: Path, num_envs: int, steps: int, width: int, height: int, *flags: str
) -> argparse.Namespace:
    """The collector's arguments for one round of that size with both cameras."""
    size = f"--num_envs {num_envs} --num_episodes 1 --steps {steps} --width {width} --height {height}"
    return collect_flags.parse_args([*size.split(), "--enable_wrist_camera", "--data_root", str(data_root), *flags])
