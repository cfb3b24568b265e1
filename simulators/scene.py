"""The MuJoCo model of the drawer task: a Franka Panda, a cabinet and the cameras; one model for CPU and GPU.

    model = build_model(cameras)          # world = the env's own origin, at the robot's base; x to the cabinet, z up

Kinematics, limits and masses of the Panda are Franka's public figures as Isaac Lab 2.2 simulates them (Isaac Sim 5.0
panda_arm_hand.urdf); its visual meshes come from the installed gymnasium-robotics package (Apache-2.0), see
`panda_meshes.py`. The joint numbers of the cabinet are the sektion cabinet's (Isaac Gym's sektion_cabinet_2.urdf);
its shape is ours. Everything here is in metres, radians, kilograms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import mujoco
import numpy as np

from simulators.cameras import CameraCfg
from simulators.panda_meshes import panda_meshes
from simulators.room import ROBOT, SURROUNDINGS, add_looks, add_patterns
from simulators.things import Body, Surface
from simulators.variation import distractors

PHYSICS_DT = 1 / 120
"""Deviation from Isaac Lab (1/60 s): at 1/60 s the policy learns to prise the fingers open against their limits."""
FINGER_ARMATURE = 0.5
"""kg. Deviation: the reflected inertia of a geared gripper; a bare finger of 14 g is knocked about by the handle."""
FINGER_LIMIT = {"solref_limit": (-30000.0, -200.0), "solimp_limit": (0.999, 0.9999, 0.001, 0.5, 2.0)}
"""Deviation: MuJoCo's default limits are soft, a pulled drawer prised the fingers open by 11 mm too much."""
FINGER_OVERSHOOT = 0.0009
"""m. Deviation: how far a blow may push a finger beyond its limit, which acts from the next substep on only."""

ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("panda_finger_joint1", "panda_finger_joint2")
JOINT_NAMES = ARM_JOINTS + FINGER_JOINTS
JOINT_RANGE = np.array(  # (9, 2), panda_arm_hand.urdf
    [
        (-2.8973, 2.8973),
        (-1.7628, 1.7628),
        (-2.8973, 2.8973),
        (-3.0718, -0.0698),
        (-2.8973, 2.8973),
        (-0.0175, 3.7525),
        (-2.8973, 2.8973),
        (0.0, 0.04),
        (0.0, 0.04),
    ]
)
JOINT_VEL_LIMIT = np.array([2.175] * 4 + [2.61] * 3 + [0.2] * 2)
"""(9,) rad/s and m/s, panda_arm_hand.urdf."""
HELD_RANGE = np.vstack([[(-np.inf, np.inf)] * 7, JOINT_RANGE[7:] + FINGER_OVERSHOOT * np.array([-1, 1])])
"""(9, 2): between which positions `hold_limits` holds the joints; MuJoCo's own limits hold the arm's."""
KP = (80.0,) * 7 + (2000.0,) * 2  # drives: isaaclab_assets/robots/franka.py:44-64
KD = (4.0,) * 7 + (100.0,) * 2
EFFORT_LIMIT = (87.0,) * 4 + (12.0,) * 3 + (200.0,) * 2
ARM_ARMATURE = 1e-3  # Isaac Lab 3.0 franka.py; 2.2 leaves it to the USD file
TCP_OFFSET = (0.0, 0.0, 0.1034)  # in the hand's frame; joint_pos_env_cfg.py:56 of the task
FINGERTIP_OFFSET = (0.0, 0.0, 0.046)  # in a finger's frame; joint_pos_env_cfg.py:63


def hold_limits(joint_pos: np.ndarray, joint_vel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What PhysX enforces in each substep and MuJoCo does not: joint speeds, and the fingers' range; (N, 9) each.

    MuJoCo has moved the joints with the speed that is too high already, so that way is taken back.
    """
    held_vel = np.clip(joint_vel, -JOINT_VEL_LIMIT, JOINT_VEL_LIMIT)
    return np.clip(joint_pos + (held_vel - joint_vel) * PHYSICS_DT, *HELD_RANGE.T), held_vel


_S = np.sqrt(0.5)
# Link: parent, position and quaternion wxyz in the parent (public Denavit-Hartenberg chain), mass, then centre of mass
# and inertia (xx, yy, zz, xy, xz, yz about it) of the visual mesh's convex hull at uniform density.
_LINKS: dict[str, tuple[str, tuple, tuple, float, tuple, tuple]] = {
    "link0": ("world", (0, 0, 0), (1, 0, 0, 0), 2.814, (-0.0292, -0.0009, 0.0566),
              (8.51e-3, 1.10e-2, 1.13e-2, -5.59e-5, -1.29e-3, -1.17e-6)),
    "link1": ("link0", (0, 0, 0.333), (1, 0, 0, 0), 2.360, (0, -0.0313, -0.0694),
              (1.40e-2, 1.21e-2, 5.66e-3, 0, 0, 2.72e-3)),
    "link2": ("link1", (0, 0, 0), (_S, -_S, 0, 0), 2.380, (0, -0.0703, 0.0312),
              (1.43e-2, 5.71e-3, 1.24e-2, 0, 0, -2.77e-3)),
    "link3": ("link2", (0, -0.316, 0), (_S, _S, 0, 0), 2.650, (0.0444, 0.0250, -0.0381),
              (8.45e-3, 1.02e-2, 8.55e-3, -1.64e-3, -2.81e-3, -1.52e-3)),
    "link4": ("link3", (0.0825, 0, 0), (_S, _S, 0, 0), 2.695, (-0.0385, 0.0395, 0.0247),
              (8.79e-3, 8.70e-3, 1.06e-2, 2.91e-3, -1.67e-3, 1.57e-3)),
    "link5": ("link4", (-0.0825, 0.384, 0), (_S, -_S, 0, 0), 2.981, (0, 0.0386, -0.1092),
              (2.58e-2, 2.34e-2, 6.75e-3, 0, 0, -5.05e-3)),
    "link6": ("link5", (0, 0, 0), (_S, _S, 0, 0), 1.129, (0.0510, 0.0070, 0.0062),
              (1.84e-3, 2.80e-3, 3.41e-3, -1.31e-4, 2.32e-4, 2.55e-5)),
    "link7": ("link6", (0.088, 0, 0), (_S, _S, 0, 0), 0.405, (0.0104, 0.0104, 0.0791),
              (3.94e-4, 3.94e-4, 6.20e-4, -1.20e-4, -1.32e-5, -1.33e-5)),
    "hand": ("link7", (0, 0, 0.107), (np.cos(np.pi / 8), 0, 0, -np.sin(np.pi / 8)), 0.560, (0, -0.0006, 0.0240),
             (1.91e-3, 3.84e-4, 1.73e-3, 0, 0, -3.47e-5)),
    "leftfinger": ("hand", (0, 0, 0.0584), (1, 0, 0, 0), 0.014, (0, 0.0119, 0.0238),
                   (3.65e-6, 3.49e-6, 1.08e-6, 0, 0, 4.41e-7)),
    "rightfinger": ("hand", (0, 0, 0.0584), (0, 0, 0, 1), 0.014, (0, 0.0119, 0.0238),
                    (3.65e-6, 3.49e-6, 1.08e-6, 0, 0, 4.41e-7)),
}  # fmt: skip
LINK_NAMES = tuple(_LINKS)
_CAPSULES = (  # collision: link, from, to, radius; they lie inside the visual meshes
    ("link1", (0, 0, -0.15), (0, 0, 0), 0.06),
    ("link1", (0, 0, 0), (0, -0.08, 0), 0.06),
    ("link2", (0, 0, 0), (0, 0, 0.08), 0.06),
    ("link2", (0, 0, 0), (0, -0.14, 0), 0.06),
    ("link3", (0, 0, -0.07), (0, 0, 0), 0.055),
    ("link3", (0.0825, 0.06, 0), (0.0825, 0, 0), 0.055),
    ("link4", (0, 0, 0), (0, 0, 0.06), 0.055),
    ("link4", (-0.0825, 0.07, 0), (-0.0825, 0.09, 0), 0.055),
    ("link5", (0, 0, -0.21), (0, 0.05, -0.15), 0.05),
    ("link5", (0, 0.08, -0.15), (0, 0.08, 0), 0.045),
    ("link6", (0, 0, -0.01), (0.06, 0, 0), 0.05),
    ("link7", (0, 0, 0.06), (0, 0, 0.09), 0.045),
)
_BOXES = (  # collision: link, centre, half size
    ("hand", (0, 0, 0.026), (0.0315, 0.102, 0.040)),
    ("leftfinger", (0, 0.0072, 0.0450), (0.0088, 0.0072, 0.0089)),
    ("leftfinger", (0, 0.0180, 0.0180), (0.0105, 0.0080, 0.0180)),
    ("rightfinger", (0, 0.0072, 0.0450), (0.0088, 0.0072, 0.0089)),
    ("rightfinger", (0, 0.0180, 0.0180), (0.0105, 0.0080, 0.0180)),
)
_VISUAL, _COLLISION, _HIDDEN = 2, 3, 4  # groups of geoms and sites; the renderers draw 0 to 2
_JOINT_KINDS = {"slide": mujoco.mjtJoint.mjJNT_SLIDE, "hinge": mujoco.mjtJoint.mjJNT_HINGE}
_GEOM_KINDS = {
    kind: getattr(mujoco.mjtGeom, f"mjGEOM_{kind.upper()}") for kind in ("box", "capsule", "cylinder", "sphere")
}


def build_model(
    things: Sequence[Body],
    cameras: Sequence[CameraCfg],
    light: float = 1.0,
    patterns: bool = False,
    surfaces: Sequence[Surface] = (),
) -> mujoco.MjModel:
    """Compile the scene with a task's `things` and `cameras` in it.

    Look the cameras up by their names: MuJoCo orders them by body. `light` multiplies every light's brightness.
    `patterns`: have a material for each of `looks.pictures`. On `surfaces` there are distractors, hidden at first.
    """
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = PHYSICS_DT
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10  # a grasp that does not creep
    add_looks(spec, cameras, light)
    _add_panda(spec)
    for thing in things:
        _add_thing(spec.worldbody, thing)
    for camera in cameras:
        _add_camera(spec, camera)
    if patterns:
        add_patterns(spec)
    _add_distractors(spec, surfaces)
    return spec.compile()


def is_drawn(model: mujoco.MjModel, geom: int) -> bool:
    """Whether cameras see a geom; the others are there to be touched."""
    return int(model.geom_group[geom]) <= _VISUAL


_OPTIONS = (
    "timestep",
    "integrator",
    "cone",
    "impratio",
    "gravity",
    "solver",
    "iterations",
    "tolerance",
    "wind",
    "density",
    "viscosity",
)
_BODIES = ("body_parentid", "body_pos", "body_quat", "body_mass", "body_ipos", "body_iquat", "body_inertia")
_JOINTS = (
    "jnt_type",
    "jnt_bodyid",
    "jnt_pos",
    "jnt_axis",
    "jnt_range",
    "jnt_stiffness",
    "jnt_solref",
    "jnt_solimp",
    "dof_armature",
    "dof_damping",
    "dof_frictionloss",
    "qpos0",
    "qpos_spring",
)
_ACTUATORS = ("actuator_trntype", "actuator_trnid", "actuator_gainprm", "actuator_biasprm", "actuator_forcerange")
_CONTACT = (
    "geom_type",
    "geom_bodyid",
    "geom_pos",
    "geom_quat",
    "geom_size",
    "geom_contype",
    "geom_conaffinity",
    "geom_condim",
    "geom_friction",
    "geom_solref",
    "geom_solimp",
    "geom_margin",
    "geom_priority",
)


def scene_hash(model: mujoco.MjModel) -> str:
    """SHA-256 of what a state's meaning and its future depend on: no cameras, no looks, no light, no file's path.

    Numbers count to ten decimals, so that compilers that round differently agree.
    """
    digest = hashlib.sha256()

    def take(name: str, values: np.ndarray) -> None:
        digest.update(name.encode() + (np.round(np.asarray(values, np.float64), 10) + 0.0).tobytes())  # -0.0 is 0.0

    for kind, count in (("body", model.nbody), ("joint", model.njnt), ("actuator", model.nu)):
        digest.update(" ".join(getattr(model, kind)(i).name for i in range(count)).encode())
    for name in _OPTIONS:
        take(name, getattr(model.opt, name))
    for name in (*_BODIES, *_JOINTS, *_ACTUATORS):
        take(name, getattr(model, name))
    touchable = (model.geom_contype | model.geom_conaffinity) != 0
    for name in _CONTACT:
        take(name, getattr(model, name)[touchable])
    return digest.hexdigest()


def _add_panda(spec: mujoco.MjSpec) -> None:
    meshes = panda_meshes()
    for name, (parent, pos, quat, mass, ipos, inertia) in _LINKS.items():
        body = spec.body(parent).add_body(
            name=name, pos=pos, quat=quat, mass=mass, ipos=ipos, fullinertia=inertia, explicitinertial=True
        )
        for mesh in meshes[name.removeprefix("left").removeprefix("right")]:
            if spec.mesh(mesh.name) is None:
                spec.assets[f"{mesh.name}.stl"] = mesh.stl
                shell = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
                spec.add_mesh(name=mesh.name, file=f"{mesh.name}.stl", inertia=shell)
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_MESH,
                meshname=mesh.name,
                material=mesh.material,
                group=_VISUAL,
                contype=0,
                conaffinity=0,
                mass=0,
            )
    collision = dict(group=_COLLISION, contype=ROBOT, conaffinity=SURROUNDINGS, mass=0, rgba=(0.9, 0.3, 0.2, 0.5))
    for link, start, end, radius in _CAPSULES:
        spec.body(link).add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=(*start, *end), size=(radius, 0, 0), **collision
        )
    for link, pos, size in _BOXES:
        spec.body(link).add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=pos, size=size, **collision)
    spec.body("hand").add_site(name="tcp", pos=TCP_OFFSET, group=_HIDDEN)
    for finger in ("leftfinger", "rightfinger"):
        spec.body(finger).add_site(name=finger, pos=FINGERTIP_OFFSET, group=_HIDDEN)
    _add_drives(spec)


def _add_drives(spec: mujoco.MjSpec) -> None:
    links = [f"link{i}" for i in range(1, 8)] + ["leftfinger", "rightfinger"]
    for i, (joint, link) in enumerate(zip(JOINT_NAMES, links, strict=True)):
        finger = joint in FINGER_JOINTS
        spec.body(link).add_joint(
            name=joint,
            type=mujoco.mjtJoint.mjJNT_SLIDE if finger else mujoco.mjtJoint.mjJNT_HINGE,
            axis=(0, 1, 0) if finger else (0, 0, 1),
            range=JOINT_RANGE[i],
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            armature=FINGER_ARMATURE if finger else ARM_ARMATURE,
            **(FINGER_LIMIT if finger else {}),
        )
        drive = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        drive.set_to_position(kp=KP[i], kv=KD[i])
        drive.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
        drive.forcerange = (-EFFORT_LIMIT[i], EFFORT_LIMIT[i])


def _add_thing(parent: mujoco.MjsBody, thing: Body) -> None:
    """A body of the task with all that hangs on it."""
    body = parent.add_body(name=thing.name, pos=thing.pos, quat=thing.quat_wxyz)
    for joint in thing.joints:
        body.add_joint(
            name=joint.name,
            type=_JOINT_KINDS[joint.kind],
            axis=joint.axis,
            range=joint.range,
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            stiffness=(joint.stiffness, 0, 0),
            damping=(joint.damping, 0, 0),
            frictionloss=joint.friction,
        )
    for geom in thing.geoms:
        place = {"pos": geom.pos} if geom.ends is None else {"fromto": (*geom.ends[0], *geom.ends[1])}
        # priority: this geom's friction holds in its contacts, so that one number for each env sets them
        body.add_geom(
            name=geom.name,
            type=_GEOM_KINDS[geom.kind],
            size=(*geom.size, 0, 0)[:3],
            material=geom.material,
            mass=geom.mass,
            priority=int(geom.decides_friction),
            group=_VISUAL,
            contype=SURROUNDINGS,
            conaffinity=ROBOT,
            **place,
        )
    for site in thing.sites:
        body.add_site(name=site.name, pos=site.pos, group=_HIDDEN)
    for child in thing.children:
        _add_thing(body, child)


def _add_camera(spec: mujoco.MjSpec, camera: CameraCfg) -> None:
    body = spec.body("hand") if camera.frame == "gripper" else spec.worldbody
    pos, quat = camera_pose(camera)
    body.add_camera(name=camera.name, pos=pos, quat=quat, fovy=camera.vertical_fov_deg)


def camera_pose(camera: CameraCfg) -> tuple[np.ndarray, np.ndarray]:
    """Where MuJoCo has it in the body that carries it: position (3,) m, quaternion w, x, y, z."""
    mount, quat = camera.mount, np.empty(4)
    mujoco.mju_mat2Quat(quat, (mount[:3, :3] @ np.diag([1.0, -1.0, -1.0])).ravel())  # OpenCV axes -> OpenGL's
    return mount[:3, 3], quat


def _add_distractors(spec: mujoco.MjSpec, surfaces: Sequence[Surface]) -> None:
    """Solid shapes that touch nothing, hidden below the floor until an episode puts them somewhere."""
    for name, surface, shape, _ in distractors(tuple(surfaces)):
        body = spec.worldbody if surface.body == "world" else spec.body(surface.body)
        body.add_geom(
            name=name,
            type=_GEOM_KINDS[shape],
            size=(0.1, 0.1, 0.1),
            pos=(0, 0, -9),
            group=_VISUAL,
            contype=0,
            conaffinity=0,
            mass=0,
        )
