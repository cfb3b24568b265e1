"""Which environment the set-up makes, and that it leaves others alone; a stand-in takes the place of venv and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PYTHON = f"""#!/bin/sh
case "$*" in
  *urllib*) exit 1 ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg" ;;
  "-m pip "*) [ "$(basename "$0")" = python ] || exit 1 ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the set-up needs of a clone, with a stand-in for Python."""
    for name in ("setup_venv.sh", "pyproject.toml", "isaaclab-tiledcam-starter/isaaclab3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    (tmp_path / "python3").write_text(PYTHON)
    (tmp_path / "python3").chmod(0o755)
    return tmp_path


def foreign_environment(folder: Path) -> Path:
    """An environment as `uv venv` makes it, without pip, and a package in it; returns the package."""
    package = folder / "lib" / "python3.11" / "site-packages" / "mine" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("mine = True")
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.9.0\n")
    return package


def set_up(clone: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {key: value for key, value in os.environ.items() if key != "VENV"}
    variables |= {"PYTHON": str(clone / "python3"), **environment}
    return subprocess.run([clone / "setup_venv.sh", *words], env=variables, cwd=clone, capture_output=True, text=True)


def test_an_environment_of_somebody_else_is_left_alone_and_ours_made_beside_it(clone):
    package = foreign_environment(clone / ".venv")
    for _ in range(2):
        done = set_up(clone)
        assert (done.returncode, done.stdout) == (0, f"{clone / '.venv-isaac-data-gen'}\n"), done.stderr
        assert ".venv was not made by this script" in done.stderr
    assert package.read_text() == "mine = True"
    assert sorted(path.name for path in (clone / ".venv").iterdir()) == ["lib", "pyvenv.cfg"]


def test_an_environment_of_somebody_else_that_is_named_is_refused(clone):
    package = foreign_environment(clone / "theirs")
    done = set_up(clone, VENV="theirs")
    assert done.returncode == 2 and f"VENV={clone / 'theirs'} was not made by this script" in done.stderr
    assert package.exists() and len(list((clone / "theirs").rglob("*"))) == 6


@pytest.mark.parametrize("mark", [".made-by-isaac-data-gen", ".installed-123-"])
def test_a_torn_environment_of_ours_is_made_anew(clone, mark):
    (clone / ".venv" / "bin").mkdir(parents=True)
    for name in (mark, "bin/half_written"):
        (clone / ".venv" / name).touch()
    done = set_up(clone)
    assert (done.returncode, done.stdout) == (0, f"{clone / '.venv'}\n"), done.stderr
    assert not (clone / ".venv" / "bin" / "half_written").exists()
    assert (clone / ".venv" / ".made-by-isaac-data-gen").exists()


def test_a_whole_environment_of_an_earlier_version_is_kept(clone):
    assert set_up(clone).returncode == 0
    (clone / ".venv" / ".made-by-isaac-data-gen").unlink()
    (clone / ".venv" / "bin" / "added").touch()
    (clone / "pyproject.toml").write_text("# another version")
    done = set_up(clone)
    assert done.returncode == 0 and (clone / ".venv" / "bin" / "added").exists()


def test_what_an_earlier_version_installed_into_is_moved_aside_where_it_is_torn(clone):
    package = foreign_environment(clone / ".venv")
    (clone / ".venv" / ".installed-123-").touch()  # earlier versions installed into any environment that had pip
    done = set_up(clone)
    (old,) = clone.glob(".venv-old-*")
    assert done.returncode == 0 and f"moved to {old}" in done.stderr
    assert (old / package.relative_to(clone / ".venv")).read_text() == "mine = True"


def test_two_set_ups_at_once_make_one_environment(clone):
    slow = PYTHON.replace('"-m venv "*)', '"-m venv "*) echo made >>made; sleep 2;')
    (clone / "python3").write_text(slow)
    variables = {key: value for key, value in os.environ.items() if key != "VENV"} | {"PYTHON": str(clone / "python3")}
    both = [subprocess.Popen([clone / "setup_venv.sh"], env=variables, cwd=clone) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert (clone / "made").read_text() == "made\n"


def test_link_that_leads_nowhere_is_left_alone(clone):
    (clone / ".venv").symlink_to("/nowhere/venv")
    done = set_up(clone)
    assert done.stdout == f"{clone / '.venv-isaac-data-gen'}\n" and (clone / ".venv").is_symlink()


@pytest.mark.skipif(sys.version_info[:2] not in ((3, 11), (3, 12)), reason="Isaac Lab 3.0 needs Python 3.11 or 3.12")
def test_isaac_lab_gets_an_environment_of_its_own(clone):
    assert set_up(clone).stdout == f"{clone / '.venv'}\n"
    (clone / ".venv" / "mine").touch()
    done = set_up(clone, "isaac")
    assert (done.returncode, done.stdout) == (0, f"{clone / '.venv-isaac'}\n"), done.stderr
    assert (clone / ".venv" / "mine").exists() and (clone / ".venv-isaac" / ".made-by-isaac-data-gen").exists()
    assert set_up(clone, "isaac").stderr == "", "the second call finds all in place"
    package = foreign_environment(clone / "theirs")
    assert set_up(clone, "isaac", VENV="theirs").returncode == 2 and package.exists()


def test_unknown_environment_is_refused(clone):
    done = set_up(clone, "issac")
    assert done.returncode == 2 and "takes test or isaac, got 'issac'" in done.stderr
