"""The Panda's visual meshes: from the installed gymnasium-robotics package, decimated once into the user's cache.

    for mesh in panda_meshes()["link5"]: ...

The package holds one STL a link (134k triangles in all, Apache-2.0). A link's connected components tell its white
shell from its dark caps and rings, so they become meshes of their own. On a CPU rendering time follows the triangles
(2.4 x from 20k to 134k), so the arm is reduced to about 20k; the fingers, close to the wrist camera, stay whole.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from simulators import SimulatorError
from simulators.cache import user_cache, writable_cache

_LINKS = ("link0", "link1", "link2", "link3", "link4", "link5", "link6", "link7", "hand", "finger")
_KEEP = 0.14
"""Share of a link's triangles that is kept."""
_DARK = {"link3": (1,), "link4": (1,), "link5": (1,), "link6": (1, 2), "link7": (0,), "hand": (1,), "finger": (1,)}
"""Components, by falling area, that are dark on the real arm."""
_RECIPE = "1"
"""Names the file in the cache: raise it with every change to what is made here."""
_FILE = Path("isaac-data-gen") / f"panda-{_RECIPE}.zip"


@dataclass(frozen=True)
class Mesh:
    """One surface of a link."""

    link: str
    material: str
    stl: bytes

    @property
    def name(self) -> str:
        return f"{self.link}-{self.material}"


def panda_meshes() -> dict[str, list[Mesh]]:
    """The meshes of each link; made on the first call (about 3 s), then found in the cache.

    The cache is one file, which is there as a whole or not at all; its directory of names, sizes and checksums tells a
    damaged one, which is made anew.

    Raises:
        SimulatorError: gymnasium-robotics is not installed or holds other meshes than version 1.4.
    """
    cache = user_cache()
    meshes = _read(cache / _FILE) if cache else None
    if meshes is None:
        meshes = [mesh for link in _LINKS for mesh in _decimate(link)]
        _write(meshes, writable_cache() / _FILE)
    by_name = sorted(meshes, key=lambda mesh: mesh.name)
    return {link: [mesh for mesh in by_name if mesh.link == link] for link in _LINKS}


def _materials(link: str) -> tuple[str, ...]:
    """Of the link's light and dark components."""
    if link == "finger":
        return ("dark", "rubber")
    return ("white", "dark") if link in _DARK else ("white",)


def _read(path: Path) -> list[Mesh] | None:
    """The meshes that `_write` kept; None: there are none, or not these, or they are damaged."""
    with suppress(OSError, zipfile.BadZipFile, KeyError, EOFError), zipfile.ZipFile(path) as archive:
        return [Mesh(link, kind, archive.read(f"{link}-{kind}")) for link in _LINKS for kind in _materials(link)]
    return None


def _write(meshes: list[Mesh], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            new = Path(folder) / path.name
            with zipfile.ZipFile(new, "w") as archive:
                for mesh in meshes:
                    archive.writestr(mesh.name, mesh.stl)
            new.replace(path)  # whole or not at all, whoever else makes it now
    except OSError as error:
        print(f"{path} cannot be kept, so it is made at each start: {error.strerror}", file=sys.stderr)


def _decimate(link: str) -> list[Mesh]:
    import trimesh  # only here: the cache usually has what this makes

    whole: trimesh.Trimesh = trimesh.load_mesh(_package_folder() / f"{link}.stl")
    parts = sorted((p for p in whole.split(only_watertight=False) if len(p.faces) > 30), key=lambda part: -part.area)
    dark = _DARK.get(link, ())
    light_and_dark = (
        [part for i, part in enumerate(parts) if i not in dark],
        [part for i, part in enumerate(parts) if i in dark],
    )
    meshes = []
    for material, group in zip(_materials(link), light_and_dark, strict=False):
        if link != "finger":
            group = [part.simplify_quadric_decimation(percent=1 - _KEEP) for part in group]
        stl = trimesh.exchange.stl.export_stl(trimesh.util.concatenate(group))
        meshes.append(Mesh(link, material, stl))
    return meshes


def _package_folder() -> Path:
    package = importlib.util.find_spec("gymnasium_robotics")
    meshes = Path(package.origin if package and package.origin else ".").parent
    meshes = meshes / "envs" / "assets" / "kitchen_franka" / "franka_assets" / "meshes" / "visual"
    if not (meshes / "link0.stl").is_file():
        raise SimulatorError(f"no Panda meshes in {meshes}; install gymnasium-robotics==1.4.2")
    return meshes
