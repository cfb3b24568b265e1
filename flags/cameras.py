"""The flags that say what is simulated and filmed, shared by the commands that collect and film again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flags import FlagError, as_flag_error, flag
from flags.isaac import Abilities
from simulators.cameras import CameraCfg
from vpl.columns import STREAMS

Triple = tuple[float, float, float]
XYZ = ("X", "Y", "Z")
TOP_EYE, TOP_TARGET, TOP_UP = (0.35, 0.0, 2.6), (0.35, 0.0, 0.0), (1.0, 0.0, 0.0)  # up = x: the task at the upper edge


@dataclass(frozen=True, kw_only=True)
class CameraFlags:
    """What films, and how it is drawn."""

    enable_wrist_camera: bool = flag(False, "film from the hand too")
    wrist_cam_offset: Triple = flag(
        (0.08, 0.19, -0.05),
        "the wrist camera's eye in the gripper frame (x along the fingers, y side, z up)",
        unit="m",
        metavar=XYZ,
    )
    wrist_cam_look_offset: Triple = flag(
        (0.0, -0.02, 0.08), "the point that it looks at in the gripper frame", unit="m", metavar=XYZ
    )
    wrist_cam_fov: float = flag(90.0, "its vertical field of view", unit="degrees")
    overview_cam_eye: Triple = flag(
        (-0.92, 1.22, 1.28),
        "the overview camera's eye in the env frame (x away from the robot, z up)",
        unit="m",
        metavar=XYZ,
    )
    overview_cam_target: Triple = flag(
        (0.42, 0.0, 0.42), "the point that it looks at in the env frame", unit="m", metavar=XYZ
    )
    overview_cam_fov: float = flag(40.0, "its vertical field of view", unit="degrees")
    enable_top_camera: bool = flag(False, "film from above too")
    top_cam_fov: float = flag(45.0, "its vertical field of view", unit="degrees")
    camera: tuple[str, ...] = flag(
        (),
        "a camera of your own, such as side:1,-1,1:0.4,0,0.4:env:45; may be given several times",
        metavar="NAME:EYE:TARGET[:FRAME[:FOV]]",
    )
    width: int = flag(320, "image width", unit="px")
    height: int = flag(240, "image height", unit="px")
    streams: str = flag("color", f"the images to store: {','.join(STREAMS)}, or color and some", metavar="KINDS")
    samples_per_pixel: int = flag(1, "MuJoCo Warp: 1, 4, 9 or 16 rays; more smooth the edges")
    shadows: bool = flag(False, "MuJoCo Warp: cast shadows")

    def cameras(self) -> tuple[CameraCfg, ...]:
        """The cameras that are asked for.

        Raises:
            FlagError: one cannot be.
        """
        chosen = [self._camera("overview", self.overview_cam_eye, self.overview_cam_target, self.overview_cam_fov)]
        if self.enable_wrist_camera:
            eye, target = self.wrist_cam_offset, self.wrist_cam_look_offset
            chosen.append(self._camera("wrist", eye, target, self.wrist_cam_fov, frame="gripper"))
        if self.enable_top_camera:
            chosen.append(self._camera("top", TOP_EYE, TOP_TARGET, self.top_cam_fov, up=TOP_UP))
        chosen += map(self._own_camera, self.camera)
        names = [camera.name for camera in chosen]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise FlagError(f"--camera: there are two cameras '{repeated[0]}'; give each a name of its own")
        return tuple(chosen)

    def stream_names(self) -> tuple[str, ...]:
        """The kinds of images that are asked for, in their order.

        Raises:
            FlagError: there is no such kind, or color is not among them.
        """
        named = self.streams.split(",")
        if unknown := [name for name in named if name not in STREAMS]:
            raise FlagError(f"--streams {self.streams}: '{unknown[0]}' is unknown; give some of {','.join(STREAMS)}")
        if "color" not in named:
            raise FlagError(f"--streams {self.streams}: the videos are made of color; give color,{self.streams}")
        return tuple(name for name in STREAMS if name in named)

    def check(self, able: Abilities) -> None:
        """Refuse sizes that no camera can have, and what the simulator cannot draw.

        Raises:
            FlagError: there is such a flag.
        """
        for name in ("width", "height"):
            if not 16 <= getattr(self, name) <= 4096 or getattr(self, name) % 2:
                raise FlagError(f"--{name} must be even (H.264) and from 16 to 4096, got {getattr(self, name)}")
        for name in ("wrist_cam_offset", "wrist_cam_look_offset", "overview_cam_eye", "overview_cam_target"):
            if not all(map(math.isfinite, getattr(self, name))):
                raise FlagError(f"--{name} must be three finite numbers, got {' '.join(map(str, getattr(self, name)))}")
        for name in ("wrist_cam_fov", "overview_cam_fov", "top_cam_fov"):
            if not 1 <= getattr(self, name) <= 170:
                raise FlagError(f"--{name} must be from 1 to 170 degrees, got {getattr(self, name)}")
        if self.samples_per_pixel not in (1, 4, 9, 16):
            raise FlagError(f"--samples_per_pixel must be 1, 4, 9 or 16, got {self.samples_per_pixel}")
        if (self.samples_per_pixel > 1 or self.shadows) and able.name != "--simulator mujoco_warp":
            raise FlagError(f"--samples_per_pixel and --shadows are of --simulator mujoco_warp, this is {able.name}")
        if lacking := [name for name in self.stream_names() if name not in able.streams]:
            has = ",".join(able.streams)
            raise FlagError(f"--streams {self.streams}: {able.name} has no {lacking[0]}; give some of {has}")
        if len(self.stream_names()) > 1 and self.samples_per_pixel > 1:
            raise FlagError(
                f"--streams {self.streams}: --samples_per_pixel {self.samples_per_pixel} would measure depth beside "
                "the pixels' middles; leave one of them out"
            )

    def _camera(
        self, name: str, eye: Triple, target: Triple, fov_deg: float, frame: str = "env", up: Triple = (0.0, 0.0, 1.0)
    ) -> CameraCfg:
        with as_flag_error(ValueError):
            return CameraCfg(name, eye, target, frame, up, fov_deg, self.width, self.height)

    def _own_camera(self, text: str) -> CameraCfg:
        """Of `--camera`; the name becomes part of files' names in exports, so it is letters, digits and _."""
        parts = text.split(":")
        try:
            name, eye, target, frame, fov = (*parts, *("env", "45")[len(parts) - 3 :])
            points = [tuple(map(float, point.split(","))) for point in (eye, target)]
            good = name.isidentifier() and all(len(p) == 3 and all(map(math.isfinite, p)) for p in points)
            if not (good and frame in ("env", "gripper") and 1 <= float(fov) <= 170):
                raise ValueError(text)
        except ValueError as error:
            raise FlagError(
                f"--camera {text}: give NAME:EYE:TARGET[:FRAME[:FOV]] with a name of letters, two points such as "
                "1,-1,1 in m, the frame env or gripper, and a vertical field of view from 1 to 170 degrees"
            ) from error
        return self._camera(name, points[0], points[1], float(fov), frame)  # type: ignore[arg-type]
