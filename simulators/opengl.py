"""What MuJoCo's OpenGL renderer gives of a scene: colours, and in a second pass depth and what is seen.

thread = RenderThread(model, cameras, labels)
thread.draw(state_rows, fields, {"color": color, "depth": depth}, extrinsics)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy

import mujoco
import numpy as np

from simulators import SimulatorError
from simulators.cameras import CameraCfg
from simulators.mujoco_env import STATE
from simulators.opengl_platform import PLATFORM, REMEDY, check_display

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])  # camera axes: y and z point the other way
_GEOMETRY = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
"""Draw the number of each geom instead of its colour; without multisampling, so that a pixel is one point of it."""
_OFF = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION)
"""A shadow map would halve the frames/s."""
_FACETS = (40, 32)
"""Slices and stacks of a sphere where its depth is measured: one of 0.1 m is off by 0.4 mm."""
Images = Mapping[str, np.ndarray]


class RenderThread:
    """The thread that owns the OpenGL context and draws envs from their state rows.

    One, not one a core: two contexts that draw at once make Mesa's llvmpipe (22.3) crash within minutes. It spreads a
    single context's work over the cores by itself.
    """

    def __init__(self, model: mujoco.MjModel, cameras: Sequence[CameraCfg], labels: np.ndarray) -> None:
        """Start it; `labels`, (ngeom,) uint8, is what each geom is in `segmentation`."""
        check_display()
        self._model = copy(model)  # its fields become each env's in turn
        self._data = mujoco.MjData(self._model)
        self._camera_ids = [model.camera(camera.name).id for camera in cameras]  # MuJoCo orders them by body
        self._thread = ThreadPoolExecutor(1, "render")
        try:
            size = cameras[0].width, cameras[0].height
            self._renderer = self._thread.submit(_Renderer, self._model, *size, labels).result()
        except Exception as error:  # mujoco.FatalError, PyOpenGL's and EGL's own: all mean that nothing can be drawn
            self._thread.shutdown()
            reason = " ".join(str(error).split())
            raise SimulatorError(f"OpenGL cannot start (MUJOCO_GL={PLATFORM}): {reason}; try: {REMEDY}") from error

    def draw(self, rows: np.ndarray, fields: Mapping[str, np.ndarray], images: Images, extrinsics: np.ndarray) -> None:
        """Fill `images` and `extrinsics` from state rows (N, nstate) and fields of the model (N, ...).

        Args:
            rows: mjSTATE_INTEGRATION of each env.
            fields: by their names in MuJoCo's model.
            images: (N, C, H, W, ...) by stream; those that are there are drawn.
            extrinsics: `T_world_cam`, (N, C, 4, 4) float64.
        """
        self._thread.submit(self._draw, rows, fields, images, extrinsics).result()

    def _draw(self, rows: np.ndarray, fields: Mapping[str, np.ndarray], images: Images, extrinsics: np.ndarray) -> None:
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
                if images:
                    self._renderer.draw(data, camera, {name: image[env, i] for name, image in images.items()})

    def describe(self) -> dict[str, str]:
        """What draws: GL_RENDERER and its version."""
        from OpenGL import GL

        names = {"gl_renderer": GL.GL_RENDERER, "gl_version": GL.GL_VERSION}
        return {key: self._thread.submit(GL.glGetString, name).result().decode() for key, name in names.items()}

    def close(self) -> None:
        """Free the context, in the thread that owns it."""
        self._thread.submit(self._renderer.close).result()
        self._thread.shutdown()


class _Renderer:
    """One OpenGL context of one size, for the thread that makes it."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int, labels: np.ndarray) -> None:
        self._model, self._labels = model, labels
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 8)
        for flag in _OFF:
            self._scene.flags[flag] = False
        self._option, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._gl_context = mujoco.rendering.classic.gl_context.GLContext(width, height)
        self._gl_context.make_current()
        self._colors = self._make_context(model)
        self._geometry: mujoco.MjrContext | None = None
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._rgb, self._depth = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.float32)
        self._near, self._far = (model.stat.extent * side for side in (model.vis.map.znear, model.vis.map.zfar))
        self._label_of_number = np.zeros(0, np.uint8)

    def draw(self, data: mujoco.MjData, camera: int, images: Images) -> None:
        """Fill `images`, (H, W, ...) by stream, with what camera number `camera` sees."""
        self._camera.fixedcamid = camera
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        if "color" in images:
            self._draw(self._colors, None)
            images["color"][:] = self._rgb[::-1]  # OpenGL's first row is the lowest
        if "depth" in images or "segmentation" in images:
            self._draw_geometry()
        if "depth" in images:
            images["depth"][:] = self._millimetres()[::-1]
        if "segmentation" in images:
            images["segmentation"][:] = self._ids()[::-1]

    def _make_context(self, model: mujoco.MjModel) -> mujoco.MjrContext:
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        return context

    def _draw(self, context: mujoco.MjrContext, depth: np.ndarray | None) -> None:
        """Fill `self._rgb`, and `depth` if there is one."""
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)  # OpenGL's state, not the context's
        mujoco.mjr_render(self._rect, self._scene, context)
        mujoco.mjr_readPixels(self._rgb, depth, self._rect, context)

    def _draw_geometry(self) -> None:
        if self._geometry is None:
            fine = copy(self._model)
            fine.vis.quality.numslices, fine.vis.quality.numstacks = _FACETS
            self._geometry = self._make_context(fine)
        for flag in _GEOMETRY:
            self._scene.flags[flag] = True
        self._draw(self._geometry, self._depth)
        for flag in _GEOMETRY:
            self._scene.flags[flag] = False

    def _millimetres(self) -> np.ndarray:
        """Distance along the optical axis, (H, W) uint16; 0 where the depth buffer holds nothing.

        The buffer b is 1 at the near plane n and 0 at the far plane f, and linear in 1/z: z = n f / (b (f - n) + n).
        """
        near, far, buffer = self._near, self._far, self._depth.astype(np.float64)
        depth_mm = np.rint(1000 * near * far / (buffer * (far - near) + near))
        return np.where(buffer > 0, depth_mm, 0).astype(np.uint16)

    def _ids(self) -> np.ndarray:
        """(H, W) uint8, of the numbers that MuJoCo gives to what is in the scene: 0 is nothing."""
        if len(self._label_of_number) != self._scene.ngeom + 1:  # which geoms are drawn does not change
            geoms = self._scene.geoms[: self._scene.ngeom]
            self._label_of_number = np.zeros(self._scene.ngeom + 1, np.uint8)
            self._label_of_number[[geom.segid + 1 for geom in geoms]] = self._labels[[geom.objid for geom in geoms]]
        low, middle = self._rgb[..., 0].astype(np.uint16), self._rgb[..., 1].astype(np.uint16)
        return self._label_of_number[low | middle << 8]

    def close(self) -> None:
        """Free the context."""
        for context in filter(None, (self._colors, self._geometry)):
            context.free()
        self._gl_context.free()
