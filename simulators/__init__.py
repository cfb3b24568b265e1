"""The seam: what a simulator is to the collector, the trainer and the replayer.

    with load("mujoco")(SimulatorCfg(task="Isaac-Open-Drawer-Franka-v0", num_envs=4, cameras=cameras)) as env:
        obs = env.reset(seed=7)
        sample = env.capture()

Only numpy is imported here. A simulator's module, with all that it needs, is imported by `load`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TaskSpec:
    """What is known of a task before a simulator boots."""

    num_obs: int
    num_actions: int
    max_episode_length: int
    """Control steps until the time-out."""
    success_metric: str | None
    """The dataset whose last row decides about success; None: the task has no measure of it."""
    success_threshold: float
    """`success` is `success_metric[-1] >= success_threshold` (m for a drawer)."""
    language_instruction: str


OPEN_DRAWER = TaskSpec(
    num_obs=31,
    num_actions=8,
    max_episode_length=480,
    success_metric="drawer_pos",
    success_threshold=0.30,  # the last stage of Isaac Lab's multi_stage_open_drawer reward
    language_instruction="open the top drawer of the cabinet",
)
TASKS: dict[str, TaskSpec] = {
    "Isaac-Open-Drawer-Franka-v0": OPEN_DRAWER,
    "Isaac-Open-Drawer-Franka-Play-v0": OPEN_DRAWER,
}


HAND_R_GRIPPER = np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]])
"""The axes of CameraCfg's frame "gripper" in the panda_hand body's; both have the same origin."""


FRAMES = ("env", "gripper")
"""What a camera may be fixed in; `CameraCfg.frame` says more."""


@dataclass(frozen=True)
class CameraCfg:
    """A pinhole camera, by the point it stands at and the point it looks at.

    Raises:
        ValueError: there is no such frame, or no such picture.
    """

    name: str
    eye: tuple[float, float, float]
    """Optical centre in m, in `frame`."""
    target: tuple[float, float, float]
    """A point on the optical axis in m, in `frame`."""
    frame: str = "env"
    """"env": fixed in the env's own frame. "gripper": rigid on the hand; x = hand z (where the fingers point),
    y = -hand y, z = hand x, origin at the panda_hand body's."""
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """The direction of `frame` that points up in the image."""
    vertical_fov_deg: float = 45.0
    width: int = 320
    height: int = 240

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise ValueError(f"camera '{self.name}' has the frame '{self.frame}'; give one of {', '.join(FRAMES)}")
        if not np.isfinite([self.eye, self.target, self.up]).all():
            raise ValueError(f"camera '{self.name}' has eye {self.eye}, target {self.target}, up {self.up}: not finite")
        if not (0 < self.vertical_fov_deg < 180 and self.width > 0 and self.height > 0):
            size = f"{self.width} x {self.height} px"
            raise ValueError(f"camera '{self.name}' has {self.vertical_fov_deg} degrees over {size}: no picture")
        forward = np.subtract(self.target, self.eye, dtype=np.float64)
        if not np.linalg.norm(forward) > 1e-6:
            raise ValueError(f"camera '{self.name}' looks at its own eye {self.eye}")
        if not np.linalg.norm(np.cross(forward, self.up)) > 1e-6 * np.linalg.norm(forward):
            raise ValueError(f"camera '{self.name}' looks along its own up direction {self.up}")

    @property
    def pose(self) -> np.ndarray:
        """`T_frame_cam`, (4, 4) float64: camera to `frame`, OpenCV axes (x right, y down, z forward)."""
        forward = np.subtract(self.target, self.eye, dtype=np.float64)
        right = np.cross(forward, self.up)
        z = forward / np.linalg.norm(forward)
        x = right / np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.column_stack([x, np.cross(z, x), z])
        pose[:3, 3] = self.eye
        return pose

    @property
    def mount(self) -> np.ndarray:
        """`pose` in the frame of what carries the camera, the env's or the panda_hand body's, (4, 4) float64."""
        mount = self.pose
        if self.frame == "gripper":
            mount[:3] = HAND_R_GRIPPER @ mount[:3]
        return mount

    @property
    def intrinsics(self) -> np.ndarray:
        """Pinhole K in pixels, (3, 3) float64; square pixels; (0, 0) is the outer corner of the top-left pixel."""
        focal_px = 0.5 * self.height / np.tan(np.radians(self.vertical_fov_deg) / 2)
        return np.array([[focal_px, 0, self.width / 2], [0, focal_px, self.height / 2], [0, 0, 1]])


@dataclass(frozen=True)
class SimulatorCfg:
    """All that a simulator is built from.

    Raises:
        ValueError: cameras have the same name, or images of several sizes.
    """

    task: str
    num_envs: int
    cameras: tuple[CameraCfg, ...] = ()
    seed: int = 42
    """Fixes what is drawn at start-up and in the automatic resets of training; `DrawerEnv.reset` has its own."""
    device: str = "cpu"
    """Torch device of observations, rewards and the policy."""
    env_spacing: float = 2.5
    """Distance between the envs' origins in m, where they share one world."""
    light: float = 1.0
    """Brightness, as a multiple of the scene's own light."""
    deterministic: bool = True
    """MuJoCo Warp: repeat itself bit by bit; without, physics is up to 20 times as fast (sums in any order)."""
    samples_per_pixel: int = 1
    """MuJoCo Warp: rays a pixel, a square number; more smooth the edges."""
    shadows: bool = False
    """MuJoCo Warp: cast shadows."""
    headless: bool = True
    """Isaac Lab: no window."""
    rendering_mode: str | None = None
    """Isaac Lab: AppLauncher's preset; None: its default."""
    kit_args: str = ""
    """Isaac Lab: arguments for Omniverse Kit."""
    rerenders: int = 3
    """Isaac Lab: renders before the first picture after a jump of the state."""

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if len(set(names)) < len(names):
            raise ValueError(f"cameras are called {', '.join(names)}; give each a name of its own")
        sizes = [f"'{camera.name}' {camera.width} x {camera.height} px" for camera in self.cameras]
        if len({(camera.width, camera.height) for camera in self.cameras}) > 1:
            raise ValueError(f"cameras have several sizes: {', '.join(sizes)}; give all the same width and height")


@dataclass(frozen=True)
class Sample:
    """One instant of all N envs. Images and states belong to the same simulation state; the arrays are copies."""

    color: np.ndarray | None
    """Camera images, (N, C, H, W, 3) uint8, RGB; None if not rendered."""
    proprio: np.ndarray
    """The observation that the policy sees at this instant, (N, O) float32."""
    joint_pos: np.ndarray
    """(N, J) float32, rad (fingers m)."""
    joint_vel: np.ndarray
    """(N, J) float32, rad/s (fingers m/s)."""
    ee_position: np.ndarray | None
    """Tool centre point in the env frame, (N, 3) float32, m; None: the robot has none that is known."""
    ee_rotation: np.ndarray | None
    """Its orientation in the env frame, (N, 4) float32 unit quaternion x, y, z, w."""
    drawer_pos: np.ndarray | None
    """The drawer's joint, (N,) float32, m; None: there is no drawer."""
    extrinsics: np.ndarray
    """`T_world_cam`, (N, C, 4, 4) float64, OpenCV camera axes, world = the env's own origin."""
    sim_state: np.ndarray
    """What `set_state` takes, (N, S) float64."""


class SimulatorError(RuntimeError):
    """A simulator cannot start on this machine; the message is one line that names the remedy."""


class DrawerEnv(Protocol):
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
    joint_names: tuple[str, ...]
    """Order of `joint_pos`, `joint_vel` and `joint_pos_target`."""
    obs_terms: Mapping[str, int]
    """Name and width of each part of the observation, in order."""
    state_spec: str
    """What the columns of `Sample.sim_state` are."""
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

    def capture(self, render: bool = True) -> Sample:
        """The present instant, rendered from the very state that is returned."""

    def start_capture(self, render: bool = True) -> Callable[[], Sample]:
        """Begin `capture`; what is returned completes it, also after `step`, so that images may travel meanwhile."""

    def get_state(self) -> np.ndarray:
        """The complete simulation state, (N, S) float64."""

    def set_state(self, state: np.ndarray) -> None:
        """Continue from `state`, (N, S) float64, exactly as the simulation that it was taken from would have."""

    def describe(self) -> dict[str, Any]:
        """Versions, renderer and GPU: what a reader needs to know of how the data came about; JSON types."""

    def close(self) -> None: ...

    def __enter__(self) -> DrawerEnv: ...

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
        "simulators.isaac_drawer", "IsaacDrawerEnv", requires="isaaclab",
        remedy="start it with ./run_collection.sh --in run (its container), or use --simulator mujoco",
        device="cuda:0",
    ),
    "mujoco": _Simulator(
        "simulators.mujoco_drawer", "MujocoDrawerEnv", requires="mujoco", remedy="pip install mujoco"
    ),
    "mujoco_warp": _Simulator(
        "simulators.mujoco_warp_drawer", "MujocoWarpDrawerEnv", requires="mujoco_warp",
        remedy="pip install 'mujoco-warp>=3.17,<3.18', on a machine with an NVIDIA GPU", device="cuda:0",
    ),
}  # fmt: skip


def resolve(name: str) -> str:
    """The simulator that `name` ("auto" or a key of SIMULATORS) stands for on this machine.

    Raises:
        ValueError: it is unknown or not installed.
    """
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


def load(name: str) -> Callable[[SimulatorCfg], DrawerEnv]:
    """Import one simulator's module and return its class."""
    simulator = SIMULATORS[name]
    return getattr(importlib.import_module(simulator.module), simulator.class_name)


def round_seed(seed: int, round_index: int) -> int:
    """The seed of round `round_index` of a run with `--seed seed`: SeedSequence(seed, spawn_key=(round,))."""
    return int(np.random.SeedSequence(seed, spawn_key=(round_index,)).generate_state(1, np.uint64)[0])


def episode_rng(seed: int, env_index: int) -> np.random.Generator:
    """The generator of one env's draws in a round of seed `seed`, independent of how many envs there are."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(env_index,)))
