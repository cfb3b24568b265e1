"""The seam: what a simulator is to the collector, the trainer and the replayer.

    with load("mujoco", SimulatorCfg(task="Isaac-Open-Drawer-Franka-v0", num_envs=4, cameras=cameras)) as env:
        obs = env.reset(seed=7)
        sample = env.capture(["color"])

Only numpy is imported here. A simulator's module, with all that it needs, is imported by `load`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from simulators.cameras import CameraCfg
from simulators.variation import NOTHING_VARIES, VariationCfg
from vpl.columns import Column, Stream, SuccessRule

if TYPE_CHECKING:
    import torch

TASKS: dict[str, str] = {
    "Isaac-Open-Drawer-Franka-v0": "simulators.tasks.open_drawer:OpenDrawer",
    "Isaac-Open-Drawer-Franka-Play-v0": "simulators.tasks.open_drawer:OpenDrawer",
}
"""Tasks of the embedded simulators by name, as module:Class; any other module:Class is a task of the user's own."""


class TaskSpec(Protocol):
    """What is known of a task to those who only drive it."""

    name: str
    num_obs: int
    num_actions: int
    max_episode_length: int
    """Control steps until the time-out."""
    language_instruction: str
    sign_actions: tuple[int, ...]
    """Indices of the actions that are signs, not quantities, such as a gripper's."""
    is_learned: bool
    """False in training, until most episodes succeed."""
    success_rule: SuccessRule | None


@dataclass(frozen=True)
class SimulatorCfg:
    """What every simulator is built from.

    Raises:
        ValueError: cameras have the same name, or images of several sizes.
    """

    task: str
    num_envs: int
    cameras: tuple[CameraCfg, ...] = ()
    seed: int = 42
    """Fixes what is drawn at start-up and in the automatic resets of training; `CameraEnv.reset` has its own."""
    device: str = "cpu"
    """Torch device of observations, rewards and the policy."""
    light: float = 1.0
    """Brightness, as a multiple of the scene's own light."""
    rewards: str | None = None
    """Which of the task's sets of rewards; None: its first."""
    variation: VariationCfg = NOTHING_VARIES
    """What differs from episode to episode."""
    options: Any = None
    """The simulator's own options, an object of its class `Options`; None: its defaults."""

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if len(set(names)) < len(names):
            raise ValueError(f"cameras are called {', '.join(names)}; give each a name of its own")
        sizes = [f"'{camera.name}' {camera.width} x {camera.height} px" for camera in self.cameras]
        if len({(camera.width, camera.height) for camera in self.cameras}) > 1:
            raise ValueError(f"cameras have several sizes: {', '.join(sizes)}; give all the same width and height")


@dataclass(frozen=True)
class Sample:
    """One instant of all N envs. Images and numbers belong to the same simulation state; the arrays are copies."""

    columns: Mapping[str, np.ndarray]
    """(N, *shape) each: all that `CameraEnv.columns` declares but what comes of the action."""
    images: Mapping[str, np.ndarray]
    """By stream, (N, C, H, W) or (N, C, H, W, channels); only those that were asked for."""

    def __getitem__(self, name: str) -> np.ndarray:
        """A column, or the images of a stream."""
        return self.columns[name] if name in self.columns else self.images[name]


class SimulatorError(RuntimeError):
    """A simulator cannot start or go on; the message is one line that names the remedy."""


class CameraEnv(Protocol):
    """RSL-RL's `VecEnv` that can be photographed. All envs are reset by `step` itself when they are done."""

    num_envs: int
    num_actions: int
    max_episode_length: int
    device: torch.device
    episode_length_buf: torch.Tensor
    """Control steps since each env's reset, (N,) int64."""
    cfg: SimulatorCfg
    task: TaskSpec
    step_dt: float
    """Seconds between two control steps."""
    cameras: tuple[CameraCfg, ...]
    columns: Mapping[str, Column]
    """All that is recorded of it, in the order of the file. `action`, `joint_pos_target` and `reward` come of a step,
    the others are in `Sample.columns`."""
    streams: Mapping[str, Stream]
    """What its cameras give."""
    obs_terms: Mapping[str, int]
    """Name and width of each part of the observation, in order."""
    state_spec: str
    """What the columns of `sim_state` are."""
    scene: str
    """A hash of the scene's physics, in which alone a state means what it does; "": the simulator does not say."""

    def reset(self, seed: int) -> Mapping[str, torch.Tensor]:
        """Start a round: env i draws its initial state from `episode_rng(seed, i)`. Returns `get_observations()`."""

    def get_observations(self) -> Mapping[str, torch.Tensor]:
        """The policy's input under "policy", (N, O) float32."""

    def step(self, actions: torch.Tensor) -> tuple[Any, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Advance by one control step.

        Args:
            actions: raw policy output, (N, A) float32.

        Returns:
            observations, of the next episode where an env is done; reward (N,) float32; dones (N,) bool; and extras:
            "time_outs" (N,) bool; "diverged" (N,) bool: the simulation of such an env left the numbers that it can
            compute with, or its action did; it is done, and what this step gives of it means nothing;
            "joint_pos_target" (N, J) float32: what the actions ask of the joint drives.
        """

    def succeeded(self) -> torch.Tensor:
        """Which envs have succeeded at this instant, (N,) bool."""

    def action_for_target(self, joint_pos_target: torch.Tensor) -> torch.Tensor:
        """The action (N, A) whose joint targets are `joint_pos_target` (N, J), rad and m."""

    def joint_pos_target(self, actions: torch.Tensor) -> torch.Tensor:
        """What actions (N, A) would ask of the drives at this instant, (N, J) rad and m; nothing is done."""

    def capture(self, streams: Collection[str] = ()) -> Sample:
        """The present instant, with the images of `streams` drawn from the very state that is returned."""

    def start_capture(self, streams: Collection[str] = ()) -> Callable[[], Sample]:
        """Begin `capture`; what is returned completes it, also after `step`, so that images may travel meanwhile."""

    def episode_info(self) -> list[dict[str, Any]]:
        """What was drawn for each env's present episode, N of them; JSON types."""

    def draw_variation(self, seed: int) -> list[dict[str, Any]]:
        """What `reset` with this seed would draw for each env, as `episode_info` returns it; nothing is changed."""

    def intrinsics(self) -> np.ndarray:
        """Pinhole K of each env's cameras in its present episode, (N, C, 3, 3) float64 px; (0, 0) is the outer corner
        of the top-left pixel."""

    def get_state(self) -> np.ndarray:
        """The complete simulation state, (N, S) float64."""

    def set_state(self, state: np.ndarray, info: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Continue from `state`, (N, S) float64, exactly as the simulation that it was taken from would have.

        `info` is that simulation's `episode_info`; None: what was drawn here stays.
        """

    def describe(self) -> dict[str, Any]:
        """Versions, renderer and GPU: what a reader needs to know of how the data came about; JSON types."""

    def close(self) -> None: ...

    def __enter__(self) -> CameraEnv: ...

    def __exit__(self, *exc_info: object) -> None: ...


@dataclass(frozen=True)
class _Simulator:
    module: str
    class_name: str
    requires: str
    """The package whose presence makes `auto` take this simulator."""
    remedy: str
    """What to do where it is missing."""
    device: str = "cpu"
    """Default torch device."""


SIMULATORS: dict[str, _Simulator] = {  # `auto` takes the first whose package is installed
    "isaac": _Simulator(
        "simulators.isaac",
        "IsaacEnv",
        requires="isaaclab",
        remedy="./setup_venv.sh isaac makes an environment with Isaac Lab 3, and ./run_collection.sh --simulator isaac "
        "uses it; or use --simulator mujoco",
        device="cuda:0",
    ),
    "mujoco": _Simulator("simulators.mujoco_cpu", "MujocoCpuEnv", requires="mujoco", remedy="pip install mujoco"),
    "mujoco_warp": _Simulator(
        "simulators.mujoco_warp",
        "MujocoWarpEnv",
        requires="mujoco_warp",
        remedy="pip install 'mujoco-warp>=3.17,<3.18', on a machine with an NVIDIA GPU",
        device="cuda:0",
    ),
}


def resolve(name: str) -> str:
    """The simulator that `name` ("auto" or a key of SIMULATORS) stands for on this machine.

    Raises:
        ValueError: it is unknown or not installed, or this is no Linux.
    """
    if sys.platform != "linux":
        raise ValueError(
            f"--simulator {name}: simulators run on Linux only, this is {sys.platform}; here datasets can be read, "
            "validated, viewed, split, merged and exported, and in a Linux container collected"
        )
    if name not in ("auto", *SIMULATORS):
        raise ValueError(f"--simulator '{name}' is unknown; available: auto, {', '.join(SIMULATORS)}")
    candidates = SIMULATORS if name == "auto" else (name,)
    for candidate in candidates:
        if is_installed(SIMULATORS[candidate].requires):
            return candidate
    missing = SIMULATORS[candidate]
    raise ValueError(f"--simulator {name}: this Python has no package '{missing.requires}'; {missing.remedy}")


def is_installed(package: str) -> bool:
    """Whether `package` can be imported; sees to it that it is, not a folder of its name beside the scripts.

    NVIDIA's image has Isaac Lab's sources in /workspace/isaaclab and its package installed as editable. A script in
    /workspace gets an empty namespace package from that folder, since Python asks editable installs last.
    """
    specs = [finder.find_spec(package, None) for finder in sys.meta_path]
    origin = next((spec.origin for spec in specs if spec is not None and spec.origin is not None), None)
    if origin is None:
        return False
    found = importlib.util.find_spec(package)
    if found is not None and found.origin is None:
        sys.path.append(str(Path(origin).parent.parent))  # on sys.path a package comes before any bare folder
    return True


def engine(name: str) -> Any:
    """Import one simulator's module and return its class; its `Options` are what only it can be told."""
    simulator = SIMULATORS[name]
    return getattr(importlib.import_module(simulator.module), simulator.class_name)


def options(name: str, values: Mapping[str, Any]) -> Any:
    """A simulator's own options, of those of `values` that are any."""
    kind = engine(name).Options
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})


def load(name: str, cfg: SimulatorCfg) -> CameraEnv:
    """Start the simulator `name` with the task that `cfg` names.

    Raises:
        ValueError: there is no such task.
        SimulatorError: it cannot start on this machine.
    """
    return engine(name).make(cfg)
