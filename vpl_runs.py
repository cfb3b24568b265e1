"""What episodes were collected with: the list `runs` in metadata.json, and each episode's index in it, `run`.

    runs, index = continue_runs(recorded_runs(metadata), describe_run(versions, arguments, checkpoint))

A run is one set of versions and one kind of machine. A run that is resumed with the same ones goes on as the same run,
so that its episodes are, byte for byte, those of an uninterrupted one; `starts` says when and where that was.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

PROJECT = "isaac-data-gen"
CHANGES_NOTHING = ("threads",)
"""What `versions` has and no episode depends on."""


def project_versions(folder: Path) -> dict[str, str]:
    """The version of the project whose scripts are in `folder`, and the commit where that is a repository's."""
    pyproject = folder / "pyproject.toml"
    found = re.search(rf'name = "{PROJECT}"\nversion = "(.+)"', pyproject.read_text()) if pyproject.is_file() else None
    installed = [distribution.version for distribution in importlib.metadata.distributions(name=PROJECT)]
    project = found[1] if found else (*installed, "unknown")[0]
    commit = _commit(folder)
    return {"project": project, **({"commit": commit} if commit else {})}


def _commit(folder: Path) -> str:
    """The full hash, with "-dirty" where a tracked file was changed since; "" where it is not known."""
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def describe_run(
    versions: Mapping[str, Any], arguments: Mapping[str, Any], checkpoint: Mapping[str, Any]
) -> dict[str, Any]:
    """The present run, as `runs` lists it."""
    start = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "host": platform.node()}
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()).strip(),
        "cpu": _cpu(),
    }
    return {
        "versions": dict(versions),
        "machine": machine,
        "arguments": dict(arguments),
        "checkpoint": dict(checkpoint),
        "starts": [start],
    }


def recorded_runs(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs of a dataset; one of an earlier version is a single run, and a new one has none."""
    if "runs" in metadata:
        return list(metadata["runs"])
    run = {key: metadata[key] for key in ("versions", "arguments", "checkpoint") if key in metadata}
    return [run] if run else []


def continue_runs(recorded: list[dict[str, Any]], run: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """The runs with the present one, and its index: an earlier run's where nothing differs that bytes depend on."""
    for index, earlier in enumerate(recorded):
        if not differences(earlier, run):
            again = {**earlier, "starts": [*earlier["starts"], *run["starts"]]}
            return [*recorded[:index], again, *recorded[index + 1 :]], index
    return [*recorded, run], len(recorded)


def differences(earlier: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """What bytes may depend on and differs, in words: ["torch 2.8.0 -> 2.9.0"]."""
    before, now = (dict(some.get("versions", {})) | some.get("machine", {}) for some in (earlier, run))
    keys = [key for key in (before | now) if key not in CHANGES_NOTHING and before.get(key) != now.get(key)]
    return [f"{key} {before.get(key, 'not recorded')} -> {now.get(key, 'none')}" for key in keys]


def _cpu() -> str:
    """The processor's name."""
    listing = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", listing.read_text(), re.MULTILINE) if listing.is_file() else None
    return found[1] if found else platform.processor()
