"""Fixtures of the tests that run Isaac Lab 3.0 itself: real PhysX, real managers, real cameras."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from pxr import Gf, Usd, UsdGeom  # noqa: E402

from simulators import CameraEnv, SimulatorCfg, load  # noqa: E402
from simulators.cameras import CameraCfg  # noqa: E402
from simulators.isaac.assets import CABINET, HANDLE, LEGACY_ROBOT, stand_ins  # noqa: E402
from simulators.scene import TCP_OFFSET  # noqa: E402
from simulators.tasks.open_drawer import HANDLE_OFFSET  # noqa: E402

TASK = "Isaac-Open-Drawer-Franka-v0"
OVERVIEW = CameraCfg("overview", (-0.92, 1.22, 1.28), (0.42, 0.0, 0.42), vertical_fov_deg=40, width=160, height=120)
WRIST = CameraCfg("wrist", (-0.05, 0, 0.08), (0.25, 0, 0), frame="gripper", vertical_fov_deg=40, width=160, height=120)
BOTH = (OVERVIEW, WRIST)
ON_FAST_SIMULATORS = pytest.mark.skip
"""These names are tests/conftest.py's too: what is imported from the other tests finds them here."""
MARKERS = {"tcp": (1.0, 0.0, 0.0), "handle": (0.0, 1.0, 0.0)}
"""Colour of each ball."""
MARKER_M = 0.006


@pytest.fixture
def make_env() -> Iterator[Callable[..., CameraEnv]]:
    """Builds envs on PhysX and closes them: `make_env(num_envs=2, cameras=BOTH)`."""
    opened: list[CameraEnv] = []

    def make(num_envs: int = 2, cameras: tuple[CameraCfg, ...] = (), task: str = TASK, **cfg) -> CameraEnv:
        for env in opened:
            env.close()  # Isaac Lab has one scene in a process
        opened.clear()
        opened.append(load("isaac", SimulatorCfg(task=task, num_envs=num_envs, cameras=cameras, device="cpu", **cfg)))
        return opened[-1]

    yield make
    for env in opened:
        env.close()


@pytest.fixture
def only_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assets of which nothing is drawn but a ball at the tool centre point and one at the handle."""
    root = tmp_path / "assets"
    shutil.copytree(stand_ins(), root)
    for file in root.rglob("*.usd*"):
        stage = Usd.Stage.Open(str(file))
        for prim in stage.Traverse():
            if prim.IsA(UsdGeom.Gprim):
                UsdGeom.Imageable(prim).CreatePurposeAttr(UsdGeom.Tokens.guide)
        stage.Save()
    _add_ball(root / LEGACY_ROBOT, "/panda/panda_hand", TCP_OFFSET, MARKERS["tcp"])
    _add_ball(root / CABINET, f"/sektion_cabinet/{HANDLE}", HANDLE_OFFSET, MARKERS["handle"])
    _point_isaac_lab_at(root, monkeypatch)


def _add_ball(file: Path, link: str, place: tuple[float, ...], rgb: tuple[float, ...]) -> None:
    stage = Usd.Stage.Open(str(file))
    ball = UsdGeom.Sphere.Define(stage, f"{link}/ball")
    ball.CreateRadiusAttr(MARKER_M)
    ball.AddTranslateOp().Set(Gf.Vec3d(*map(float, place)))
    ball.CreateDisplayColorAttr([Gf.Vec3f(*rgb)])
    stage.Save()


def _point_isaac_lab_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isaac Lab reads the root when it is imported, which an earlier test may have had it do."""
    monkeypatch.setenv("ISAACSIM_ASSET_ROOT", str(root))
    from isaaclab.utils import assets

    before = assets.NUCLEUS_ASSET_ROOT_DIR
    import simulators.isaac.configure as configure

    registered = configure.registered

    def moved(*args, **kwargs):
        env_cfg = registered(*args, **kwargs)
        for entity in (env_cfg.scene.robot, env_cfg.scene.cabinet, env_cfg.scene.plane):
            entity.spawn.usd_path = entity.spawn.usd_path.replace(before, str(root))
        return env_cfg

    monkeypatch.setattr("simulators.isaac.lab3.registered", moved)
