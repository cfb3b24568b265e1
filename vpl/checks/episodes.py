"""Checks episodes, side by side: everything that can be said of one by itself and the dataset's cameras.

Example:
    for folder, checked in zip(folders, check_episodes(folders, cameras)): print(folder, checked.found)

The processes are programs of their own: multiprocessing would import the caller's script again in each, and
threads would wait for each other in HDF5. A file on which a library crashes ends its process, not the caller's.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import h5py
import numpy as np

from vpl.checks.format import Contents, Finding, every_step, read_contents
from vpl.checks.geometry import check_geometry
from vpl.checks.images import check_images
from vpl.checks.rows import Found, Rows, check_rows
from vpl.columns import Role, SuccessRule
from vpl.files import child_environment
from vpl.format import KNOWN, OPTIONAL_ATTRIBUTES, OPTIONAL_IN_VERSION_1, ROW_ATTRIBUTES, RULE_ATTRIBUTES
from vpl.listing import describe
from vpl.usable_cores import usable_cores

MOTION = ("joint_pos", "action")
"""Columns that two episodes never have in common."""
PROGRAM = ("-c", "from vpl.checks.episodes import check_what_stdin_names as check; check()")
"""What Python is asked to do in each process."""
FEW = 8
"""Episodes that are checked sooner than a process is started."""
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGKILL)
"""What ends a process that a damaged file leads astray; the last where it takes all memory."""


@dataclass(frozen=True)
class Checked:
    """What was found in an episode."""

    found: Sequence[Finding]
    motion: str = ""
    """A hash of its motion; "" where there is none."""
    row: dict[str, Any] = field(default_factory=dict)
    """Its row of metadata.json, but for the path; {} where the file does not say."""


def check_episodes(folders: Sequence[Path], cameras: list[Any]) -> list[Checked]:
    """Check episodes by as many processes as there are cores; `cameras` are those of metadata.json."""
    if len(folders) <= FEW:
        return [check_episode(folder, cameras) for folder in folders]
    workers = min(usable_cores(), -(-len(folders) // FEW))
    with ExitStack() as stack:
        shares = [_Share(folders[worker::workers], cameras) for worker in range(workers)]
        for share in shares:
            stack.callback(share.stop)
        checked = [share.finish() for share in shares]
    return [checked[index % workers][index // workers] for index in range(len(folders))]


def check_episode(folder: Path, cameras: list[Any]) -> Checked:
    """Check one episode, also one in .partial/."""
    path = folder / f"{folder.name}.h5"
    if not path.is_file():
        return Checked([(None, f"has no {path.name}")])
    try:
        with h5py.File(path, locking=False) as h5, np.errstate(all="ignore"):
            return _check_file(h5, folder, cameras)
    except OSError as error:
        return Checked([(None, f"{path.name} cannot be read: {' '.join(str(error).split())}")])
    except Exception as error:  # a foreign file can hold anything, and must not keep the others from being checked
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Checked([(None, f"{path.name} cannot be checked: {reason}")])


def _check_file(h5: h5py.File, folder: Path, cameras: list[Any]) -> Checked:
    contents, found = read_contents(h5, cameras)
    about, rows = contents.about, contents.rows
    number = int(folder.name.split("_")[1])
    if about.attrs.get("episode_index", number) != number:
        found.append((None, f"episode_index is {about.attrs['episode_index']}"))
    found += check_rows(rows, about)
    found += [(row, f"full_rate: {reason}") for row, reason in check_rows(contents.full_rate, every_step(about))]
    found += check_success(h5, contents)
    if "color" in contents.images:
        fps = float(about.attrs["fps"]) if "fps" in about.attrs else None
        found += check_images(contents.images["color"], rows, folder, fps)
    found += check_geometry(contents.images, rows)
    motion = motion_digest({name: rows[name] for name in MOTION if name in rows}, about.variation)
    return Checked(found, motion, _row(h5, contents))


def check_success(h5: h5py.File, contents: Contents) -> Found:
    """The label is what the columns say at the last control step, or both are absent."""
    attrs, rows = contents.about.attrs, contents.full_rate or contents.rows
    rule = [name for name in RULE_ATTRIBUTES if name in attrs]
    if "success" not in h5.attrs:
        if rule or "success" in rows:
            yield None, "attribute success is missing"
        elif _measures(h5):
            yield None, f"attributes success, {', '.join(sorted(RULE_ATTRIBUTES))} are missing"
        return
    if "success" not in attrs:
        return  # of another type, which is told
    if "success" in rows and attrs["success"] != rows["success"][-1]:
        yield None, f"success is {attrs['success']} but its column ends with {bool(rows['success'][-1])}"
    needed = set(RULE_ATTRIBUTES) if "columns" in h5.attrs else {"success_metric", "success_threshold"}
    if "success" not in rows or rule:
        yield from _check_rule(attrs, rows, needed - set(h5.attrs))


def _check_rule(attrs: Mapping[str, Any], rows: Rows, missing: set[str]) -> Found:
    """The label is what one number says."""
    if missing:
        yield None, f"attributes {', '.join(sorted(missing))} are missing"
    if not attrs.keys() >= {"success_metric", "success_threshold"}:
        return
    metric = attrs["success_metric"]
    rule = SuccessRule(metric, attrs.get("success_comparison", ">="), attrs["success_threshold"])
    column = rows.get(metric)
    if rule.comparison not in (">=", "<="):
        yield None, f"success_comparison is {rule.comparison}, which is neither >= nor <="
    elif column is None or column.ndim > 1:
        yield None, f"success_metric is {metric}, which is no whole column of single numbers"
    elif attrs["success"] != rule.holds(column[-1]):
        yield None, f"success is {attrs['success']} but {metric} ends at {column[-1]:.3f}"


def _measures(h5: h5py.File) -> bool:
    """Whether a file of version 1 has a column that its task alone has, which has a measure of success."""
    return any(name in h5 and KNOWN[name].role is Role.PRIVILEGED for name in OPTIONAL_IN_VERSION_1)


def _row(h5: h5py.File, contents: Contents) -> dict[str, Any]:
    attrs, rows = contents.about.attrs, contents.full_rate or contents.rows
    repeated = {*ROW_ATTRIBUTES, *(set(h5.attrs) & OPTIONAL_ATTRIBUTES.keys())}
    measured = "success_metric" not in attrs or np.ndim(rows.get(attrs["success_metric"], [[]])) == 1
    return describe(h5) if attrs.keys() >= repeated and measured else {}


def motion_digest(rows: Mapping[str, np.ndarray], variation: Mapping[str, Any]) -> str:
    """A hash of an episode's columns MOTION and of the scene that it was filmed in, by which a second copy of it is
    known; "" where there are none."""
    numbers = b"".join(rows[name].tobytes() for name in sorted(rows))
    return hashlib.sha256(numbers + json.dumps(variation, sort_keys=True).encode()).hexdigest() if rows else ""


class _Share:
    """Episodes that a process checks, one after the other; the next one takes over where it crashes."""

    def __init__(self, folders: Sequence[Path], cameras: list[Any]) -> None:
        self._folders, self._cameras = folders, cameras
        self._checked: list[Checked] = []
        self._start()

    def finish(self) -> list[Checked]:
        """Wait for the results.

        Raises:
            RuntimeError: a process could not do its work, whatever the episodes are.
        """
        while len(self._checked) < len(self._folders):
            code = self._process.wait()
            self._output.seek(0)
            self._checked += [Checked(**json.loads(line)) for line in self._output]
            self._output.close()
            if len(self._checked) == len(self._folders):
                break
            if -code not in CRASHES:
                raise RuntimeError(f"a process that checks episodes ended with exit code {code}")
            name = signal.Signals(-code).name
            self._checked.append(Checked([(None, f"cannot be checked: reading it ended a process by {name}")]))
            self._start()
        return self._checked

    def stop(self) -> None:
        """End the process if it still runs."""
        self._process.kill()
        self._process.wait()
        self._output.close()

    def _start(self) -> None:
        folders = [str(folder) for folder in self._folders[len(self._checked) :]]
        self._output = TemporaryFile("w+")  # noqa: SIM115  a file, for which no process waits as it would for a pipe
        with TemporaryFile("w+") as task:
            json.dump({"folders": folders, "cameras": self._cameras}, task)
            task.seek(0)
            command = [sys.executable, *PROGRAM]
            self._process = subprocess.Popen(command, stdin=task, stdout=self._output, env=child_environment())


def check_what_stdin_names() -> None:
    """Check episodes in a process of its own; a line of JSON for each."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the whole group
    task = json.load(sys.stdin)
    for folder in task["folders"]:
        print(json.dumps(asdict(check_episode(Path(folder), task["cameras"]))), flush=True)
