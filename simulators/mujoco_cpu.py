"""Tasks on MuJoCo: `mujoco.batch` physics and OpenGL rendering on the CPU's cores.

    with MujocoCpuEnv(SimulatorCfg(num_envs=20, cameras=cameras), load_task(name)) as env: ...

Each env is a world of its own, so cameras never see a neighbour. Physics runs on a thread pool, rendering in a
thread that owns the OpenGL context. EGL needs no display; MUJOCO_GL overrides it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from typing import Any

if sys.platform == "linux" and not os.environ.get("MUJOCO_GL"):
    os.environ["MUJOCO_GL"] = "egl"

import numpy as np
import torch

from simulators import Sample, SimulatorCfg, SimulatorError

_GL = os.environ.get("MUJOCO_GL")
_REMEDY = {
    "egl": "apt-get install --no-install-recommends libegl1 libgl1-mesa-dri libopengl0",
    "osmesa": "apt-get install --no-install-recommends libosmesa6, or unset MUJOCO_GL",
}.get(str(_GL).lower(), "unset MUJOCO_GL")
_chose_before = "mujoco" in sys.modules
try:
    import mujoco
    import mujoco.batch

    if _chose_before:  # without MUJOCO_GL it takes GLFW, which needs a display
        importlib.reload(mujoco.rendering.classic.gl_context)
except (ImportError, AttributeError, RuntimeError) as error:
    # the second is how PyOpenGL answers to a missing library
    reason = "its OpenGL library is missing" if isinstance(error, AttributeError) else " ".join(str(error).split())
    raise SimulatorError(f"MuJoCo cannot be loaded (MUJOCO_GL={_GL}): {reason}; try: {_REMEDY}") from error

from simulators.model_fields import PHYSICS  # noqa: E402
from simulators.mujoco_env import STATE, MujocoEnv  # noqa: E402
from simulators.scene import JOINT_NAMES, hold_limits  # noqa: E402
from simulators.tasks import Task  # noqa: E402
from vpl.usable_cores import usable_cores  # noqa: E402

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])  # camera axes: y and z point the other way
mujoco.set_mju_user_warning(lambda message: None)  # `_advance` reads the counters; MuJoCo's own would write a file


@dataclass(frozen=True)
class MujocoCpuOptions:
    """What only this engine can be told: nothing."""


class MujocoCpuEnv(MujocoEnv):
    """See `simulators.CameraEnv`."""

    Options = MujocoCpuOptions

    def __init__(self, cfg: SimulatorCfg, task: Task) -> None:
        super().__init__(cfg, task)
        self._threads = usable_cores()
        self._batch = mujoco.batch.Batch(self.model, cfg.num_envs, self._threads)
        names = ("qpos", "qvel", "ctrl", "site_xpos", "site_xmat", "xaxis", "xanchor")
        self._view = {name: self._batch.bind(name) for name in names}
        self._rows_live: np.ndarray = self._view["qpos"].base
        """(N, nstate): the simulations' mjSTATE_INTEGRATION."""
        self._friction = self._batch.expand("geom_friction")
        self._model_view = {name: self._batch.expand(name) for name in PHYSICS if name in self._fields.values}
        self._find_addresses()
        self._set_frictions()
        self._renderer = _RenderThread(self.model, cfg) if cfg.cameras else None
        self.reset(cfg.seed)

    def start_capture(self, streams: Collection[str] = ()) -> Callable[[], Sample]:
        """See `CameraEnv.start_capture`; the pictures are there at once."""
        sim_state = self.get_state()
        color, extrinsics = self._render(sim_state, "color" in streams)
        columns = {name: tensor.cpu().numpy() for name, tensor in self._rows().items()}
        columns |= {"extrinsics": extrinsics, "sim_state": sim_state}
        sample = Sample(columns, {} if color is None else {"color": color})
        return lambda: sample

    def get_state(self) -> np.ndarray:
        """See `CameraEnv.get_state`."""
        return np.hstack([self._rows_live, self._task_state().cpu().numpy()])

    def set_state(self, state: np.ndarray, info: Sequence[Mapping[str, Any]] | None = None) -> None:
        """See `CameraEnv.set_state`."""
        self._batch.warning[:] = 0  # they count from an env's last state that was set
        self._rows_live[:] = state[:, : self._state_size]
        self._set_task_state(torch.as_tensor(state[:, self._state_size :], device=self.device))
        if info is not None:
            self._vary(info)
        self._set_frictions()
        self._batch.forward(stage=mujoco.mjtStage.mjSTAGE_POS)
        self._refresh()

    def describe(self) -> dict[str, Any]:
        """See `CameraEnv.describe`."""
        opengl = self._renderer.describe() if self._renderer else {}
        return {"simulator": "mujoco", "mujoco": mujoco.__version__, "threads": self._threads, **opengl}

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._renderer:
            self._renderer.close()
            self._renderer = None

    def _index(self, numbers: list[int]) -> np.ndarray:
        return np.array(numbers, int)

    def _take(self, name: str, index: Any) -> torch.Tensor:
        return torch.tensor(self._view[name][:, index], dtype=torch.float32, device=self.device)

    def _put_fields(self) -> None:
        for name, view in self._model_view.items():
            view[:] = self._fields.values[name]

    def _set_frictions(self) -> None:
        self._friction[:, self._friction_geoms, 0] = self._frictions.cpu().numpy()

    def _advance(self, target: torch.Tensor) -> torch.Tensor:
        self._view["ctrl"][:, self._drives] = target.cpu().numpy()
        qpos, qvel, robot = self._view["qpos"], self._view["qvel"], slice(len(JOINT_NAMES))
        position, velocity = self._joint_qpos[robot], self._joint_qvel[robot]
        for _ in range(self._substeps):
            self._batch.step()
            qpos[:, position], qvel[:, velocity] = hold_limits(qpos[:, position], qvel[:, velocity])
        self._batch.forward(stage=mujoco.mjtStage.mjSTAGE_POS)
        # MuJoCo has put an env with bad numbers back to its start by itself; the other warnings make motion wrong too
        return torch.as_tensor(self._batch.warning[:, :, 1].any(axis=1), device=self.device)

    def _reset_physics(self, env_ids: torch.Tensor, joint_pos: torch.Tensor) -> None:
        ids, positions = env_ids.cpu().numpy(), joint_pos.cpu().numpy()
        self._batch.reset(ids=ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._view["qpos"][np.ix_(ids, self._joint_qpos)] = positions
        self._view["ctrl"][np.ix_(ids, self._drives)] = positions[:, : len(JOINT_NAMES)]
        self._batch.forward(ids=ids, stage=mujoco.mjtStage.mjSTAGE_POS)

    def _render(self, sim_state: np.ndarray, images: bool) -> tuple[np.ndarray | None, np.ndarray]:
        """Images (N, C, H, W, 3) uint8, if asked for, and `T_world_cam` (N, C, 4, 4) float64."""
        extrinsics = np.tile(np.eye(4), (self.num_envs, len(self.cameras), 1, 1))
        color = None
        if images and self._renderer:
            camera = self.cameras[0]
            color = np.empty((self.num_envs, len(self.cameras), camera.height, camera.width, 3), np.uint8)
        if self._renderer:
            self._renderer.draw(sim_state[:, : self._state_size], self._fields.values, color, extrinsics)
        return color, extrinsics


def _check_display() -> None:
    """Refuse what could draw nothing, or would wait for a display for ever.

    Raises:
        SimulatorError: MUJOCO_GL asks for it.
    """
    context = getattr(mujoco.rendering.classic.gl_context, "GLContext", None)
    if context is None:
        raise SimulatorError(f"MUJOCO_GL={_GL} forbids MuJoCo to draw; unset MUJOCO_GL")
    has_display = sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    if context.__module__ == "mujoco.glfw" and not has_display:
        raise SimulatorError(f"MUJOCO_GL={_GL} draws with GLFW, which needs a display; unset MUJOCO_GL")


class _RenderThread:
    """The thread that owns the OpenGL context and draws envs from their state rows.

    One, not one a core: two contexts that draw at once make Mesa's llvmpipe (22.3) crash within minutes. It spreads a
    single context's work over the cores by itself.
    """

    def __init__(self, model: mujoco.MjModel, cfg: SimulatorCfg) -> None:
        _check_display()
        self._model = copy(model)  # its fields become each env's in turn
        self._data = mujoco.MjData(self._model)
        self._cameras = cfg.cameras
        self._camera_ids = [model.camera(camera.name).id for camera in cfg.cameras]  # MuJoCo orders them by body
        self._thread = ThreadPoolExecutor(1, "render")
        try:
            self._thread.submit(self._start).result()
        except Exception as error:  # mujoco.FatalError, PyOpenGL's and EGL's own: all mean that nothing can be drawn
            self._thread.shutdown()
            reason = " ".join(str(error).split())
            raise SimulatorError(f"OpenGL cannot start (MUJOCO_GL={_GL}): {reason}; try: {_REMEDY}") from error

    def _start(self) -> None:
        height, width = self._cameras[0].height, self._cameras[0].width
        self._renderer = mujoco.Renderer(self._model, height, width, max_geom=self._model.ngeom + 8)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = False  # a shadow map would halve the frames/s

    def draw(
        self, rows: np.ndarray, fields: Mapping[str, np.ndarray], color: np.ndarray | None, extrinsics: np.ndarray
    ) -> None:
        """Fill `color` (if not None) and `extrinsics` from state rows (N, nstate) and fields of the model (N, ...)."""
        self._thread.submit(self._draw, rows, fields, color, extrinsics).result()

    def _draw(
        self, rows: np.ndarray, fields: Mapping[str, np.ndarray], color: np.ndarray | None, extrinsics: np.ndarray
    ) -> None:
        data = self._data
        for env, row in enumerate(rows):
            for name, values in fields.items():
                getattr(self._model, name)[:] = values[env]
            mujoco.mj_setState(self._model, data, row, STATE)
            mujoco.mj_kinematics(self._model, data)
            mujoco.mj_camlight(self._model, data)
            for i, camera in enumerate(self._camera_ids):
                extrinsics[env, i, :3, :3] = data.cam_xmat[camera].reshape(3, 3) @ _OPENGL_TO_OPENCV
                extrinsics[env, i, :3, 3] = data.cam_xpos[camera]
                if color is not None:
                    self._renderer.update_scene(data, camera)
                    self._renderer.render(out=color[env, i])

    def describe(self) -> dict[str, str]:
        """What draws: GL_RENDERER and its version."""
        from OpenGL import GL

        names = {"gl_renderer": GL.GL_RENDERER, "gl_version": GL.GL_VERSION}
        return {key: self._thread.submit(GL.glGetString, name).result().decode() for key, name in names.items()}

    def close(self) -> None:
        """Free the context, in the thread that owns it."""
        self._thread.submit(self._renderer.close).result()
        self._thread.shutdown()
