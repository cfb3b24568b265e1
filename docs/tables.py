"""Writes the tables of FULL_GUIDE.md that say what the code says: every command's flags, and an episode's columns.

    python docs/tables.py            # after a flag or a column has changed

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`; what is between them is replaced.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

PROJECT = Path(__file__).parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "examples")]

from train_student import TrainFlags as StudentFlags

from evaluate_policy import EvaluateFlags
from flags import default_text, described
from flags.cameras import CameraFlags
from flags.collect import CollectFlags
from flags.on_ray import RayFlags
from replay_episode import ReplayFlags
from simulators.recorded import recorded_columns
from simulators.scene import JOINT_NAMES
from simulators.tasks.open_drawer import OpenDrawer
from train_policy import TrainFlags
from vpl.columns import Column
from vpl.format import IMAGES, INTRINSICS, TIMESTAMPS
from vpl_dataset import COMMANDS
from vpl_export import ExportFlags

GUIDE = PROJECT / "FULL_GUIDE.md"
MARKED = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def flags_table(flags: type, without: Iterable[str] = ()) -> str:
    """A row for each flag of a dataclass but those named `without`."""
    rows = []
    for field, about in described(flags):
        if field.name in without:
            continue
        default = default_text(field, about)
        if default and about.default_says is None:
            default = f"`{default}`"
        name = field.name.upper() if about.positional else f"--{field.name}"
        values = f" ({', '.join(f'`{choice}`' for choice in about.choices)})" if about.choices else ""
        group = f"{about.group}: " if about.group else ""
        rows.append((f"`{name}`", default, about.unit, f"{group}{about.help}{values}"))
    return table(("flag", "default", "unit", "meaning"), rows)


def episode_columns() -> dict[str, Column]:
    """The columns of the default task's episodes, with the letters of FULL_GUIDE.md for what differs."""
    task = OpenDrawer()
    columns = recorded_columns(JOINT_NAMES, task.obs_terms, task.num_actions, "C", "S", task.columns)
    return {"intrinsics": INTRINSICS, **columns, "timestamps": TIMESTAMPS}


def columns_table() -> str:
    """A row for each dataset of an episode's HDF5."""
    rows = []
    for name, column in {**IMAGES, **episode_columns()}.items():
        first = "C" if column is INTRINSICS else "T"
        shape = ", ".join(map(str, (first, *column.shape)))
        rows.append((f"`{name}`", f"({shape}) {column.dtype}", column.role.value, column.unit, column.meaning))
    return table(("dataset", "shape, dtype", "role", "unit", "meaning"), rows)


def tables() -> dict[str, str]:
    """All of them by their names in FULL_GUIDE.md."""
    cameras = [field.name for field in fields(CameraFlags)]
    return {
        "collect_tiled_with_checkpoint.py": flags_table(CollectFlags),
        "collect_on_ray.py": flags_table(RayFlags, without=[field.name for field in fields(CollectFlags)]),
        "train_policy.py": flags_table(TrainFlags),
        "replay_episode.py": flags_table(ReplayFlags, without=cameras),
        "vpl_export.py": flags_table(ExportFlags),
        "evaluate_policy.py": flags_table(EvaluateFlags, without=[*cameras, "pose_range", "randomize"]),
        "examples/train_student.py": flags_table(StudentFlags),
        **{f"vpl_dataset.py {name}": flags_table(flags) for name, (flags, *_) in COMMANDS.items()},
        "columns": columns_table(),
    }


def filled(text: str) -> str:
    """A document with its tables as the code has them now."""
    present = tables()
    return MARKED.sub(lambda match: f"{match[1]}{present[match[2]]}{match[3]}", text)


if __name__ == "__main__":
    GUIDE.write_text(filled(GUIDE.read_text()))
