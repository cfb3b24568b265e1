"""The self-check passes on a sound simulator, and each fault fails the line that names it and no other."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conftest import BOTH, ON_FAST_SIMULATORS

from checks.self_check import NO_RT_CORES, SHEET_COLUMNS, Check, has_rt_cores, self_check, table
from flags.collect import SHIPPED_CHECKPOINT
from policies.rsl_rl import CheckpointPolicy, load_policy
from simulators import CameraEnv, Sample

LINES = ["renderer", "encoder", "checkpoint", "lag", "calibration overview", "calibration wrist", "pictures"]


@pytest.fixture
def policy() -> CheckpointPolicy:
    return load_policy(SHIPPED_CHECKPOINT, 31, 8)


class AlteredEnv:
    """A simulator whose samples went through `alter`."""

    def __init__(self, env: CameraEnv, alter: Callable[[Sample], Sample]) -> None:
        self._env, self._alter = env, alter

    def __getattr__(self, name: str) -> object:
        return getattr(self._env, name)

    def capture(self, streams: Collection[str] = ()) -> Sample:
        return self._alter(self._env.capture(streams))


def with_color(sample: Sample, change: Callable[[np.ndarray], np.ndarray]) -> Sample:
    """The sample with changed pictures, where it has any."""
    images = {name: change(image) for name, image in sample.images.items()}
    return replace(sample, images=images)


def late(sample: Sample, previous: list[np.ndarray]) -> Sample:
    """The pictures of the capture before."""

    def one_before(color: np.ndarray) -> np.ndarray:
        previous.append(color)
        return previous[max(len(previous) - 2, 0)]

    return with_color(sample, one_before)


def misplaced(sample: Sample) -> Sample:
    """Extrinsics 3 cm and 8 degrees from where the wrist camera is."""
    error, angle = np.eye(4), np.radians(8)
    error[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    error[0, 3] = 0.03
    extrinsics = sample["extrinsics"].copy()
    extrinsics[:, 1] = extrinsics[:, 1] @ error
    return replace(sample, columns={**sample.columns, "extrinsics": extrinsics})


def mirrored(sample: Sample) -> Sample:
    return with_color(sample, lambda color: color[..., ::-1, :])


def black(sample: Sample) -> Sample:
    """The overview camera sees nothing."""
    return with_color(sample, lambda color: color * np.uint8([[[[0]]], [[[1]]]]))


def failing(checks: list[Check]) -> list[str]:
    print(table(checks))
    assert [check.name for check in checks] == LINES
    return [check.name for check in checks if not check.passed]


def test_sound_simulator_passes_and_gets_a_contact_sheet(make_env, policy, tmp_path):
    env = make_env(num_envs=3, cameras=BOTH)
    checks = self_check(env, policy.to(env.device), tmp_path / "sheet.png")
    assert failing(checks) == []
    assert all(check.judged for check in checks)
    sheet = iio.imread(tmp_path / "sheet.png")
    assert sheet.shape == (2 * 120, SHEET_COLUMNS * 160, 3)
    assert (sheet[120:] == (255, 0, 200)).all(axis=2).any(), "no cross at the tool centre point"


@ON_FAST_SIMULATORS
@pytest.mark.parametrize(
    ("alter", "lines"),
    [
        (partial(late, previous=[]), ["lag"]),
        (misplaced, ["calibration wrist"]),
        (mirrored, ["calibration overview", "calibration wrist"]),
        (black, ["pictures"]),
    ],
    ids=["late", "misplaced", "mirrored", "black"],
)
def test_fault_of_a_camera_fails_its_own_line(make_env, policy, tmp_path, alter, lines):
    env = AlteredEnv(make_env(num_envs=2, cameras=BOTH), alter)
    assert failing(self_check(env, policy.to(env.device), tmp_path / "sheet.png")) == lines


@ON_FAST_SIMULATORS
def test_checkpoint_of_other_widths_fails_its_own_line(make_env, tmp_path):
    policy = torch.nn.Linear(23, 7)
    policy.num_obs, policy.num_actions = 23, 7
    checks = self_check(make_env(num_envs=2, cameras=BOTH), policy, tmp_path / "sheet.png")
    assert failing(checks) == ["checkpoint"]
    assert "23 observations, 7 actions; the task has 31 and 8" in checks[2].figure


@ON_FAST_SIMULATORS
def test_untrained_checkpoint_fails_its_own_line(make_env, policy, tmp_path):
    torch.manual_seed(0)
    untrained = copy.deepcopy(policy)
    for layer in untrained.network:
        if isinstance(layer, torch.nn.Linear):
            layer.reset_parameters()
    env = make_env(num_envs=2, cameras=BOTH)
    assert failing(self_check(env, untrained.to(env.device), tmp_path / "sheet.png")) == ["checkpoint"]


WITH_RT_CORES = """
NVIDIA L40S, NVIDIA L4, NVIDIA L20, NVIDIA L2, NVIDIA A10G, NVIDIA A10, NVIDIA A16, NVIDIA A40, NVIDIA A2, Tesla T4,
NVIDIA RTX A1000, NVIDIA RTX A6000, NVIDIA RTX 6000 Ada Generation, NVIDIA RTX PRO 6000 Blackwell Server Edition,
NVIDIA GeForce RTX 2060, NVIDIA GeForce RTX 4090, NVIDIA GeForce RTX 5090 Laptop GPU, Quadro RTX 6000, NVIDIA TITAN RTX,
NVIDIA RTX 3500 Ada Generation Laptop GPU, NVIDIA GB10, NVIDIA A40-48Q, GRID T4-16Q,
GRID RTX6000-24Q, A GPU of next year
"""
WITHOUT_RT_CORES = """
NVIDIA A100-SXM4-80GB, NVIDIA A100 80GB PCIe, NVIDIA A30, NVIDIA A800-SXM4-80GB, NVIDIA A100X, NVIDIA H100 80GB HBM3,
NVIDIA H100 PCIe, NVIDIA H200, NVIDIA H20, NVIDIA GH200 480GB, NVIDIA B200, NVIDIA GB200, NVIDIA GB300, Tesla
V100-PCIE-16GB, Tesla V100S-PCIE-32GB, Tesla P100-SXM2-16GB, Tesla P40, Tesla P4, Tesla K80, Tesla M60, Tesla K40m,
Quadro GV100, Quadro GP100, Quadro P4000, Quadro P620, Quadro M4000, Quadro K620, Quadro T1000, NVIDIA T400 4GB,
NVIDIA T600 Laptop GPU, NVIDIA GeForce GTX 1080 Ti, GeForce GTX 1660 SUPER, NVIDIA GeForce GTX 980M, GeForce GT 1030,
NVIDIA GeForce MX450, GeForce 940MX, NVIDIA TITAN V, NVIDIA TITAN Xp, NVIDIA TITAN X (Pascal), NVS 510, NVIDIA CMP
170HX, Quadro 6000, Quadro FX 1800, Tesla C2050, GRID A100D-80C, NVIDIA A100-40C, NVIDIA H100XL-94C, NVIDIA DGX Display,
NVIDIA PG506-230
"""
GPUS = [
    (" ".join(gpu.split()), known)
    for names, known in ((WITH_RT_CORES, True), (WITHOUT_RT_CORES, False))
    for gpu in names.split(",")
]


@pytest.mark.parametrize(("gpu", "known"), GPUS)
def test_gpus_without_rt_cores_are_known_to_the_self_check_and_to_the_wrapper(gpu, known):
    assert has_rt_cores(gpu) == known
    listed = f"GPU 0: {gpu} (UUID: GPU-5d1ea2b1-a100-11ee-b200-0242ac120002)"  # as `nvidia-smi -L` prints it
    others = subprocess.run(["grep", "-vwEf", NO_RT_CORES], input=listed, capture_output=True, text=True)
    assert (others.returncode == 0) == known
