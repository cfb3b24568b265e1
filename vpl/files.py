"""Names and folders that no two runs share, flushing to disk, and the signals that end a run.

Example:
    claim = Claim(dataset / ".partial")                 # refused while another run writes into the dataset
    publish(claim.folder / "episode_003", dataset / "episode_003")
    claim.release()
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import resource
import secrets
import select
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TypeVar

Made = TypeVar("Made")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a run to end: Ctrl-C, `kill` and schedulers, a terminal that was closed."""
HEARTBEAT_S = 10.0
"""How often a run touches its folder to show that it lives."""
STALE_S = 120.0
"""A run on another machine or in another container counts as dead after this long without a heartbeat."""
CANNOT_FLUSH = (errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""What file systems answer that cannot flush a folder (CIFS, VirtualBox's shared folders, some FUSE)."""
ATTEMPT = re.compile(r"(?P<host>.+)_(?P<place>[\da-f]{8}-\d+)_(?P<pid>\d+)_(?P<start>\d+)_[\da-f]{8}")
"""The name of a run's folder in .partial/; `place` is one of the system's boots and a container in it."""


class ClaimError(RuntimeError):
    """Another run writes into the dataset; says which."""


class Claim:
    """The folder in `.partial/` that holds a run's parts; while the run lives, no other one writes into the dataset.

    It needs no locks, which some file systems lack and which bind only one machine on others. A run makes its folder
    before it looks for those of others, so of two that start together at least one sees the other. A run whose folder
    was deleted because it seemed dead can no longer write or publish anything.
    """

    def __init__(self, partial: Path) -> None:
        """Make the folder and delete all else in `partial`, which dead runs have left.

        Raises:
            ClaimError: another run is alive.
        """
        host = re.sub(r"[^\w.-]", "-", socket.gethostname())
        start, token = _start_of(os.getpid()), secrets.token_hex(4)
        self.folder = partial / f"{host}_{_this_place()}_{os.getpid()}_{start}_{token}"
        self._released = threading.Event()
        self.folder.mkdir(parents=True)
        try:
            self._wait_for_others()
            self._drop_leftovers()
        except BaseException:
            self.release()
            raise
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def release(self) -> None:
        """Delete the folder, and `.partial/` if nothing else is in it."""
        self._released.set()
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another run's folder is in it, or all of it is gone
            self.folder.parent.rmdir()

    def _others(self) -> list[Path]:
        return [path for path in self.folder.parent.iterdir() if path != self.folder]

    def _wait_for_others(self) -> None:
        """Of runs that start together, the first by name waits until the others have seen it and left."""
        deadline = time.monotonic() + 3
        while alive := [path for path in self._others() if self._is_alive(path)]:
            if min(alive) < self.folder or time.monotonic() > deadline:
                host, _, pid = alive[0].name.rsplit("_", 4)[:3]
                raise ClaimError(
                    f"another process writes into {self.folder.parent.parent}: process {pid} on {host}; wait for it or "
                    f"stop it, or if that machine or container is gone, try again in {STALE_S:.0f} s"
                )
            time.sleep(0.1)

    def _is_alive(self, other: Path) -> bool:
        attempt = ATTEMPT.fullmatch(other.name)
        if attempt is None:
            return False
        if attempt["place"] == _this_place():
            return _start_of(int(attempt["pid"])) == attempt["start"]
        os.utime(self.folder)  # by the file server's clock, like the other's heartbeat
        try:
            return self.folder.stat().st_mtime - other.stat().st_mtime < STALE_S
        except FileNotFoundError:
            return False

    def _drop_leftovers(self) -> None:
        for path in self._others():
            bury(path, self.folder)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            with suppress(OSError):  # the next one may come through
                os.utime(self.folder)


def _this_place() -> str:
    """Where process numbers mean the same: this boot of this system, in this container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return f"{boot[:8]}-{os.stat('/proc/self/ns/pid').st_ino}"


def _start_of(pid: int) -> str:
    """When a process started, in clock ticks since the boot; "" if there is none. Process numbers are used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "XZ" else fields[19]  # it may have been killed and not yet be waited for


def publish(part: Path, target: Path) -> bool:
    """Rename a folder whose files are on disk; False if something is at `target`, which is never replaced."""
    if os.path.lexists(target):
        return False
    try:
        part.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):  # it has come meanwhile
            return False
        raise
    fsync(target.parent)
    return True


def bury(path: Path, cemetery: Path) -> None:
    """Delete parts that a writer may still hold; from here on it can publish none of them.

    First all of it is moved away, to a name in the folder `cemetery`: a writer that outlives its run finds nothing to
    write into. On NFS another machine may know folders by their handles, so the episodes in them move, too.
    """
    grave = cemetery / f"dropped-{secrets.token_hex(4)}"
    grave.mkdir()
    path.rename(grave / path.name)
    for part in [*grave.glob("*/*/episode_*"), *grave.glob("*/*")]:
        with suppress(FileNotFoundError):  # that writer has removed it by itself
            part.rename(grave / secrets.token_hex(8))
    shutil.rmtree(grave, ignore_errors=True)  # NFS keeps what such a writer has open until it ends


def fsync(path: Path) -> None:
    """Flush a file or a folder to disk; a folder only if its file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


@contextmanager
def published(output: Path, replace: bool = False) -> Iterator[Path]:
    """A path to make a file or folder at, which becomes `output` when the block ends, and goes when the block fails.

    Raises:
        FileExistsError: `output` exists, and is no file to `replace`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    if not replace:
        _refuse_existing(output)
    # cleaning up after a failure must not hide it
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.", ignore_cleanup_errors=True) as folder:
        partial = Path(folder) / output.name
        yield partial
        if not replace:
            _refuse_existing(output)  # it may have come meanwhile
        partial.rename(output)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} is no JSON object")
    return document


def at_free_name(folder: Path, name: str, make: Callable[[Path], Made], suffix: str = "") -> Made:
    """What `make` makes at `folder / <name>_<present second><suffix>`; if it finds that taken, in the next second."""
    while True:
        with suppress(FileExistsError):
            return make(folder / f"{name}_{time.strftime('%Y%m%d_%H%M%S')}{suffix}")
        time.sleep(0.1)


class StopSignal:
    """Notes the first of STOP_SIGNALS, for a loop to end at its next step; Ctrl-C once more calls `hurry`.

    Nothing is raised, so nothing is left half done. A second SIGTERM is no request for haste: `timeout` sends each
    one twice. SIGHUP stays ignored where it is, as under nohup.
    """

    number = 0
    """The signal that came first; 0: none."""

    def __init__(self, what: str) -> None:
        """`what` is done before the end, in words."""
        self.hurry: Callable[[], None] = lambda: None
        self._message = f"\nstopping: {what}; press Ctrl-C again to leave at once\n".encode()
        _handle(STOP_SIGNALS, self._note)

    def _note(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            _close_lost_terminal()
        if not self.number:
            self.number = number
            os.write(2, self._message)
        elif number == signal.SIGINT:
            self.hurry()


class StopFile:
    """Notes that a file has come, for the loop of a process that no signal reaches."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number, self._due = 0, 0.0

    @property
    def number(self) -> int:
        """SIGTERM once the file is there, which is looked for once a second; 0: it is not."""
        if not self._number and time.monotonic() > self._due:
            self._due = time.monotonic() + 1
            self._number = signal.SIGTERM if self._path.exists() else 0
        return self._number


def run(main: Callable[[], int]) -> NoReturn:
    """End the process with the exit code of `main`; quietly, if whoever reads its output has gone, as `head` does."""
    signal.signal(signal.SIGPIPE, _exit_if_unread)
    for output in filter(None, (sys.stdout, sys.stderr)):  # None: closed by the caller
        output.reconfigure(errors="replace")  # a terminal may know ASCII only
    try:
        code = main()
    finally:
        if sys.stdout:
            sys.stdout.flush()  # now, while a reader that has gone can still be noticed
    ignore_stop_signals()
    sys.exit(code)


def open_file_limit() -> float:
    """How many files this process may have open at once, after raising its limit to what the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return math.inf if most == resource.RLIM_INFINITY else most


def child_environment() -> dict[str, str]:
    """Variables with which a child process finds the same modules as this one, and none of the present folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}


def exit_on_stop_signals() -> None:
    """Let SIGTERM and SIGHUP end this process as an exception does, so that nothing half done is left."""
    _handle(STOP_SIGNALS[1:], _exit)


def _exit(number: int, _frame: object) -> NoReturn:
    ignore_stop_signals()  # a second one must not interrupt the cleaning up
    sys.exit(128 + number)


def _exit_if_unread(number: int, frame: object) -> None:
    """End if nobody reads the output; what broke else, a browser's request or a writer's pipe, is a BrokenPipeError."""
    output = select.poll()
    output.register(1, 0)
    if any(event & select.POLLERR for _, event in output.poll(0)):
        _send_nowhere(1)
        _exit(number, frame)


def ignore_stop_signals() -> None:
    """For a process that ends anyway: Python's own end would make them deadly again, and the exit code theirs."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _handle(numbers: tuple[signal.Signals, ...], handler: Callable[[int, object], None]) -> None:
    for number in numbers:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _close_lost_terminal() -> None:
    """Let output go nowhere whose terminal is gone, where printing would fail."""
    for output in (1, 2):
        try:
            os.write(output, b"")
        except OSError:
            _send_nowhere(output)


def _send_nowhere(output: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)


def check_outside(output: Path, datasets: Iterable[Path]) -> None:
    """Refuse to write into a dataset that is read.

    Raises:
        ValueError: `output` lies in one.
    """
    for dataset in datasets:
        if dataset.resolve() in output.resolve().parents:
            raise ValueError(f"--output {output} lies in {dataset}, which is read; give a place outside of it")
