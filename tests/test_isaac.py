"""Our Isaac Lab simulator against Isaac Lab's real wheels, without Kit; tests/isaac/contract.py says what is real.

`-m "not isaac"` leaves it out. The wheels live in a folder of the test environment; they are not ours to pass on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock

from simulators import resolve

HERE = Path(__file__).parent / "isaac"
RELEASES = ("2.2.0", "2.3.2.post1")
FOLDER = Path(sys.prefix) / "isaac"


def make_isaac_environment(python: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True
    )
    # torch, h5py, PyAV, pytest: the project's own, behind what Isaac Lab pins
    Path(own.stdout.decode().strip(), "project.pth").write_text(sysconfig.get_path("purelib"))
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--requirement", HERE / "requirements.txt"], check=True)
    for release in RELEASES:
        subprocess.run([*pip, "--no-deps", "--target", FOLDER / release, f"isaaclab=={release}"], check=True)


@pytest.fixture(scope="session")
def isaac_python() -> Path:
    """The interpreter of an environment in which Isaac Lab's wheels can be imported."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("Isaac Lab 2.x needs Python 3.11")
    python, stamp = FOLDER / "bin" / "python", FOLDER / f"installed_{(HERE / 'requirements.txt').stat().st_size}"
    with FileLock(f"{FOLDER}.lock"):  # another test process may be about to make it too
        if not stamp.exists():
            make_isaac_environment(python)
            stamp.touch()
    return python


@pytest.mark.isaac
@pytest.mark.parametrize("release", RELEASES)
def test_contract_with_isaac_lab(release, isaac_python, capsys):
    command = [isaac_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--show-capture=no", "-c", os.devnull]
    command += ["--rootdir", HERE, "--confcutdir", HERE, HERE / "contract.py", HERE / "seam.py"]
    environment = {**os.environ, "ISAAC_SITE": str(FOLDER / release)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    with capsys.disabled():
        print("".join(f"\nIsaac Lab {release}: {line}" for line in done.stdout.splitlines() if "of Isaac Lab" in line))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_outside_of_isaac_lab_one_line_says_what_is_missing():
    with pytest.raises(ValueError, match=r"no package 'isaaclab'; ./setup_venv.sh isaac .*--simulator mujoco"):
        resolve("isaac")
