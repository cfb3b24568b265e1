"""The robot's meshes are whole or made anew, whatever became of the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulators.panda_meshes import panda_meshes

PROJECT = Path(__file__).parent.parent


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own with whole meshes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    panda_meshes()
    (folder,) = (tmp_path / "isaac-data-gen").iterdir()
    return folder


def contents(meshes: dict) -> list[tuple[str, str, bytes]]:
    return [(link, material, path.read_bytes()) for link, parts in meshes.items() for material, path in parts]


@pytest.mark.parametrize("damage", ["deleted", "cut short", "another file", "no manifest"])
def test_a_damaged_cache_is_made_anew(cache, damage):
    whole = contents(panda_meshes())
    victim = cache / "link5-white.stl"
    if damage == "deleted":
        victim.unlink()
    elif damage == "cut short":
        victim.write_bytes(victim.read_bytes()[:1000])
    elif damage == "another file":
        victim.write_bytes((cache / "link4-white.stl").read_bytes())
    else:
        (cache / "sha256.json").unlink()
    assert contents(panda_meshes()) == whole
    assert [folder.name for folder in cache.parent.iterdir()] == [cache.name]


def test_a_whole_cache_is_used_as_it_is(cache):
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    panda_meshes()
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before


@pytest.mark.parametrize("home", [{}, {"HOME": "/proc/none"}, {"HOME": "/tmp", "XDG_CACHE_HOME": "/proc/none"}])
def test_without_a_place_for_a_cache_a_temporary_one_serves_and_is_said(home):
    command = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]  # a user without a name
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make user namespaces")
    variables = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME", "USER")}
    script = "from simulators.panda_meshes import panda_meshes as p; print(sum(map(bool, p().values())))"
    done = subprocess.run(
        [*command, sys.executable, "-c", script], env=variables | home, cwd=PROJECT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr
    assert len(done.stderr.splitlines()) == 1 and "set XDG_CACHE_HOME" in done.stderr
