"""Tasks on MuJoCo: `mujoco.batch` physics and OpenGL rendering on the CPU's cores.

    with MujocoCpuEnv(SimulatorCfg(num_envs=20, cameras=cameras), load_task(name)) as env: ...

Each env is a world of its own, so cameras never see a neighbour. Physics runs on a thread pool, rendering in a
thread that owns the OpenGL context. EGL needs no display; MUJOCO_GL overrides it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import simulators.opengl_platform  # noqa: F401  before MuJoCo, whose loading it watches

# isort: split
import mujoco
import mujoco.batch
import numpy as np
import torch

from simulators import Sample, SimulatorCfg
from simulators.model_fields import PHYSICS
from simulators.mujoco_env import MujocoEnv
from simulators.opengl import RenderThread
from simulators.scene import JOINT_NAMES, hold_limits
from simulators.tasks import Task
from vpl.usable_cores import usable_cores

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
        self._renderer = RenderThread(self.model, cfg.cameras, self._label_of_geom) if cfg.cameras else None
        self.reset(cfg.seed)

    def start_capture(self, streams: Collection[str] = ()) -> Callable[[], Sample]:
        """See `CameraEnv.start_capture`; the pictures are there at once."""
        sim_state = self.get_state()
        images, extrinsics = self._render(sim_state, streams)
        columns = {name: tensor.cpu().numpy() for name, tensor in self._rows().items()}
        columns |= {"extrinsics": extrinsics, "sim_state": sim_state}
        sample = Sample(columns, images)
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

    def _render(self, sim_state: np.ndarray, streams: Collection[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Images (N, C, H, W, ...) of the streams, and `T_world_cam` (N, C, 4, 4) float64."""
        images, extrinsics = {}, np.tile(np.eye(4), (self.num_envs, len(self.cameras), 1, 1))
        if self._renderer:
            for name in streams:
                image = self.streams[name].shape(self.cameras[0].height, self.cameras[0].width)
                images[name] = np.empty((self.num_envs, len(self.cameras), *image), self.streams[name].dtype)
            self._renderer.draw(sim_state[:, : self._state_size], self._fields.values, images, extrinsics)
        return images, extrinsics
