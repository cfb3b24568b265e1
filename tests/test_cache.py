"""What is made once and found again: the arm's meshes in a damaged cache, and users who have no place for a cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from simulators import panda_meshes as meshes

PROJECT = Path(__file__).parent.parent
NOBODY = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
READER = "-all,+dac_read_search"
NOBODY += ["--inh-caps", READER, "--ambient-caps", READER, "--bounding-set", READER]
"""A user without an entry in passwd, who may read what belongs to root: Python itself may."""
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv, to become another user"
)


@pytest.fixture(scope="module")
def made() -> dict[str, list[meshes.Mesh]]:
    return {link: meshes._decimate(link) for link in meshes._LINKS}


@pytest.fixture
def cached(tmp_path, monkeypatch, made) -> Path:
    """The cache's file; making meshes costs nothing and is noted in a file `made` beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def make(link: str) -> list[meshes.Mesh]:
        with open(tmp_path / "made", "a") as file:
            file.write(f"{link}\n")
        return made[link]

    monkeypatch.setattr(meshes, "_decimate", make)
    meshes.panda_meshes()
    (tmp_path / "made").unlink()
    return tmp_path / meshes._FILE


def drop_a_mesh(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name in list(content)[:-1]:
            archive.writestr(name, content[name])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        drop_a_mesh,
        flip_a_bit,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-99]),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.parent.rmdir(), path.parent.write_text("a file")),
    ],
    ids=["a mesh is missing", "a bit is flipped", "deleted", "empty", "cut short", "a folder", "no folder"],
)
def test_robot_has_all_its_links_whatever_became_of_the_cache(cached, made, damage):
    damage(cached)
    found = meshes.panda_meshes()
    assert {link: {mesh.name: mesh.stl for mesh in found[link]} for link in found} == {
        link: {mesh.name: mesh.stl for mesh in made[link]} for link in made
    }
    assert len((cached.parents[1] / "made").read_text().split()) == len(meshes._LINKS)


def test_whole_cache_is_not_made_again(cached, made):
    assert {mesh.name for link in meshes.panda_meshes().values() for mesh in link} == {
        mesh.name for link in made.values() for mesh in link
    }
    assert not (cached.parents[1] / "made").exists()
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]


def test_cache_that_root_made_is_open_to_all(cached):
    assert cached.stat().st_mode & 0o444 == 0o444 and cached.parent.stat().st_mode & 0o555 == 0o555


def run_as(user: list[str], folder: Path, home: dict[str, str], script: str, *flags: str) -> list[str]:
    """Run a script without a place for a cache; returns the lines of its error output."""
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **home}
    command = [*user, sys.executable, str(PROJECT / script), *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("user", "home"),
    [
        pytest.param(NOBODY, {}, marks=needs_root, id="no home"),
        pytest.param(NOBODY, {"HOME": "/nonexistent"}, marks=needs_root, id="a home that cannot be made"),
        pytest.param([], {"XDG_CACHE_HOME": "/proc/nowhere"}, id="a cache that cannot be made"),
    ],
)
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("collect_tiled_with_checkpoint.py", "--simulator mujoco --num_envs 1 --num_episodes 1 --steps 2 --width 32"),
        ("train_policy.py", "--num_envs 4 --max_iterations 1 --log_dir run"),
    ],
)
def test_user_without_a_home_gets_a_temporary_cache_and_one_line(tmp_path, user, home, script, flags):
    tmp_path.chmod(0o777)
    (line,) = run_as(user, tmp_path, home, script, *flags.split())
    assert line.startswith("no cache (") and "set XDG_CACHE_HOME to keep one" in line
    temporary = Path(line.partition(": using ")[2].partition(" for this run")[0])
    assert temporary.is_absolute() and not temporary.exists()
