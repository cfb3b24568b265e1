"""Shared fixtures: small simulators and one small dataset of the shipped policy."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # the scripts run without being installed; so do their tests

import collect_tiled_with_checkpoint as collector
import simulators.mujoco_cpu  # noqa: F401  picks the renderer before a test imports mujoco
from simulators import CameraEnv, SimulatorCfg, load
from simulators.cameras import CameraCfg
from vpl.files import STOP_SIGNALS
from vpl_dataset import main

TASK = "Isaac-Open-Drawer-Franka-v0"
OVERVIEW = CameraCfg("overview", (-0.92, 1.22, 1.28), (0.42, 0.0, 0.42), vertical_fov_deg=40, width=160, height=120)
WRIST = CameraCfg("wrist", (-0.05, 0, 0.08), (0.25, 0, 0), frame="gripper", vertical_fov_deg=40, width=160, height=120)
BOTH = (OVERVIEW, WRIST)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kill_trials", type=int, default=2, help="times that each test with a random kill is run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "trial" in metafunc.fixturenames:
        metafunc.parametrize("trial", range(metafunc.config.getoption("kill_trials")))


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, torch finds none")


MUJOCO = pytest.param(("mujoco", "cpu"), id="mujoco")
# the same code but for CUDA's graphs, streams and pinned memory; most of the time it compiles
WARP_ON_CPU = pytest.param(("mujoco_warp", "cpu"), id="mujoco_warp_on_its_cpu")
WARP = pytest.param(("mujoco_warp", "cuda:0"), id="mujoco_warp", marks=[pytest.mark.gpu, GPU])
ON_FAST_SIMULATORS = pytest.mark.parametrize("make_env", [MUJOCO, WARP], indirect=True)
"""For a test of what does not depend on the simulator: Warp on a CPU needs half a minute for it."""


@pytest.fixture(params=[MUJOCO, WARP_ON_CPU, WARP])
def make_env(request: pytest.FixtureRequest) -> Iterator[Callable[..., CameraEnv]]:
    """Builds envs of every simulator that runs here and closes them: `make_env(num_envs=2, cameras=BOTH)`."""
    opened = []
    simulator, device = request.param

    def make(num_envs: int = 2, cameras: tuple[CameraCfg, ...] = (), **cfg) -> CameraEnv:
        settings = SimulatorCfg(task=TASK, num_envs=num_envs, cameras=cameras, device=device, **cfg)
        env = load(simulator, settings)
        opened.append(env)
        return env

    yield make
    for env in opened:
        env.close()


def collect_dataset(data_root: Path, *flags: str) -> Path:
    """Run the collector in this process; returns the dataset's folder."""
    assert collector.main(["--data_root", str(data_root), "--simulator", "mujoco", *flags]) == 0
    return max(data_root.iterdir(), key=lambda folder: folder.stat().st_mtime)


def start_run(data_root: Path, *flags: str, hangup: signal.Handlers = signal.SIG_DFL) -> subprocess.Popen:
    """Start the collector in a process of its own, which leads a group and treats SIGHUP as `hangup` says."""
    command = [sys.executable, str(collector.__file__), "--data_root", str(data_root)]
    return subprocess.Popen(
        [*command, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
    )


def wait_for(pattern: str, folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Puts back what the stop signals did before the test, Ctrl-C to pytest among them."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten episodes (five envs, two rounds) of 60 steps with overview and wrist camera."""
    flags = "--num_envs 5 --num_episodes 2 --steps 60 --enable_wrist_camera --width 160 --height 120"
    return collect_dataset(tmp_path_factory.mktemp("data"), *flags.split())


@pytest.fixture(scope="session")
def splits(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's dataset with lists of 8 episodes to train and 2 to validate on."""
    copy = tmp_path_factory.mktemp("splits") / dataset.name
    shutil.copytree(dataset, copy, copy_function=os.link)
    assert main(["split", str(copy), "--val", "0.2"]) == 0
    return copy
