"""A world for Isaac Lab's real managers, articulations and tiled cameras: made-up physics, a renderer of numbers.

Physics: joints follow their targets, a closed gripper pulls the drawer, the hand's pose is some function of the joints.
The renderer writes the physics state into the pixels, with Isaac's own timing: a picture changes only when something is
rendered, the first ones are black, temporal anti-aliasing lags by a picture, a camera's pose stays as it was authored.
"""

from __future__ import annotations

import math
import types
from typing import Any

import isaaclab.envs.manager_based_env as manager_based_env
import isaaclab.sim as sim_utils
import numpy as np
import torch
from isaaclab.assets import Articulation, ArticulationCfg
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.sensors import FrameTransformerCfg, TiledCamera, TiledCameraCfg
from isaaclab.sensors.camera.camera_data import CameraData
from isaaclab.sensors.frame_transformer import FrameTransformer
from isaaclab.utils.math import combine_frame_transforms, quat_from_euler_xyz
from pixels import encode
from pxr import Usd, UsdGeom

JOINTS = {
    "robot": [*(f"panda_joint{i}" for i in range(1, 8)), "panda_finger_joint1", "panda_finger_joint2"],
    "cabinet": ["door_left_joint", "door_right_joint", "drawer_bottom_joint", "drawer_top_joint"],
}
BODIES = {
    "robot": ["panda_link0", "panda_hand", "panda_leftfinger", "panda_rightfinger"],
    "cabinet": ["sektion", "drawer_top", "drawer_handle_top"],
}
LIMITS = {
    "robot": [[-2.9, 2.9]] * 3 + [[-3.1, 0.0], [-2.9, 2.9], [0.0, 3.8], [-2.9, 2.9], [0.0, 0.04], [0.0, 0.04]],
    "cabinet": [[-1.6, 1.6], [-1.6, 1.6], [0.0, 0.4], [0.0, 0.4]],
}
DRAWER_SPEED = 0.5
"""m/s of env 0's drawer while its gripper is closed; env i's is (i + 1) times that: they end at different steps."""
BLACK_RENDERS = 4
TEMPORAL = (None, "TAA", "DLSS", "DLAA")
"""None: Isaac Lab's default, DLSS."""


def body_poses(world: World, entity: str) -> torch.Tensor:
    """Poses of an entity's bodies in the world, (N, B, 7) position and quaternion w, x, y, z."""
    q = world.joint_pos[entity]
    origin = world.env_origins
    rest = torch.tensor([1.0, 0, 0, 0]).expand(world.num_envs, 4)
    zero = torch.zeros(world.num_envs)
    if entity == "cabinet":
        base = origin + torch.tensor([0.8, 0.0, 0.4])
        drawer = base + torch.stack([-q[:, 3], zero, zero + 0.3], dim=1)
        poses = [torch.cat([p, rest], dim=1) for p in (base, drawer, drawer)]
        return torch.stack(poses, dim=1)
    hand = origin + torch.stack([0.4 + 0.1 * q[:, 0], 0.2 * q[:, 1], 0.6 + 0.1 * torch.sin(q[:, 3])], dim=1)
    turn = quat_from_euler_xyz(0.3 * q[:, 4] + 3.0, 0.2 * q[:, 5], 0.4 * q[:, 6])
    poses = [torch.cat([origin, rest], dim=1), torch.cat([hand, turn], dim=1)]
    for sign, finger in ((1, 7), (-1, 8)):
        offset = torch.stack([zero, sign * q[:, finger], zero + 0.058], dim=1)
        poses.append(torch.cat([combine_frame_transforms(hand, turn, offset)[0], turn], dim=1))
    return torch.stack(poses, dim=1)


class World(sim_utils.SimulationContext):
    """The simulation context: its physics and its renderer."""

    _world: World | None = None
    late = False
    """Whether a picture shows what was rendered before it."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> World:
        return object.__new__(cls)

    def __init__(self, cfg: Any) -> None:
        World._world = self
        self.cfg, self.num_envs, self.env_origins = cfg, 0, torch.zeros(0, 3)
        self.render_mode = sim_utils.SimulationContext.RenderMode.NO_RENDERING
        self.joint_pos: dict[str, torch.Tensor] = {}
        self.joint_vel: dict[str, torch.Tensor] = {}
        self.target: dict[str, torch.Tensor] = {}
        self.rendered: list[np.ndarray] = []
        """What was rendered, newest last; (N, numbers) float32 each."""

    def build(self, num_envs: int, spacing: float) -> None:
        """Lay out the envs in a row."""
        self.num_envs = num_envs
        self.env_origins = torch.tensor([[spacing * i, -spacing * i, 0.0] for i in range(num_envs)])
        for entity, joints in JOINTS.items():
            self.joint_pos[entity] = torch.zeros(num_envs, len(joints))
            self.joint_vel[entity] = torch.zeros(num_envs, len(joints))
            self.target[entity] = torch.zeros(num_envs, len(joints))

    @classmethod
    def instance(cls) -> World | None:
        return World._world

    @classmethod
    def clear_instance(cls) -> None:
        World._world = None

    device = property(lambda self: "cpu")
    backend = property(lambda self: "torch")
    physics_sim_view = property(lambda self: PhysicsView(self))

    def get_initial_stage(self) -> None: ...
    def clear_all_callbacks(self) -> None: ...
    def reset(self, soft: bool = False) -> None: ...
    def forward(self) -> None: ...
    def stop(self) -> None: ...

    def get_physics_dt(self) -> float:
        return self.cfg.dt

    def is_playing(self) -> bool:
        return True

    def has_gui(self) -> bool:
        return False

    def has_rtx_sensors(self) -> bool:
        return True

    def step(self, render: bool = True) -> None:
        """Half the way to the targets; closed grippers pull."""
        assert not render
        before = {entity: q.clone() for entity, q in self.joint_pos.items()}
        q = self.joint_pos["robot"]
        low, high = torch.tensor(LIMITS["robot"]).T
        q += 0.5 * (self.target["robot"].clamp(low, high) - q)
        speed = DRAWER_SPEED * torch.arange(1, self.num_envs + 1)
        pull = (self.target["robot"][:, 7] < 0.02).float()
        drawer = self.joint_pos["cabinet"][:, 3]
        drawer += pull * speed * self.cfg.dt
        drawer += 0.01 * (self.target["cabinet"][:, 3] - drawer)  # the cabinet's weak drive
        drawer.clamp_(max=0.4)
        for entity, old in before.items():
            self.joint_vel[entity].copy_((self.joint_pos[entity] - old) / self.cfg.dt)

    def numbers(self) -> np.ndarray:
        """The state as a picture holds it, (N, 24) float32: env, joints, drawer, the hand's pose in the env frame."""
        hand = body_poses(self, "robot")[:, 1].clone()
        hand[:, :3] -= self.env_origins
        env = torch.arange(self.num_envs, dtype=torch.float32)[:, None]
        state = [env, self.joint_pos["robot"], self.joint_vel["robot"][:, :6], self.joint_pos["cabinet"][:, 3:], hand]
        return torch.cat(state, dim=1).numpy().astype(np.float32)

    def render(self, mode: Any = None) -> None:
        self.rendered.append(self.numbers())

    def picture(self) -> np.ndarray | None:
        """What the annotators see: the latest picture's numbers, or None while it is black."""
        lag = 2 if self.late or self.cfg.render.antialiasing_mode in TEMPORAL else 1
        return self.rendered[-lag] if len(self.rendered) > BLACK_RENDERS else None


class PhysicsView:
    """omni.physics.tensors' simulation view."""

    def __init__(self, world: World) -> None:
        self.world = world

    def get_gravity(self) -> tuple[float, float, float]:
        return (0.0, 0.0, -9.81)

    def update_articulations_kinematic(self) -> None: ...

    def create_rigid_body_view(self, path: str) -> Any:
        return types.SimpleNamespace(max_shapes=1)

    def create_articulation_view(self, path: str) -> ArticulationView:
        return ArticulationView(self.world, "robot" if "Robot" in path else "cabinet")


class ArticulationView:
    """omni.physics.tensors' view of an articulation."""

    _backend = "torch"
    max_fixed_tendons = max_spatial_tendons = 0

    def __init__(self, world: World, entity: str) -> None:
        self.world, self.entity, self.count = world, entity, world.num_envs
        joints, bodies = JOINTS[entity], BODIES[entity]
        self.shared_metatype = types.SimpleNamespace(
            dof_count=len(joints), link_count=len(bodies), dof_names=joints, link_names=bodies, fixed_base=True
        )
        self.max_shapes = len(bodies)
        self.link_paths = [[f"/World/envs/env_{i}/{entity}/{body}" for body in bodies] for i in range(self.count)]
        self._kept: dict[str, torch.Tensor] = {
            "dof_limits": torch.tensor(LIMITS[entity]).repeat(self.count, 1, 1),
            "root_transforms": body_poses(world, entity)[:, 0].clone(),
        }
        bodies_of = {"masses": (), "inertias": (9,), "coms": (7,), "material_properties": (3,)}
        moving = {"link_velocities": (6,), "link_accelerations": (6,)}
        self._shapes = {name: (len(bodies), *shape) for name, shape in (bodies_of | moving).items()}
        self._shapes |= {"root_velocities": (6,), "dof_friction_properties": (len(joints), 3)}

    def __getattr__(self, name: str) -> Any:
        """get_x and set_x of all that physics here does not use."""
        action, _, quantity = name.partition("_")
        if action == "get":
            return lambda: self._quantity(quantity)
        if action == "set":
            return lambda data, indices=None, *_rest: self._quantity(quantity).copy_(data)
        raise AttributeError(name)

    def _quantity(self, quantity: str) -> torch.Tensor:
        shape = self._shapes.get(quantity, (len(JOINTS[self.entity]),))
        return self._kept.setdefault(quantity, torch.ones(self.count, *shape))

    def get_dof_positions(self) -> torch.Tensor:
        return self.world.joint_pos[self.entity]

    def get_dof_velocities(self) -> torch.Tensor:
        return self.world.joint_vel[self.entity]

    def set_dof_positions(self, data: torch.Tensor, indices: torch.Tensor) -> None:
        self.world.joint_pos[self.entity][indices] = data[indices]

    def set_dof_velocities(self, data: torch.Tensor, indices: torch.Tensor) -> None:
        self.world.joint_vel[self.entity][indices] = data[indices]

    def set_dof_position_targets(self, data: torch.Tensor, indices: torch.Tensor) -> None:
        self.world.target[self.entity][indices] = data[indices]

    def get_link_transforms(self) -> torch.Tensor:
        """PhysX' order: position, then quaternion x, y, z, w."""
        return body_poses(self.world, self.entity)[..., [0, 1, 2, 4, 5, 6, 3]]

    def get_root_transforms(self) -> torch.Tensor:
        return self._kept["root_transforms"][:, [0, 1, 2, 4, 5, 6, 3]].clone()

    def set_root_transforms(self, data: torch.Tensor, indices: torch.Tensor) -> None: ...


class Scene:
    """isaaclab.scene.InteractiveScene on this world: real articulations and tiled cameras, lazy frame sensors."""

    def __init__(self, cfg: InteractiveSceneCfg) -> None:
        world = World.instance()
        assert world is not None
        self.cfg, self.device, self.num_envs = cfg, "cpu", cfg.num_envs
        world.build(cfg.num_envs, cfg.env_spacing)
        self.env_origins = world.env_origins
        self.articulations: dict[str, Articulation] = {}
        self.sensors: dict[str, Any] = {}
        self.rigid_objects: dict = {}
        self.deformable_objects: dict = {}
        self.surface_grippers: dict = {}
        self.rigid_object_collections: dict = {}
        for name, entity in vars(cfg).items():
            if isinstance(entity, ArticulationCfg):
                self.articulations[name] = make_articulation(entity)
            elif isinstance(entity, FrameTransformerCfg):
                self.sensors[name] = make_frames(entity, world)
            elif isinstance(entity, TiledCameraCfg):
                self.sensors[name] = make_camera(entity, world)

    def __getitem__(self, name: str) -> Any:
        return {**self.articulations, **self.sensors}[name]

    def keys(self) -> list[str]:
        return [*self.articulations, *self.sensors]


def adopt_scene() -> None:
    """What the real InteractiveScene does with its entities is done by its own functions."""
    from isaaclab.scene import InteractiveScene

    for name in ("reset", "write_data_to_sim", "update", "reset_to", "get_state"):
        setattr(Scene, name, getattr(InteractiveScene, name))
    for name in ("articulations", "deformable_objects", "rigid_objects", "surface_grippers", "sensors"):
        setattr(Scene, f"_{name}", property(lambda self, name=name: getattr(self, name)))
    Scene._rigid_object_collections = property(lambda self: self.rigid_object_collections)
    Scene._ALL_INDICES = property(lambda self: torch.arange(self.num_envs))


def make_articulation(cfg: ArticulationCfg) -> Articulation:
    """A real Articulation, without the USD stage that it would be spawned on."""
    asset = Articulation.__new__(Articulation)
    asset.cfg = cfg.copy()
    asset.cfg.articulation_root_prim_path = "/root"
    asset._is_initialized, asset._device, asset._backend = True, "cpu", "torch"
    asset._debug_vis_handle = asset._prim_deletion_callback_id = None
    asset._initialize_handle = asset._invalidate_initialize_handle = None
    asset._initialize_impl()
    return asset


def make_sensor(cls: type, cfg: Any, world: World) -> Any:
    """A sensor with SensorBase's own clocks, whose buffers go stale with time and with resets."""
    sensor = cls.__new__(cls)
    sensor.cfg = cfg.copy()
    sensor._is_initialized, sensor._is_visualizing, sensor._debug_vis_handle = True, False, None
    sensor._prim_deletion_callback_id = sensor._initialize_handle = sensor._invalidate_initialize_handle = None
    sensor._device, sensor._num_envs = "cpu", world.num_envs
    sensor._is_outdated = torch.ones(world.num_envs, dtype=torch.bool)
    sensor._timestamp = torch.zeros(world.num_envs)
    sensor._timestamp_last_update = torch.zeros(world.num_envs)
    sensor._ALL_INDICES = torch.arange(world.num_envs)
    sensor.world = world
    return sensor


class Frames(FrameTransformer):
    """A frame sensor that reads this world's bodies, and like the real one only when it is outdated."""

    def __del__(self) -> None: ...

    @property
    def data(self) -> Any:
        self._update_outdated_buffers()
        return self._data

    def reset(self, env_ids: Any = None) -> None:
        from isaaclab.sensors import SensorBase

        SensorBase.reset(self, env_ids)

    def _update_buffers_impl(self, env_ids: Any) -> None:
        for i, frame in enumerate(self.cfg.target_frames):
            *_, entity, body = frame.prim_path.split("/")
            entity = entity.lower()
            pose = body_poses(self.world, entity)[:, BODIES[entity].index(body)]
            offset = torch.tensor([*frame.offset.pos, *frame.offset.rot]).expand(self._num_envs, 7)
            pos, quat = combine_frame_transforms(pose[:, :3], pose[:, 3:], offset[:, :3], offset[:, 3:])
            self._data.target_pos_w[env_ids, i] = pos[env_ids]
            self._data.target_quat_w[env_ids, i] = quat[env_ids]


def make_frames(cfg: FrameTransformerCfg, world: World) -> Frames:
    sensor = make_sensor(Frames, cfg, world)
    count = len(cfg.target_frames)
    sensor._data = types.SimpleNamespace(
        target_frame_names=[frame.name for frame in cfg.target_frames],
        target_pos_w=torch.zeros(world.num_envs, count, 3),
        target_quat_w=torch.zeros(world.num_envs, count, 4),
    )
    return sensor


def make_camera(cfg: TiledCameraCfg, world: World) -> TiledCamera:
    """A real TiledCamera on real USD camera prims; its view answers with the poses that the prims were authored at."""
    sensor = make_sensor(type("Camera", (TiledCamera,), {"__del__": lambda self: None}), cfg, world)
    stage = Usd.Stage.CreateInMemory()
    paths = [f"/env_{i}" for i in range(world.num_envs)]
    sensor._sensor_prims = [UsdGeom.Camera.Define(stage, path) for path in paths]
    vertical = cfg.spawn.horizontal_aperture * cfg.height / cfg.width
    for prim in sensor._sensor_prims:
        prim.GetFocalLengthAttr().Set(cfg.spawn.focal_length)
        prim.GetHorizontalApertureAttr().Set(cfg.spawn.horizontal_aperture)
        prim.GetVerticalApertureAttr().Set(vertical)
    rest = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(world.num_envs, 1)

    def get_world_poses(indices: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        ids = slice(None) if indices is None else indices
        return world.env_origins[ids] + torch.tensor(cfg.offset.pos), rest[ids]

    sensor._view = types.SimpleNamespace(count=world.num_envs, prim_paths=paths, get_world_poses=get_world_poses)
    sensor._frame = torch.zeros(world.num_envs, dtype=torch.long)
    sensor._data = CameraData()
    sensor._render_product_paths = ["product"]
    annotator = types.SimpleNamespace(get_data=lambda: tiled(world, cfg), detach=lambda paths: None)
    sensor._annotators = {"rgba": annotator}
    sensor._create_buffers()
    return sensor


def tiled(world: World, cfg: TiledCameraCfg) -> np.ndarray:
    """Replicator's buffer: all envs' pictures in one, (rows * H, columns * W, 4) uint8."""
    columns = math.ceil(math.sqrt(world.num_envs))
    rows = math.ceil(world.num_envs / columns)
    buffer = np.zeros((rows * cfg.height, columns * cfg.width, 4), np.uint8)
    numbers = world.picture()
    for env in range(world.num_envs if numbers is not None else 0):
        row, column = divmod(env, columns)
        tile = buffer[row * cfg.height :, column * cfg.width :][: cfg.height, : cfg.width]
        tile[..., :3] = encode(numbers[env], cfg.height, cfg.width, "hand" in cfg.prim_path)
        tile[..., 3] = 255
    return buffer


def install() -> None:
    """Put this world where Isaac Lab's envs look for theirs."""
    from contextlib import nullcontext

    from isaacsim.core.simulation_manager import SimulationManager

    adopt_scene()
    SimulationManager.get_physics_sim_view = staticmethod(lambda: PhysicsView(World.instance()))
    SimulationManager.assets_loading = staticmethod(lambda: False)
    manager_based_env.SimulationContext = sim_utils.SimulationContext = World
    manager_based_env.InteractiveScene = Scene
    manager_based_env.use_stage = lambda stage: nullcontext()
    manager_based_env.attach_stage_to_usd_context = lambda: None
