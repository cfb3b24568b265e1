"""Our Isaac Lab simulator on Isaac Lab 3.0 itself, with PhysX and without Kit; tests/isaac3/ has the tests.

`-m "not isaac"` leaves it out. The environment lies in the test environment and takes from it what both need.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock

PROJECT = Path(__file__).parent.parent
HERE = PROJECT / "tests" / "isaac3"
PINS = PROJECT / "isaaclab-tiledcam-starter" / "isaaclab3.txt"
FOLDER = Path(sys.prefix) / "isaac3"


@pytest.fixture(scope="session")
def isaac3_python() -> Path:
    """The interpreter of an environment with Isaac Lab 3.0, as `./setup_venv.sh isaac` makes one."""
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        pytest.skip("Isaac Lab 3.0 was tried with Python 3.11 and 3.12")
    python, stamp = FOLDER / "bin" / "python", FOLDER / f"installed_{PINS.stat().st_size}"
    with FileLock(f"{FOLDER}.lock"):  # another test process may be about to make it too
        if not stamp.exists():
            subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
            own = subprocess.run(
                [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                check=True,
                capture_output=True,
            )
            Path(own.stdout.decode().strip(), "project.pth").write_text(sysconfig.get_path("purelib"))
            pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--ignore-requires-python", "--requirement", PINS], check=True)
            stamp.touch()
    return python


@pytest.mark.isaac
def test_contract_truth_and_commands_on_isaac_lab_3(isaac3_python, capsys):
    command = [isaac3_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "-rP"]
    command += ["--show-capture=no", "-c", os.devnull, "--rootdir", HERE, "--confcutdir", HERE, HERE]
    done = subprocess.run(command, capture_output=True, text=True)
    told = ("of Isaac Lab ran", "balls, median", "mismatches", "others", " passed")
    with capsys.disabled():
        print("".join(f"\nIsaac Lab 3.0: {line}" for line in done.stdout.splitlines() if any(t in line for t in told)))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
