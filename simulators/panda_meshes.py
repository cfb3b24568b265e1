"""The Panda's visual meshes: from the installed gymnasium-robotics package, decimated once into the user's cache.

    for material, path in panda_meshes()["link5"]: ...

The package holds one STL a link (134k triangles in all, Apache-2.0). A link's connected components tell its white
shell from its dark caps and rings, so they become meshes of their own. On a CPU rendering time follows the triangles
(2.4 x from 20k to 134k), so the arm is reduced to about 20k; the fingers, close to the wrist camera, stay whole.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

_LINKS = ("link0", "link1", "link2", "link3", "link4", "link5", "link6", "link7", "hand", "finger")
_KEEP = 0.14
"""Share of a link's triangles that is kept."""
_DARK = {"link3": (1,), "link4": (1,), "link5": (1,), "link6": (1, 2), "link7": (0,), "hand": (1,), "finger": (1,)}
"""Components, by falling area, that are dark on the real arm."""
_RECIPE = "2"
"""Names the cache folder: raise it with every change to what is made here."""
_MANIFEST = "sha256.json"
_KEPT: list[TemporaryDirectory] = []
"""Where there is no cache: the folder goes with this process."""


def panda_meshes() -> dict[str, list[tuple[str, Path]]]:
    """Material and STL file of each mesh, by link; made on the first call (about 3 s), then found in the cache.

    Raises:
        FileNotFoundError: gymnasium-robotics is not installed or holds other meshes than version 1.4.
    """
    cache = _user_cache()
    folder = cache if cache and _is_whole(cache) else _build(cache)
    return {link: [(path.stem.split("-")[1], path) for path in sorted(folder.glob(f"{link}-*.stl"))] for link in _LINKS}


def _user_cache() -> Path | None:
    """The meshes' folder in the user's cache; None: the user has neither a home nor XDG_CACHE_HOME."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return base / "isaac-data-gen" / f"panda-{_RECIPE}" if base.is_absolute() else None


def _is_whole(folder: Path) -> bool:
    """Whether the folder holds the files of its manifest, unchanged: links that are missing would not be drawn."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        return all(_sha256(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError):
        return False


def _build(cache: Path | None) -> Path:
    """Make the meshes in `cache`, or, said in a line, in a folder that goes with this process; returns the folder."""
    try:
        if cache is None:
            raise OSError("the user has no home")
        cache.parent.mkdir(parents=True, exist_ok=True)
        place = TemporaryDirectory(dir=cache.parent, prefix=".panda-", ignore_cleanup_errors=True)
    except OSError as error:
        where = f"cannot be kept in {cache.parent}" if cache else "cannot be kept"
        print(f"the robot's meshes {where} ({error.strerror or error}); set XDG_CACHE_HOME", file=sys.stderr)
        cache, place = None, TemporaryDirectory(prefix="isaac-data-gen-")
    building = Path(place.name) / "new"
    building.mkdir()
    for link in _LINKS:
        _decimate(link, building)
    digests = {path.name: _sha256(path) for path in sorted(building.iterdir())}
    (building / _MANIFEST).write_text(json.dumps(digests))
    if cache is None:
        _KEPT.append(place)
        return building
    with place:
        with suppress(FileNotFoundError):
            cache.rename(Path(place.name) / "damaged")
        with suppress(OSError):  # somebody else has built it meanwhile
            building.rename(cache)
    return cache


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _decimate(link: str, folder: Path) -> None:
    import trimesh  # only here: the cache usually has what this makes

    whole: trimesh.Trimesh = trimesh.load_mesh(_package_folder() / f"{link}.stl")
    parts = sorted((p for p in whole.split(only_watertight=False) if len(p.faces) > 30), key=lambda part: -part.area)
    dark = _DARK.get(link, ())
    second = "rubber" if link == "finger" else "dark"
    for material, group in (
        ("white" if link != "finger" else "dark", [p for i, p in enumerate(parts) if i not in dark]),
        (second, [p for i, p in enumerate(parts) if i in dark]),
    ):
        if link != "finger":
            group = [part.simplify_quadric_decimation(percent=1 - _KEEP) for part in group]
        if group:
            trimesh.util.concatenate(group).export(folder / f"{link}-{material}.stl")


def _package_folder() -> Path:
    package = importlib.util.find_spec("gymnasium_robotics")
    meshes = Path(package.origin if package and package.origin else ".").parent
    meshes = meshes / "envs" / "assets" / "kitchen_franka" / "franka_assets" / "meshes" / "visual"
    if not (meshes / "link0.stl").is_file():
        raise FileNotFoundError(f"no Panda meshes in {meshes}; install gymnasium-robotics==1.4.2")
    return meshes
