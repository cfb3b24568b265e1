"""The fields of MuJoCo's model that differ between envs, and how an episode's variation sets them.

    fields = ModelFields(model, num_envs=20, kinds=("pose", "looks"), cameras=cameras)
    fields.put(env=3, drawn=episode_info[3])
    fields.values["body_pos"][3]                  # (nbody, 3)

Both engines read these arrays: `mujoco.batch` and MuJoCo Warp call the fields by the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np

from simulators.cameras import CameraCfg
from simulators.scene import camera_pose

PHYSICS = ("body_pos", "body_quat")
"""Those that change motion."""
_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "pose": PHYSICS,
    "looks": ("geom_matid", "geom_rgba"),
    "light": ("light_pos", "light_dir", "light_diffuse", "light_ambient"),
    "camera": ("cam_pos", "cam_quat", "cam_fovy"),
    "distractors": ("geom_pos", "geom_quat", "geom_size", "geom_rgba"),
}
LAMP_TARGET, LAMP_DISTANCE = np.array((0.4, 0.0, 0.6)), 2.4
"""m: where a light comes from, for those who make a lamp of it; inside of the room."""


class ModelFields:
    """Values of the model's fields for each env."""

    def __init__(
        self, model: mujoco.MjModel, num_envs: int, kinds: Sequence[str], cameras: Sequence[CameraCfg], light: float
    ) -> None:
        self._model = copy(model)
        self._data = mujoco.MjData(self._model)
        self._kinds, self._light = kinds, light
        self._cameras = {camera.name: camera for camera in cameras}
        names = dict.fromkeys(name for kind in kinds for name in _OF_KIND[kind])
        self._scene = {name: getattr(model, name).copy() for name in names}
        self.values = {name: np.repeat(scene[None], num_envs, axis=0) for name, scene in self._scene.items()}
        """(N, *shape of the model's) each, of the fields that can differ."""
        moves_static = bool({"pose", "distractors"} & set(kinds))
        welded = model.body_weldid[model.geom_bodyid] == 0
        self.static_geoms = np.flatnonzero(welded) if moves_static else np.zeros(0, int)
        """Geoms that hang on the world without a joint, G of them, if any can stand elsewhere in another env."""
        nominal = [camera.intrinsics for camera in cameras]
        self.intrinsics = np.tile(np.reshape(nominal, (len(nominal), 3, 3)), (num_envs, 1, 1, 1))
        """Pinhole K in pixels, (N, C, 3, 3) float64."""

    def touches(self, drawn: Mapping[str, Any], qpos: Sequence[int], joint_pos: np.ndarray) -> bool:
        """Whether the robot touches something in the scene of `drawn` with `joint_pos` (n,), rad and m, at `qpos`."""
        row = {name: getattr(self._model, name) for name in PHYSICS}
        for name in PHYSICS:
            row[name][:] = self._scene[name]
        self._put_pose(row, drawn["pose"])
        self._data.qpos[qpos] = joint_pos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        return self._data.ncon > 0

    def put(self, env: int, drawn: Mapping[str, Any]) -> None:
        """Make env `env` the scene in which `drawn` was drawn, JSON types as `variation.draw` returns them.

        Raises:
            ValueError: it has a kind that the simulator was not built for.
        """
        if unknown := [kind for kind in drawn if kind not in self._kinds]:
            ours = ", ".join(self._kinds) or "nothing"
            raise ValueError(f"the variation has {', '.join(unknown)}, but the simulator was built to vary {ours}")
        for name, scene in self._scene.items():
            self.values[name][env] = scene
        row = {name: values[env] for name, values in self.values.items()}
        self._put_pose(row, drawn.get("pose", {}))
        self._put_looks(row, drawn.get("looks", {}))
        if "light" in drawn:
            self._put_light(row, drawn["light"])
        self._put_cameras(row, env, drawn.get("camera", {}))
        self._put_distractors(row, drawn.get("distractors", {}))

    def static_poses(self) -> tuple[np.ndarray, np.ndarray]:
        """Where `static_geoms` are in each env: positions (N, G, 3) m and rotations (N, G, 3, 3)."""
        poses = []
        for env in range(len(next(iter(self.values.values())))):
            for name in (*PHYSICS, "geom_pos", "geom_quat"):
                if name in self.values:
                    getattr(self._model, name)[:] = self.values[name][env]
            mujoco.mj_kinematics(self._model, self._data)
            poses.append([part[self.static_geoms] for part in (self._data.geom_xpos, self._data.geom_xmat)])
        positions, rotations = (np.stack(part) for part in zip(*poses, strict=True))
        return positions, rotations.reshape(*rotations.shape[:2], 3, 3)

    def _put_pose(self, row: Mapping[str, np.ndarray], poses: Mapping[str, Any]) -> None:
        for body, (x, y, z, yaw) in poses.items():
            index = self._model.body(body).id
            row["body_pos"][index] += (x, y, z)
            mujoco.mju_mulQuat(row["body_quat"][index], _about_z(yaw), self._scene["body_quat"][index])

    def _put_looks(self, row: Mapping[str, np.ndarray], looks: Mapping[str, Any]) -> None:
        for material, look in looks.items():
            geoms = self._scene["geom_matid"] == self._model.material(material).id
            if "material" in look:
                row["geom_matid"][geoms] = self._model.material(look["material"]).id
            row["geom_rgba"][geoms] = (*look["rgb"], 1)

    def _put_light(self, row: Mapping[str, np.ndarray], light: Mapping[str, Any]) -> None:
        direction = np.array(light["direction"])
        row["light_dir"][0] = direction
        row["light_pos"][0] = LAMP_TARGET - LAMP_DISTANCE * direction
        row["light_diffuse"][0] = self._light * np.array(light["color"])
        row["light_ambient"][0] = self._light * light["ambient"]

    def _put_cameras(self, row: Mapping[str, np.ndarray], env: int, cameras: Mapping[str, Any]) -> None:
        for i, (name, nominal) in enumerate(self._cameras.items()):
            if name not in cameras:
                self.intrinsics[env, i] = nominal.intrinsics
                continue
            drawn, index = cameras[name], self._model.camera(name).id
            eye, target = tuple(drawn["eye"]), tuple(drawn["target"])
            camera = replace(nominal, eye=eye, target=target, vertical_fov_deg=drawn["vertical_fov_deg"])
            row["cam_pos"][index], row["cam_quat"][index] = camera_pose(camera)
            row["cam_fovy"][index] = camera.vertical_fov_deg
            self.intrinsics[env, i] = camera.intrinsics

    def _put_distractors(self, row: Mapping[str, np.ndarray], distractors: Mapping[str, Any]) -> None:
        for name, drawn in distractors.items():
            index = self._model.geom(name).id
            row["geom_pos"][index], row["geom_quat"][index] = drawn["pos"], _about_z(drawn["yaw"])
            row["geom_size"][index], row["geom_rgba"][index] = drawn["size"], (*drawn["rgb"], 1)


def _about_z(angle: float) -> np.ndarray:
    """A quaternion w, x, y, z."""
    return np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])
