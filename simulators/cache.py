"""The folder for what is made once and found again: the user's cache, or a temporary one where there is none."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from simulators import SimulatorError


def user_cache() -> Path | None:
    """$XDG_CACHE_HOME or ~/.cache, whether it exists or not; None: the user has no home, as in `docker run --user`."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(folder) if os.path.isabs(folder) else None


def writable_cache() -> Path:
    """`user_cache`; where that cannot be written a temporary folder, which is the cache for the rest of this process.

    Libraries that keep things, such as Warp, find it in the environment.

    Raises:
        SimulatorError: not even a temporary folder can be made.
    """
    cache = user_cache()
    try:
        if cache is None:
            raise FileNotFoundError("this user has no home")
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=cache).cleanup()
        return cache
    except OSError as error:
        reason = f"{cache}: {error.strerror}" if error.strerror else str(error)
    try:
        temporary = Path(tempfile.mkdtemp(prefix="isaac-data-gen-"))
    except OSError as error:
        raise SimulatorError(f"no cache ({reason}) and no temporary folder; set XDG_CACHE_HOME to one") from error
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = str(temporary)
    print(f"no cache ({reason}): using {temporary} for this run; set XDG_CACHE_HOME to keep one", file=sys.stderr)
    return temporary
