"""Tasks on MuJoCo Warp: physics and ray-cast pictures of all envs on one NVIDIA GPU, RT cores or not.

    with MujocoWarpEnv(SimulatorCfg(num_envs=1024, cameras=cameras, device="cuda:0"), load_task(name)) as env: ...

Each env is a world of its own. A control step, a rendering and a copy of the state are a CUDA graph each; observations
and rewards are torch on the same memory. Pictures travel to pinned memory while the next step is simulated. Warp's
kernels are compiled at the first start and kept in its cache. Its CPU back end runs the same code, for tests.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
import warp as wp

wp.config.log_level = wp.LOG_WARNING  # before mujoco_warp starts Warp: a line for each of hundreds of kernels
import mujoco_warp as mjw

from simulators import Sample, SimulatorCfg, SimulatorError
from simulators.cache import writable_cache
from simulators.cameras import CameraCfg
from simulators.mujoco_env import MAX_VALUE, STATE, MujocoEnv
from simulators.scene import HELD_RANGE, JOINT_NAMES, JOINT_VEL_LIMIT, PHYSICS_DT
from simulators.tasks import Task
from simulators.textures import smooth_textures
from simulators.warp_kernels import hold_limits, note_divergence, pack_depth, pack_ids, pack_rgb
from simulators.warp_order import keep_order

_STATE = int(STATE)
_CONTACTS, _CONSTRAINTS = 48, 160
"""Contacts that an env may have on average, and rows of constraints: three a contact, and the joints' limits. Under
wild actions 31 and 96 were seen."""
_TILE_PX = (4, 8)
"""Height and width of the pixels whose rays a GPU's warp casts together: neighbours meet the same geometry."""
_BUFFERS = (
    mjw.OverflowType.NEFC
    | mjw.OverflowType.NJMAX_NNZ
    | mjw.OverflowType.BROADPHASE
    | mjw.OverflowType.NARROWPHASE
    | mjw.OverflowType.CCD
    | mjw.OverflowType.EPA_HORIZON
)
"""Of what MuJoCo Warp reports: contacts were dropped, so the motion is wrong."""


@dataclass(frozen=True)
class WarpOptions:
    """What only this engine can be told."""

    deterministic: bool = True
    """Repeat itself bit by bit; without, physics of 256 envs is 7 times as fast, of 4,096 40 times (an H200)."""
    samples_per_pixel: int = 1
    """Rays for each pixel, a square number; more smooth the edges."""
    shadows: bool = False
    """Cast shadows."""


@dataclass(frozen=True)
class _Renderer:
    """What draws some streams."""

    launch: Callable[[], None]
    images: dict[str, torch.Tensor]
    """By stream what it fills, (N, C, H, W, ...) on the device."""


class MujocoWarpEnv(MujocoEnv):
    """See `simulators.CameraEnv`."""

    Options = WarpOptions

    def __init__(self, cfg: SimulatorCfg, task: Task) -> None:
        self._options = cfg.options or WarpOptions()
        self._on_gpu = cfg.device != "cpu"
        if self._on_gpu and not torch.cuda.is_available():
            raise SimulatorError(f"--device {cfg.device}: torch finds no NVIDIA GPU; use --simulator mujoco")
        super().__init__(cfg, task)
        _start_warp()
        wp.set_device(cfg.device)
        if self._on_gpu:
            torch.cuda.set_stream(wp.stream_to_torch(wp.get_stream()))  # one order for torch's and Warp's kernels
            self._copying = torch.cuda.Stream()
        # boxes touch boxes as in MuJoCo, not as general convex bodies, whose contact points are other ones
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_NATIVECCD
        if self._options.shadows:  # a sun would leave the room dark: walls and ceiling are in its way
            self.model.light_type[:] = mujoco.mjtLightType.mjLIGHT_POINT
        smooth_textures(self.model, cfg.cameras, self._options.samples_per_pixel)
        batched = dict.fromkeys(("geom_friction", *self._fields.values), cfg.num_envs)
        self._model = mjw.put_model(self.model, batch_sizes=batched)
        self._model.opt.warn_overflow = 0  # a line for each env and step; `_check_overflow` says it once
        self._data = mjw.make_data(self.model, nworld=cfg.num_envs, nconmax=_CONTACTS, njmax=_CONSTRAINTS)
        if self._options.deterministic:
            self._model.opt.deterministic = int(mjw.DeterminismType.ALL)
            keep_order(self._model, self._data)
        self._bind()
        rows: wp.array = wp.zeros((cfg.num_envs, self._state_size), dtype=float)
        self._state_rows = wp.to_torch(rows)
        self._make_graphs(rows)
        self._set_frictions()
        self.reset(cfg.seed)

    def _bind(self) -> None:
        """torch's views of Warp's memory, and where in it things are."""
        names = (
            "time",
            "qpos",
            "qvel",
            "ctrl",
            "qacc_warmstart",
            "overflow",
            "geom_xpos",
            "geom_xmat",
            "site_xpos",
            "site_xmat",
            "xaxis",
            "xanchor",
            "cam_xpos",
            "cam_xmat",
        )
        self._view = {name: wp.to_torch(getattr(self._data, name)) for name in names}
        self._friction = wp.to_torch(self._model.geom_friction)
        self._model_view = {name: wp.to_torch(getattr(self._model, name)) for name in self._fields.values}
        self._qpos0 = torch.tensor(self.model.qpos0, dtype=torch.float32, device=self.device)
        self._find_addresses()
        self._opencv = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64, device=self.device)

    def _make_graphs(self, rows: wp.array) -> None:
        """What a step, a change of state `rows` and a picture launch; compiles what is not in Warp's cache."""
        model, data = self._model, self._data
        self._captured: list[Callable[[], None]] = []
        self._renderers: dict[frozenset[str], _Renderer] = {}
        addresses = [
            wp.array(i[: len(JOINT_NAMES)].cpu().numpy(), dtype=int) for i in (self._joint_qpos, self._joint_qvel)
        ]  # type: ignore
        limits = [wp.array(side, dtype=float) for side in (*HELD_RANGE.T, JOINT_VEL_LIMIT)]  # type: ignore
        diverged = wp.zeros(self.num_envs, dtype=bool)
        self._diverged = wp.to_torch(diverged)

        def advance() -> None:
            for _ in range(self._substeps):
                mjw.step(model, data)
                wp.launch(  # before the limits are held: a clamp hides NaN
                    note_divergence,
                    dim=(self.num_envs, self.model.nv),
                    inputs=[data.qpos, data.qvel, data.qacc, MAX_VALUE],
                    outputs=[diverged],
                )
                wp.launch(
                    hold_limits,
                    dim=(self.num_envs, len(JOINT_NAMES)),
                    inputs=[*addresses, *limits, PHYSICS_DT],
                    outputs=[data.qpos, data.qvel],
                )
            kinematics()

        def kinematics() -> None:
            mjw.kinematics(model, data)
            mjw.camlight(model, data)

        self._launch_advance = self._graph(advance)
        self._launch_kinematics = self._graph(kinematics)
        self._launch_get_state = self._graph(lambda: mjw.get_state(model, data, rows, _STATE))
        self._launch_set_state = self._graph(lambda: mjw.set_state(model, data, rows, _STATE))
        if self.cameras:
            self._make_renderer(frozenset({"color"}))

    def _make_renderer(self, streams: frozenset[str]) -> _Renderer:
        """What draws these streams of every env's cameras."""
        context, pixel_of_ray = self._make_context(streams)
        labels: Any = wp.array(self._label_of_geom, dtype=wp.uint8)
        rays = (self.num_envs, len(pixel_of_ray))
        packing = {
            "color": (pack_rgb, [context.rgb_data, pixel_of_ray], (3,), wp.uint8),
            "depth": (pack_depth, [context.depth_data, pixel_of_ray], (), wp.uint16),
            "segmentation": (pack_ids, [context.seg_data, pixel_of_ray, labels], (), wp.uint8),
        }
        packed = {}  # of these streams only: each takes memory on the GPU
        for name in streams:
            kernel, inputs, channels, dtype = packing[name]
            packed[name] = (kernel, inputs, wp.zeros((*rays, *channels), dtype=dtype))

        def render() -> None:
            mjw.refit_bvh(self._model, self._data, context)
            mjw.render(self._model, self._data, context)
            for kernel, inputs, output in packed.values():
                wp.launch(kernel, dim=rays, inputs=inputs, outputs=[output])

        size, camera = (self.num_envs, len(self.cameras)), self.cameras[0]
        images = {
            name: wp.to_torch(output).view(*size, *self.streams[name].shape(camera.height, camera.width))
            for name, (_, _, output) in packed.items()
        }
        self._renderers[streams] = _Renderer(self._graph(render), images)
        return self._renderers[streams]

    def _make_context(self, streams: frozenset[str]) -> tuple[Any, Any]:
        """MuJoCo Warp's of these streams, and the pixel of each of an env's rays, (rays,) int of all cameras."""
        camera, num_cameras = self.cameras[0], len(self.cameras)
        lenses_vary = "camera" in self.cfg.variation.kinds
        if lenses_vary and self._options.samples_per_pixel > 1:
            raise SimulatorError(
                f"--samples_per_pixel {self._options.samples_per_pixel}: MuJoCo Warp draws one ray per pixel where "
                "lenses differ between envs; leave it out, or camera out of --randomize"
            )
        context = mjw.create_render_context(
            self.model,
            nworld=self.num_envs,
            cam_res=(camera.width, camera.height),
            render_rgb="color" in streams,
            render_depth="depth" in streams,
            render_seg="segmentation" in streams,
            cam_active=[camera.name for camera in self.cameras],
            use_shadows=self._options.shadows,
            samples_per_pixel=math.isqrt(self._options.samples_per_pixel),
            use_precomputed_rays=not lenses_vary,
            enable_emission=False,
            enable_per_light_ambient="light" in self.cfg.variation.kinds,  # the scene itself has none
        )
        assert context.cam_id_map.numpy().tolist() == self._camera_ids.tolist(), "cameras are in another order"
        order = np.arange(num_cameras * camera.width * camera.height)
        if not lenses_vary:
            order = np.concatenate([i * camera.width * camera.height + _tiled(camera) for i in range(num_cameras)])
            for name in ("ray", "ray_offset"):
                rays = getattr(context, name).numpy().reshape(-1, len(order), 3)
                setattr(context, name, wp.array(rays[:, order].reshape(-1, 3), dtype=wp.vec3))
        return context, wp.array(order, dtype=int)

    def _graph(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work`'s kernels as one CUDA graph; on Warp's CPU as they are."""
        work()  # a capture cannot compile
        if not self._on_gpu:
            return work
        with wp.ScopedCapture() as capture:
            work()
        self._captured.append(work)  # a graph holds addresses, not the arrays that are there
        return lambda: wp.capture_launch(capture.graph)

    def start_capture(self, streams: Collection[str] = ()) -> Callable[[], Sample]:
        """See `CameraEnv.start_capture`: pictures are copied while the simulation goes on."""
        host = {name: self._to_host(tensor) for name, tensor in self._rows().items()}
        host |= {"extrinsics": self._to_host(self._extrinsics()), "sim_state": self._to_host(self._device_state())}
        overflow = self._to_host(self._view["overflow"])
        images = self._draw(frozenset(streams)) if streams and self.cameras else {}
        arrived = torch.cuda.Event() if self._on_gpu else None
        if arrived is not None:
            arrived.record(self._copying if images else torch.cuda.current_stream())

        def finish() -> Sample:
            if arrived is not None:
                arrived.synchronize()
            _check_overflow(overflow.numpy())
            columns, pictures = ({name: t.numpy() for name, t in part.items()} for part in (host, images))
            return Sample(columns, pictures)

        return finish

    def _draw(self, streams: frozenset[str]) -> dict[str, torch.Tensor]:
        """Render and begin to copy; (N, C, H, W, ...) by stream on the host."""
        renderer = self._renderers.get(streams) or self._make_renderer(streams)
        if not self._on_gpu:
            renderer.launch()
            return {name: self._to_host(image) for name, image in renderer.images.items()}
        here = torch.cuda.current_stream()
        here.wait_stream(self._copying)  # the last picture has left
        renderer.launch()
        self._copying.wait_stream(here)
        with torch.cuda.stream(self._copying):
            return {name: self._to_host(image) for name, image in renderer.images.items()}

    def _to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in pinned memory of torch's pool, which is used again once nobody holds it; arrives later."""
        if not self._on_gpu:
            return tensor.clone()
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

    def get_state(self) -> np.ndarray:
        """See `CameraEnv.get_state`."""
        return self._device_state().cpu().numpy()

    def set_state(self, state: np.ndarray, info: Sequence[Mapping[str, Any]] | None = None) -> None:
        """See `CameraEnv.set_state`."""
        self._state_rows.copy_(torch.as_tensor(state[:, : self._state_size], dtype=torch.float32))
        self._launch_set_state()
        self._set_task_state(torch.as_tensor(state[:, self._state_size :], device=self.device))
        if info is not None:
            self._vary(info)
        self._set_frictions()
        self._launch_kinematics()
        self._refresh()

    def describe(self) -> dict[str, Any]:
        """See `CameraEnv.describe`."""
        gpu = {"gpu": torch.cuda.get_device_name(self.device)} if self._on_gpu else {}
        packages = {"mujoco": mujoco.__version__, "mujoco_warp": mjw.__version__, "warp": wp.__version__}
        return {"simulator": "mujoco_warp", **packages, **gpu}

    def close(self) -> None:
        """Wait for what the GPU still does."""
        wp.synchronize()

    def _advance(self, target: torch.Tensor) -> torch.Tensor:
        self._diverged.fill_(False)
        self._view["ctrl"][:, self._drives] = target
        self._launch_advance()
        return self._diverged.clone()

    def _index(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.device)

    def _take(self, name: str, index: Any) -> torch.Tensor:
        part = self._view[name][:, index]
        return part.clone() if isinstance(index, int) else part  # with a tensor it is a copy already

    def _reset_physics(self, env_ids: torch.Tensor, joint_pos: torch.Tensor) -> None:
        view = self._view
        _check_overflow(view["overflow"].cpu().numpy())
        for name in ("time", "qvel", "qacc_warmstart", "overflow"):
            view[name][env_ids] = 0
        view["qpos"][env_ids] = self._qpos0
        view["qpos"][env_ids[:, None], self._joint_qpos] = joint_pos
        view["ctrl"][env_ids[:, None], self._drives] = joint_pos[:, : len(JOINT_NAMES)]
        self._launch_kinematics()

    def _device_state(self) -> torch.Tensor:
        """What `get_state` returns, on the device."""
        self._launch_get_state()
        return torch.cat([self._state_rows.double(), self._task_state()], dim=1)

    def _extrinsics(self) -> torch.Tensor:
        """`T_world_cam`, (N, C, 4, 4) float64."""
        pose = torch.zeros(self.num_envs, len(self.cameras), 4, 4, dtype=torch.float64, device=self.device)
        pose[..., :3, :3] = self._view["cam_xmat"][:, self._camera_ids].double() * self._opencv
        pose[..., :3, 3] = self._view["cam_xpos"][:, self._camera_ids]
        pose[..., 3, 3] = 1
        return pose

    def _put_fields(self) -> None:
        for name, view in self._model_view.items():
            view.copy_(torch.as_tensor(self._fields.values[name], dtype=view.dtype))
        # MuJoCo Warp places what hangs on the world without a joint once, when its data are made
        if len(static := self._fields.static_geoms):
            for name, poses in zip(("geom_xpos", "geom_xmat"), self._fields.static_poses(), strict=True):
                self._view[name][:, static] = torch.as_tensor(poses, dtype=torch.float32, device=self.device)

    def _set_frictions(self) -> None:
        self._friction[:, self._friction_geoms, 0] = self._frictions.float()


def _tiled(camera: CameraCfg) -> np.ndarray:
    """A camera's pixels (numbered row by row) tile by tile, (H * W,) int."""
    y, x = np.divmod(np.arange(camera.width * camera.height), camera.width)
    high, wide = _TILE_PX
    return np.lexsort((x, y, x // wide, y // high))


def _check_overflow(overflow: np.ndarray) -> None:
    full = overflow & int(_BUFFERS)
    if full.any():
        env = int(np.flatnonzero(full)[0])
        names = ", ".join(str(flag.name) for flag in mjw.OverflowType(int(full[env])))
        raise SimulatorError(
            f"MuJoCo Warp dropped contacts of env {env} ({names}); raise _CONTACTS and _CONSTRAINTS of {__file__}"
        )


def _start_warp() -> None:
    """Give Warp a cache, and say what takes so long where it has not compiled MuJoCo's kernels before."""
    if "WARP_CACHE_PATH" not in os.environ:
        writable_cache()
    try:
        wp.init()
    except OSError as error:
        remedy = "set WARP_CACHE_PATH to a folder that can be written"
        raise SimulatorError(f"Warp cannot keep what it compiles: {error}; {remedy}") from error
    cache = Path(str(wp.config.kernel_cache_dir))
    if not any(cache.glob("wp_mujoco_warp*")):
        print(f"compiling MuJoCo Warp's kernels, about 80 s; they are kept in {cache}", file=sys.stderr, flush=True)
