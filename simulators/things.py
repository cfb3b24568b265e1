"""What a task puts into the scene, in no physics engine's words.

    Body("crate", pos=(0.5, 0, 0.1), joints=(Joint("crate_x", "slide", axis=(1, 0, 0), range=(0, 0.4)),),
         geoms=(Geom("box", size=(0.05, 0.05, 0.05), material="wood", mass=0.3),), sites=(Site("crate", (0, 0, 0)),))

`scene.py` turns it into MuJoCo's model. Metres, radians, kilograms; quaternions w, x, y, z.
"""

from __future__ import annotations

from dataclasses import dataclass

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Joint:
    """What a body may do against its parent, with a spring that pulls it to 0."""

    name: str
    kind: str
    """"slide" along or "hinge" about the axis."""
    axis: Vector
    range: tuple[float, float]
    """m or rad."""
    stiffness: float = 0.0
    """N/m or N m/rad."""
    damping: float = 0.0
    """N s/m or N m s/rad."""
    friction: float = 0.0
    """Dry friction, N or N m."""


@dataclass(frozen=True)
class Geom:
    """A solid shape that the robot can touch and cameras can see."""

    kind: str
    """"box", or "capsule" with `ends`."""
    size: tuple[float, ...]
    """Half the edges of a box; the radius of a capsule."""
    material: str
    """One of those in scene.py."""
    pos: Vector = (0.0, 0.0, 0.0)
    """The centre of a box."""
    ends: tuple[Vector, Vector] | None = None
    """Of a capsule's axis."""
    mass: float = 0.0
    name: str = ""
    decides_friction: bool = False
    """Whether its coefficient of friction holds in all its contacts; `Task.frictions` sets it for each env."""


@dataclass(frozen=True)
class Site:
    """A point whose position a task wants to know."""

    name: str
    pos: Vector


@dataclass(frozen=True)
class Surface:
    """A horizontal rectangle on which things may stand that nothing touches."""

    body: str
    """In whose frame it is; "world": the env's."""
    center: Vector
    half_size: tuple[float, float]
    """Along the body's x and y, m."""


@dataclass(frozen=True)
class Body:
    """A rigid body and what hangs on it."""

    name: str
    pos: Vector
    quat_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    joints: tuple[Joint, ...] = ()
    geoms: tuple[Geom, ...] = ()
    sites: tuple[Site, ...] = ()
    children: tuple[Body, ...] = ()
