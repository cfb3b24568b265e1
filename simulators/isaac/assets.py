"""USD stand-ins for NVIDIA's files of the task, written from our own MuJoCo model where those cannot be had.

    os.environ["ISAACSIM_ASSET_ROOT"] = str(stand_ins())   # before anything of Isaac Lab is imported

Isaac Lab finds every file below one root. The stand-ins have NVIDIA's paths, prims, links and joints, and this
project's shapes, masses, inertias, limits and gains: a policy of MuJoCo's meets the same robot and furniture.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from pxr import Gf, Sdf, Usd, UsdGeom, UsdPhysics, UsdShade, Vt

from simulators import scene
from simulators.cache import writable_cache
from simulators.tasks import load_task

ROBOTS = "Isaac/IsaacLab/Robots/FrankaEmika"
ROBOT, LEGACY_ROBOT = f"{ROBOTS}/franka_panda.usda", f"{ROBOTS}/Legacy/panda_instanceable.usd"
"""Of Isaac Lab 3.0's definition, whose second finger follows the first, and of 2.2's, which drives both."""
CABINET = "Isaac/Props/Sektion_Cabinet/sektion_cabinet_instanceable.usd"
GROUND = "Isaac/IsaacLab/Environments/Grid/default_ground_plane_checker_v1/default_ground_plane.usda"
LINKS = {"cabinet": "sektion", "door_left": "door_left_link", "door_right": "door_right_link"}
"""NVIDIA's names of bodies that we call otherwise."""
HANDLE = "drawer_handle_top"
"""A link of its own there, and geoms of the drawer here."""
RECIPE = "1"
"""Names the folder in the cache: raise it with every change to what is written here."""
TIMEOUT_S = 3.0
"""Isaac Lab itself waits for 67 s."""
_WOOD_RGB = (0.66, 0.49, 0.33)
"""Mean of the texture."""
_PLANE_M = 50.0


@functools.cache  # a second env of a process gets the same, though the variable is set by then
def find_root() -> tuple[str | None, str]:
    """The asset root to set, None: what Isaac Lab takes by itself; and what is to be said and recorded of it."""
    if root := os.environ.get("ISAACSIM_ASSET_ROOT"):
        return None, root
    remote = _nvidia_root()
    if _answers(f"{remote}/{ROBOT}"):
        return None, remote
    return str(stand_ins()), f"stand-ins of this project, {remote} cannot be reached"


def stand_ins() -> Path:
    """The folder of the stand-ins; written on the first call (about 2 s), then found in the user's cache."""
    folder = writable_cache() / "isaac-data-gen" / f"usd-{RECIPE}-{_model_hash()[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            whole = Path(temporary, "whole")
            _write_all(whole)
            if not folder.exists():  # another process may have been faster
                whole.rename(folder)
    return folder


def _nvidia_root() -> str:
    """Where Isaac Lab looks: what its file for Kit says."""
    package = importlib.util.find_spec("isaaclab")
    assert package is not None and package.origin is not None
    kit = Path(package.origin).parent / "apps" / "isaaclab.python.kit"
    (line,) = (line for line in kit.read_text().splitlines() if "asset_root.default" in line)
    return json.loads(line.partition("=")[2])


def _answers(url: str) -> bool:
    """Whether the file is there for the asking, within TIMEOUT_S."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S):
            return True
    except OSError:
        return False


def _model() -> mujoco.MjModel:
    return scene.build_model(load_task("Isaac-Open-Drawer-Franka-v0").things(), ())


def _model_hash() -> str:
    return scene.scene_hash(_model())


def _write_all(root: Path) -> None:
    model = _model()
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    for path in (ROBOT, LEGACY_ROBOT, CABINET, GROUND):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    _write_robot(model, data, root / ROBOT, follows=True)
    _write_robot(model, data, root / LEGACY_ROBOT, follows=False)
    _write_cabinet(model, root / CABINET)
    _write_ground(model, root / GROUND)


def _write_robot(model: mujoco.MjModel, data: mujoco.MjData, path: Path, follows: bool) -> None:
    """The Panda; `follows`: its second finger mimics the first."""
    file = _UsdFile(model, path, "panda")
    for name, choices in (("Physics", ("mujoco", "physx")), ("Colliders", ("primitives", "gripper_only"))):
        variants = file.root.GetPrim().GetVariantSets().AddVariantSet(name)  # alike here, but Isaac Lab picks one
        for choice in choices:
            variants.AddVariant(choice)
        variants.SetVariantSelection(choices[0])
    bodies = [model.body(name) for name in scene.LINK_NAMES]
    links = {body.id: f"panda_{body.name}" for body in bodies}
    for body in bodies:
        prim = file.link(links[body.id], data.xpos[body.id], data.xquat[body.id], body)
        file.geoms(links[body.id], _geoms_of(model, body.id))
        others = [f"/panda/{link}" for link in links.values() if link != links[body.id]]
        UsdPhysics.FilteredPairsAPI.Apply(prim).CreateFilteredPairsRel().SetTargets(others)  # as in MuJoCo
    file.fix("root_joint", None, links[bodies[0].id], None)
    for body in bodies[1:]:
        parent = links[int(body.parentid[0])]
        if not body.jntnum[0]:
            file.fix(f"{links[body.id]}_joint", parent, links[body.id], body)
            continue
        joint = model.joint(int(body.jntadr[0]))
        i = scene.JOINT_NAMES.index(joint.name)
        gains = scene.KP[i], scene.KD[i], scene.EFFORT_LIMIT[i]
        prim = file.joint(joint, parent, links[body.id], body, gains)
        _set(prim, "newton:armature", "Float", float(model.dof_armature[joint.dofadr[0]]))
        if follows and joint.name == scene.FINGER_JOINTS[1]:
            _follow(prim, f"/panda/joints/{scene.FINGER_JOINTS[0]}")
    file.stage.Save()


def _follow(prim: Usd.Prim, leader: str) -> None:
    """Make a joint the mimic of another, in the words of either engine."""
    prim.AddAppliedSchema("NewtonMimicAPI")
    prim.CreateRelationship("newton:mimicJoint").SetTargets([leader])
    _set(prim, "newton:mimicCoef0", "Float", 0.0)
    _set(prim, "newton:mimicCoef1", "Float", 1.0)


def _write_cabinet(model: mujoco.MjModel, path: Path) -> None:
    file = _UsdFile(model, path, "sektion_cabinet")
    prim = file.root.GetPrim()
    for schema, attribute in (
        ("NewtonArticulationRootAPI", "newton:selfCollisionEnabled"),
        ("PhysxArticulationAPI", "physxArticulation:enabledSelfCollisions"),
    ):
        prim.AddAppliedSchema(schema)
        _set(prim, attribute, "Bool", False)  # drawers do not rub on their carcass
    carcass = model.body("cabinet")
    bodies = [carcass, *(model.body(i) for i in range(model.nbody) if model.body_parentid[i] == carcass.id)]
    links = {body.id: LINKS.get(body.name, body.name) for body in bodies}
    for body in bodies:
        at_rest = body.id != carcass.id
        file.link(links[body.id], body.pos * at_rest, body.quat if at_rest else (1, 0, 0, 0), body)
        geoms = _geoms_of(model, body.id)
        of_handle = [g for g in geoms if body.name == "drawer_top" and _material(model, g) == "steel"]
        file.geoms(links[body.id], [g for g in geoms if g not in of_handle])
        if of_handle:
            file.link(HANDLE, body.pos, body.quat, None)
            file.geoms(HANDLE, of_handle)
            file.fix(f"{HANDLE}_joint", links[body.id], HANDLE, None)
    file.fix("root_joint", None, links[carcass.id], None)
    for body in bodies[1:]:
        joint = model.joint(int(body.jntadr[0]))
        dof = int(joint.dofadr[0])
        gains = float(joint.stiffness[0]), float(model.dof_damping[dof]), 87.0  # cabinet_env_cfg.py:71-84
        file.joint(joint, links[carcass.id], links[body.id], body, gains)
    file.stage.Save()


def _write_ground(model: mujoco.MjModel, path: Path) -> None:
    """With the prims that Isaac Lab's `spawn_ground_plane` looks for."""
    file = _UsdFile(model, path, "World", is_articulation=False)
    UsdGeom.Xform.Define(file.stage, "/World/Environment").AddScaleOp().Set(Gf.Vec3f(1))
    mesh = UsdGeom.Mesh.Define(file.stage, "/World/Environment/Geometry")
    corners = [Gf.Vec3f(x * _PLANE_M, y * _PLANE_M, 0) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    mesh.CreatePointsAttr(corners)
    mesh.CreateFaceVertexCountsAttr([4])
    mesh.CreateFaceVertexIndicesAttr([0, 1, 2, 3])
    primvars = UsdGeom.PrimvarsAPI(mesh)
    st = primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex)
    st.Set([Gf.Vec2f(0, 0), Gf.Vec2f(1, 0), Gf.Vec2f(1, 1), Gf.Vec2f(0, 1)])
    file.paint(mesh.GetPrim(), "theGrid", model.material("floor").rgba[:3])
    plane = UsdGeom.Plane.Define(file.stage, "/World/CollisionPlane")
    plane.CreateAxisAttr("Z")
    plane.CreatePurposeAttr(UsdGeom.Tokens.guide)
    UsdPhysics.CollisionAPI.Apply(plane.GetPrim())
    file.stage.Save()


class _UsdFile:
    """One USD file, of which parts of MuJoCo's model become prims."""

    def __init__(self, model: mujoco.MjModel, path: Path, root: str, is_articulation: bool = True) -> None:
        self.model = model
        self.stage = Usd.Stage.CreateNew(str(path))
        UsdGeom.SetStageUpAxis(self.stage, UsdGeom.Tokens.z)
        UsdGeom.SetStageMetersPerUnit(self.stage, 1.0)
        UsdPhysics.SetStageKilogramsPerUnit(self.stage, 1.0)
        self.root = UsdGeom.Xform.Define(self.stage, f"/{root}")
        self.stage.SetDefaultPrim(self.root.GetPrim())
        if is_articulation:
            UsdPhysics.ArticulationRootAPI.Apply(self.root.GetPrim())
        self._path = f"/{root}"

    def link(self, name: str, pos: Sequence[float], quat_wxyz: Sequence[float], body: Any) -> Usd.Prim:
        """A rigid body with the mass and inertia of MuJoCo's; None: those of the shapes that it gets.

        What stands in the world gets its centre of mass at its origin, which changes nothing of the motion: PhysX keeps
        the pose of that centre, and a pose that is put back would come out a rounding away, which pictures show.
        """
        xform = UsdGeom.Xform.Define(self.stage, f"{self._path}/{name}")
        _place(xform, pos, quat_wxyz)
        prim = xform.GetPrim()
        UsdPhysics.RigidBodyAPI.Apply(prim)
        if body is not None:
            mass = UsdPhysics.MassAPI.Apply(prim)
            mass.CreateMassAttr(float(body.mass[0]))
            stands = body.parentid[0] == 0
            mass.CreateCenterOfMassAttr(_vector((0, 0, 0) if stands else body.ipos))
            mass.CreateDiagonalInertiaAttr(_vector(body.inertia))
            mass.CreatePrincipalAxesAttr(_quaternion((1, 0, 0, 0) if stands else body.iquat))
        return prim

    def geoms(self, link: str, geoms: Sequence[int]) -> None:
        """Shapes of a link: what is drawn, and what is touched."""
        model = self.model
        for geom in geoms:
            path = f"{self._path}/{link}/geom_{geom}"
            shape = _SHAPES[int(model.geom_type[geom])](model, geom, self.stage, path)
            _place(shape, model.geom_pos[geom], model.geom_quat[geom])
            if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX:
                shape.AddScaleOp().Set(_vector(model.geom_size[geom]))
            if name := _material(model, geom):
                rgb = _WOOD_RGB if name == "wood" else model.material(name).rgba[:3]
                self.paint(shape.GetPrim(), name, rgb)
            if model.geom_contype[geom] or model.geom_conaffinity[geom]:
                UsdPhysics.CollisionAPI.Apply(shape.GetPrim())
            if not scene.is_drawn(model, geom):
                UsdGeom.Imageable(shape).CreatePurposeAttr(UsdGeom.Tokens.guide)

    def paint(self, prim: Usd.Prim, name: str, rgb: Sequence[float]) -> None:
        """Bind the material `name` of a colour as it is seen, RGB from 0 to 1; USD's are linear."""
        linear = Gf.Vec3f(*(float(((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92) for c in rgb))
        path = f"{self._path}/Looks/{name}"
        material = UsdShade.Material.Define(self.stage, path)
        shader = UsdShade.Shader.Define(self.stage, f"{path}/Shader")
        shader.CreateIdAttr("UsdPreviewSurface")
        shader.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).Set(linear)
        shader.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(0.5)
        material.CreateSurfaceOutput().ConnectToSource(shader.ConnectableAPI(), "surface")
        UsdShade.MaterialBindingAPI.Apply(prim).Bind(material)
        UsdGeom.Gprim(prim).CreateDisplayColorAttr([linear])

    def fix(self, name: str, parent: str | None, link: str, body: Any) -> None:
        """Weld a link to its parent, None: the world, where MuJoCo's body is in its own; None: at its origin."""
        self._define(UsdPhysics.FixedJoint, name, parent, link, body)

    def joint(self, joint: Any, parent: str, link: str, body: Any, gains: tuple[float, float, float]) -> Usd.Prim:
        """MuJoCo's joint, with a drive of stiffness and damping (N m/rad, N/m) and a largest force."""
        slides = joint.type[0] == mujoco.mjtJoint.mjJNT_SLIDE
        kind = UsdPhysics.PrismaticJoint if slides else UsdPhysics.RevoluteJoint
        made = self._define(kind, joint.name, parent, link, body)
        unit = 1.0 if slides else 180 / np.pi  # USD has degrees
        made.CreateAxisAttr("XYZ"[int(np.argmax(joint.axis))])
        made.CreateLowerLimitAttr(float(joint.range[0] * unit))
        made.CreateUpperLimitAttr(float(joint.range[1] * unit))
        drive = UsdPhysics.DriveAPI.Apply(made.GetPrim(), "linear" if slides else "angular")
        drive.CreateTypeAttr("force")
        drive.CreateStiffnessAttr(gains[0] / unit)
        drive.CreateDampingAttr(gains[1] / unit)
        drive.CreateMaxForceAttr(gains[2])
        drive.CreateTargetPositionAttr(0.0)
        return made.GetPrim()

    def _define(self, kind: Any, name: str, parent: str | None, link: str, body: Any) -> Any:
        joint = kind.Define(self.stage, f"{self._path}/joints/{name}")
        if parent:
            joint.CreateBody0Rel().SetTargets([f"{self._path}/{parent}"])
        joint.CreateBody1Rel().SetTargets([f"{self._path}/{link}"])
        joint.CreateLocalPos0Attr(_vector(body.pos if body is not None else (0, 0, 0)))
        joint.CreateLocalRot0Attr(_quaternion(body.quat if body is not None else (1, 0, 0, 0)))
        joint.CreateLocalPos1Attr(Gf.Vec3f(0))
        joint.CreateLocalRot1Attr(Gf.Quatf(1))
        return joint


def _mesh(model: mujoco.MjModel, geom: int, stage: Usd.Stage, path: str) -> UsdGeom.Mesh:
    mesh, prim = model.mesh(int(model.geom_dataid[geom])), UsdGeom.Mesh.Define(stage, path)
    first, face = int(mesh.vertadr[0]), int(mesh.faceadr[0])
    vertices = model.mesh_vert[first : first + int(mesh.vertnum[0])]
    faces = model.mesh_face[face : face + int(mesh.facenum[0])]
    prim.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(vertices.astype(np.float32)))
    prim.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
    prim.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.astype(np.int32).ravel()))
    prim.CreateSubdivisionSchemeAttr("none")
    return prim


def _capsule(model: mujoco.MjModel, geom: int, stage: Usd.Stage, path: str) -> UsdGeom.Capsule:
    prim = UsdGeom.Capsule.Define(stage, path)
    prim.CreateRadiusAttr(float(model.geom_size[geom, 0]))
    prim.CreateHeightAttr(float(2 * model.geom_size[geom, 1]))
    prim.CreateAxisAttr("Z")
    return prim


def _box(model: mujoco.MjModel, geom: int, stage: Usd.Stage, path: str) -> UsdGeom.Cube:
    """Of half edge 1: its size is a scale."""
    prim = UsdGeom.Cube.Define(stage, path)
    prim.CreateSizeAttr(2.0)
    return prim


_SHAPES = {
    int(mujoco.mjtGeom.mjGEOM_MESH): _mesh,
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): _capsule,
    int(mujoco.mjtGeom.mjGEOM_BOX): _box,
}


def _geoms_of(model: mujoco.MjModel, body: int) -> list[int]:
    return np.flatnonzero(model.geom_bodyid == body).tolist()


def _material(model: mujoco.MjModel, geom: int) -> str:
    """Its name; "" where a geom has none."""
    index = int(model.geom_matid[geom])
    return model.material(index).name if index >= 0 else ""


def _set(prim: Usd.Prim, attribute: str, kind: str, value: Any) -> None:
    prim.CreateAttribute(attribute, getattr(Sdf.ValueTypeNames, kind)).Set(value)


def _place(shape: UsdGeom.Xformable, pos: Sequence[float], quat_wxyz: Sequence[float]) -> None:
    shape.AddTranslateOp().Set(Gf.Vec3d(*map(float, pos)))
    shape.AddOrientOp().Set(_quaternion(quat_wxyz))


def _vector(values: Sequence[float]) -> Gf.Vec3f:
    return Gf.Vec3f(*map(float, values))


def _quaternion(wxyz: Sequence[float]) -> Gf.Quatf:
    return Gf.Quatf(*map(float, wxyz))
