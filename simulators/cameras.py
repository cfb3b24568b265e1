"""Cameras by the point that they stand at and the point that they look at.

CameraCfg("wrist", eye=(-0.05, 0, 0.08), target=(0.25, 0, 0), frame="gripper").pose
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HAND_R_GRIPPER = np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]])
"""The axes of CameraCfg's frame "gripper" in the panda_hand body's; both have the same origin."""


FRAMES = ("env", "gripper")
"""What a camera may be fixed in; `CameraCfg.frame` says more."""


@dataclass(frozen=True)
class CameraCfg:
    """A pinhole camera, by the point it stands at and the point it looks at.

    Raises:
        ValueError: there is no such frame, or no such picture.
    """

    name: str
    eye: tuple[float, float, float]
    """Optical centre in m, in `frame`."""
    target: tuple[float, float, float]
    """A point on the optical axis in m, in `frame`."""
    frame: str = "env"
    """"env": fixed in the env's own frame. "gripper": rigid on the hand; x = hand z (where the fingers point),
    y = -hand y, z = hand x, origin at the panda_hand body's."""
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """The direction of `frame` that points up in the image."""
    vertical_fov_deg: float = 45.0
    width: int = 320
    height: int = 240

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise ValueError(f"camera '{self.name}' has the frame '{self.frame}'; give one of {', '.join(FRAMES)}")
        if not np.isfinite([self.eye, self.target, self.up]).all():
            raise ValueError(f"camera '{self.name}' has eye {self.eye}, target {self.target}, up {self.up}: not finite")
        if not (0 < self.vertical_fov_deg < 180 and self.width > 0 and self.height > 0):
            size = f"{self.width} x {self.height} px"
            raise ValueError(f"camera '{self.name}' has {self.vertical_fov_deg} degrees over {size}: no picture")
        forward = np.subtract(self.target, self.eye, dtype=np.float64)
        if not np.linalg.norm(forward) > 1e-6:
            raise ValueError(f"camera '{self.name}' looks at its own eye {self.eye}")
        if not np.linalg.norm(np.cross(forward, self.up)) > 1e-6 * np.linalg.norm(forward):
            raise ValueError(f"camera '{self.name}' looks along its own up direction {self.up}")

    @property
    def pose(self) -> np.ndarray:
        """`T_frame_cam`, (4, 4) float64: camera to `frame`, OpenCV axes (x right, y down, z forward)."""
        forward = np.subtract(self.target, self.eye, dtype=np.float64)
        right = np.cross(forward, self.up)
        z = forward / np.linalg.norm(forward)
        x = right / np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.column_stack([x, np.cross(z, x), z])
        pose[:3, 3] = self.eye
        return pose

    @property
    def mount(self) -> np.ndarray:
        """`pose` in the frame of what carries the camera, the env's or the panda_hand body's, (4, 4) float64."""
        mount = self.pose
        if self.frame == "gripper":
            mount[:3] = HAND_R_GRIPPER @ mount[:3]
        return mount

    @property
    def intrinsics(self) -> np.ndarray:
        """Pinhole K in pixels, (3, 3) float64; square pixels; (0, 0) is the outer corner of the top-left pixel."""
        focal_px = 0.5 * self.height / np.tan(np.radians(self.vertical_fov_deg) / 2)
        return np.array([[focal_px, 0, self.width / 2], [0, focal_px, self.height / 2], [0, 0, 1]])
