"""A dataset's folder while a run has it for itself: a row for each published episode, and metadata.json.

    catalog = Catalog(cfg, resume=False)
    catalog.episodes += rows                  # of what was published, by whomever, from under `catalog.folder`
    catalog.write_metadata()
    catalog.leave()

One run at a time has a dataset. Its parts are under `folder`, in .partial/: whoever takes a dataset over, because its
run is dead, takes that folder away, and what is left of the run can then neither publish nor delete anything.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from vpl.episode import DatasetCfg, SaverError
from vpl.files import Claim, ClaimError, bury
from vpl.format import FORMAT_VERSION
from vpl.listing import all_episode_folders, damage, read_row
from vpl.rows import Rows

ROW_S = 1e-5
"""About what a row takes in metadata.json, of an episode that is on disk."""
KEPT = "whole episodes are kept"
"""What a message says of an end before the end; the remedy follows it."""


class Catalog:
    """The claim on a dataset's folder and the rows of its episodes."""

    def __init__(self, cfg: DatasetCfg, resume: bool) -> None:
        """Create the dataset's folder, or with `resume` open it, dropping what an earlier run left in .partial/.

        Raises:
            FileExistsError: `cfg.root` exists and is not to be resumed.
            SaverError: another process writes into the dataset, or nothing can be written there.
        """
        self.cfg = cfg
        self.episodes = Rows()
        """A row for each published episode, as in metadata.json."""
        self.dropped: list[dict[str, Any]] = []
        """A row for each episode that this run left out: episode_index, round, env_index, step and reason."""
        self.writer_wait_s = 0.0
        """Seconds that the simulation waited for the writers."""
        self._written, self._took = 0.0, 0.0
        """When metadata.json was written last, and how long that took."""
        cfg.root.mkdir(parents=True, exist_ok=resume)
        with ExitStack() as undo, beginning(cfg.root):
            if not resume:
                undo.callback(_remove_empty, cfg.root)
            self._claim = Claim(cfg.root / ".partial")
            undo.callback(self._claim.release)
            self.read_missing_rows()
            self._undo = undo.pop_all()

    @property
    def folder(self) -> Path:
        """Where this run's parts are, in .partial/."""
        return self._claim.folder

    def forget(self) -> None:
        """Undo what was begun, where nothing has been written."""
        self._undo.close()

    def write_metadata(self) -> None:
        """Replace metadata.json; it repeats what the episodes' files say."""
        start = time.monotonic()
        document = {
            "format_version": FORMAT_VERSION,
            "task": self.cfg.task,
            "simulator": self.cfg.simulator,
            "num_episodes": len(self.episodes),
            **({"num_successes": self.episodes.num_successes} if "success" in self.cfg.columns else {}),
            "writer_wait_s": round(self.writer_wait_s, 3),
            **self.cfg.metadata,
            **({"dropped": self.dropped} if self.dropped else {}),
            "episodes": [],
        }
        temporary = self.folder / "metadata.json"
        with open(temporary, "w") as file:
            file.write(json.dumps(document, indent=1, allow_nan=False).removesuffix("]\n}"))
            for position, row in enumerate(self.episodes):  # a line each: all of them are never in memory
                file.write(f"{',' if position else ''}\n  {json.dumps(row, allow_nan=False)}")
            file.write("\n ]\n}")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.cfg.root / "metadata.json")
        self._written = time.monotonic()
        self._took = self._written - start

    def keep_up(self) -> None:
        """`write_metadata` if it is time for that: it is derived, so at most 1 % of the time, and the end completes it.

        Raises:
            SaverError: it failed.
        """
        takes = max(self._took, ROW_S * len(self.episodes))  # the last time there may have been few rows
        if time.monotonic() > self._written + max(1.0, 100 * takes):
            try:
                self.write_metadata()
            except OSError as error:
                raise self._failure(error) from error

    def read_missing_rows(self) -> None:
        """Add the rows of published episodes that `episodes` lacks.

        Raises:
            SaverError: one is damaged.
        """
        known = {row["path"] for row in self.episodes}
        folders = [f for f in all_episode_folders(self.cfg.root) if str(f.relative_to(self.cfg.root)) not in known]
        if damaged := next(filter(None, map(damage, folders)), None):
            raise SaverError(damaged)
        self.episodes += (read_row(folder, self.cfg.root) for folder in folders)

    def read_round(self, number: int) -> list[dict[str, Any]]:
        """The rows of a round's episodes that are on disk; adds those that `episodes` lacks."""
        rows = {row["episode_index"]: row for row in self.episodes.of_round(number)}
        first = number * self.cfg.num_envs
        for index in {*range(first, first + self.cfg.num_envs)} - rows.keys():
            name = f"episode_{index:03d}"
            for folder in filter(Path.is_dir, (self.cfg.root / name, self.cfg.root / "failed" / name)):
                rows[index] = read_row(folder, self.cfg.root)
                self.episodes += [rows[index]]
        return list(rows.values())

    def leave(self) -> None:
        """Remove what is not published, complete metadata.json from what is on disk and let go of the dataset.

        Raises:
            SaverError: that failed.
        """
        try:
            for path in list(self.folder.iterdir()):
                bury(path, self.folder)
            self.read_missing_rows()
            self.write_metadata()
        except OSError as error:
            raise self._failure(error) from error
        finally:
            self._claim.release()

    def _failure(self, error: Exception) -> SaverError:
        return failure(self.cfg.root, self.folder, error)


def failure(root: Path, folder: Path, error: Exception) -> SaverError:
    """What to say of an error of writing into the dataset `root` from the run's `folder`."""
    if root.exists() and not folder.exists():
        return SaverError(f"another run has taken {root} over; {KEPT}")
    return SaverError(f"writing failed: {error}; {KEPT}, go on with --resume {root}")


@contextmanager
def beginning(root: Path) -> Iterator[None]:
    """Failures of the start, in a line.

    Raises:
        SaverError: there is one.
    """
    try:
        yield
    except ClaimError as error:
        raise SaverError(str(error)) from error
    except OSError as error:
        raise SaverError(f"nothing could be begun in {root}: {error}") from error


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # something is in it
        folder.rmdir()
