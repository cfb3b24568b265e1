"""setup_venv.sh with a Python that only pretends to make environments: what it takes, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

PROJECT = Path(__file__).parent.parent
MARKER = ".made-by-isaac-data-gen"
PYTHON = f"""#!/bin/sh
for last; do :; done
case "$*" in
  -c*) exec {sys.executable} "$@" ;;
  "-m venv "*) mkdir -p "$last/bin" && cp "$0" "$last/bin/python" && touch "$last/pyvenv.cfg" "$last/bin/pip" ;;
  "-m pip"*) [ -e "$(dirname "$0")/pip" ] && echo "pip $*" >>"$CALLS" && [ ! "$PIP_FAILS" ] ;;
  *) echo "$0" >>"$CALLS" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> SimpleNamespace:
    """`run(script, **environment)` runs a script of a fresh clone in `folder`; `calls()`: what its Python was asked."""
    folder, tools = tmp_path / "clone", tmp_path / "tools"
    (folder / "tests").mkdir(parents=True)
    tools.mkdir()
    for name in ("setup_venv.sh", "run_collection.sh", "tests/run.sh", "pyproject.toml"):
        shutil.copy(PROJECT / name, folder / name)
    for name in ("nvidia-smi", "chromium", "ffmpeg"):  # so that nothing is looked up or installed
        write_script(tools / name, "#!/bin/sh\n")
    write_script(tools / "python", PYTHON)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": str(tools / "python"), "MUJOCO_GL": "osmesa"}
    environment["CALLS"] = str(tools / "calls")

    def run(script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        settings = {key: value for key, value in os.environ.items() if key != "VENV"} | environment | more
        return subprocess.run([folder / script, *arguments], env=settings, capture_output=True, text=True, timeout=60)

    return SimpleNamespace(run=run, folder=folder, calls=lambda: (tools / "calls").read_text())


def write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make_foreign(folder: Path) -> Path:
    """An environment as `uv venv` makes it, without pip; returns the package in it."""
    package = folder / "lib" / "python3.12" / "site-packages" / "theirs.py"
    package.parent.mkdir(parents=True)
    package.write_text("precious = True")
    (folder / "pyvenv.cfg").write_text("uv = 0.9.0")
    (folder / "bin").mkdir()
    write_script(folder / "bin" / "python", PYTHON)
    return package


@pytest.mark.parametrize("script", [("run_collection.sh", "--in", "embedded"), ("tests/run.sh",)])
@pytest.mark.parametrize("has_pip", [False, True])
def test_environment_of_the_users_is_left_alone(clone, script, has_pip):
    package = make_foreign(clone.folder / ".venv")
    if has_pip:
        (clone.folder / ".venv" / "bin" / "pip").touch()
    before = sorted(clone.folder.glob(".venv/**/*"))
    done = clone.run(*script)
    ours = clone.folder / ".venv-isaac-data-gen"
    assert done.returncode == 0, done.stderr
    assert package.read_text() == "precious = True" and sorted(clone.folder.glob(".venv/**/*")) == before
    assert f"stays as it is; the environment is {ours}" in done.stderr
    assert clone.calls().splitlines()[-1] == f"{ours}/bin/python"


def test_fresh_clone_gets_an_environment_and_the_next_call_finds_it(clone):
    first, second = clone.run("setup_venv.sh"), clone.run("setup_venv.sh")
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout == f"{clone.folder}/.venv\n"
    assert (clone.folder / ".venv" / MARKER).is_file() and second.stderr == ""


@pytest.mark.parametrize("what", ["environment", "files"])
def test_venv_that_names_what_is_not_ours_is_refused(clone, what):
    target = clone.folder / "elsewhere"
    mine = make_foreign(target) if what == "environment" else target / "mine"
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("precious")
    done = clone.run("tests/run.sh", VENV=str(target))
    assert done.returncode == 2 and mine.read_text() == "precious"
    assert done.stderr == f"set-up: VENV={target} holds what this script did not make; name a new folder\n"


def test_interrupted_set_up_is_made_anew(clone):
    assert clone.run("setup_venv.sh", PIP_FAILS="1").returncode != 0
    (clone.folder / ".venv" / "bin" / "pip").unlink()  # as if killed while pip itself was installed
    (clone.folder / ".venv" / "leftover").touch()
    assert clone.run("setup_venv.sh").returncode == 0
    assert not (clone.folder / ".venv" / "leftover").exists()


def test_environment_of_an_earlier_version_is_brought_up_to_date(clone):
    package = make_foreign(clone.folder / ".venv")
    (clone.folder / ".venv" / "bin" / "pip").touch()
    (clone.folder / ".venv" / ".installed-123-").touch()
    done = clone.run("setup_venv.sh")
    assert done.returncode == 0 and done.stdout == f"{clone.folder}/.venv\n"
    assert "--editable" in clone.calls() and package.exists()


def test_environment_that_only_an_earlier_version_installed_into_is_not_cleared(clone):
    package = make_foreign(clone.folder / ".venv")
    (clone.folder / ".venv" / ".installed-123-").touch()
    done = clone.run("setup_venv.sh")
    assert done.returncode == 2 and package.exists() and "move it away" in done.stderr.splitlines()[-1]
