"""What can be said of the Dockerfile without building it; tests/containers/run.sh builds it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
STARTER = PROJECT / "isaaclab-tiledcam-starter"
DOCKERFILE = (STARTER / "Dockerfile1.isaaclab-ray").read_text()
ISAAC_LAB_PINS = (  # of the wheels isaaclab 2.2.0 and rsl-rl-lib 2.3.3, and the torch that isaaclab.sh installs
    "torch==2.7.0 torchvision==0.22.0 numpy==1.26.4 gymnasium==1.2.0 rsl-rl-lib==2.3.3 pillow==11.2.1 "
    "prettytable==3.3.0 starlette==0.45.3"
).split()


def resolve(report: Path, *requirements: str | Path) -> dict[str, str]:
    """Versions by name that pip would install on an empty Python 3.11."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    dry = ["--dry-run", "--ignore-installed", "--report", report]
    target = ["--python-version", "3.11", "--only-binary", ":all:", "--target", report.parent / "none"]
    subprocess.run([*pip, *dry, *target, *requirements], check=True, capture_output=True, text=True)
    return {
        item["metadata"]["name"].lower(): item["metadata"]["version"]
        for item in json.loads(report.read_text())["install"]
    }


@pytest.mark.isaac
def test_our_packages_resolve_beside_isaac_labs(tmp_path):
    found = resolve(tmp_path / "report.json", "--requirement", STARTER / "requirements.txt", *ISAAC_LAB_PINS)
    assert {f"{name}=={found[name]}" for name in (pin.split("==")[0] for pin in ISAAC_LAB_PINS)} == set(ISAAC_LAB_PINS)
    assert {"av", "isal", "ray"} <= found.keys()


def test_these_are_all_the_pip_lines_there_are():
    lines = re.findall(r"pip install --no-cache-dir (.*?)(?: \\)?\n", DOCKERFILE)
    assert lines == [
        "--extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0",  # the project's own environment,
        "-r /tmp/requirements.txt",  # from pyproject.toml, which every run of the tests installs
        "--no-deps --ignore-requires-python -r isaaclab-tiledcam-starter/isaaclab3.txt",  # tests/test_isaac3.py
        "-r /tmp/requirements.txt -c /tmp/constraints.txt",  # the test above
    ]


def test_constraints_name_what_isaac_lab_pins():
    pattern = re.search(r"grep -iE '(.*)'", DOCKERFILE)[1]
    for pin in ISAAC_LAB_PINS:
        assert re.match(pattern, pin) and re.match(pattern, pin.replace("-", "_"))


def test_wrapper_and_images_agree_on_label_and_collector():
    wrapper = (PROJECT / "run_collection.sh").read_text()
    assert set(re.findall(r'isaac-data-gen\.simulator="(\w+)"', DOCKERFILE)) == {"isaac", "isaac3", "mujoco"}
    assert '"isaac-data-gen.simulator"' in wrapper
    assert DOCKERFILE.count("WORKDIR /workspace\n") == 2 and "collector=/workspace/collect_tiled" in wrapper
