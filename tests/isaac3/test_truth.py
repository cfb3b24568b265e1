"""What decides about trust, on PhysX itself: picture, state and action belong together, and calibration is right."""

from __future__ import annotations

import numpy as np
import torch
from conftest import MARKERS

from flags.collect import SHIPPED_CHECKPOINT
from policies.rsl_rl import load_policy
from simulators.cameras import CameraCfg

OVERVIEW = CameraCfg("overview", (-0.92, 1.22, 1.28), (0.42, 0.0, 0.42), vertical_fov_deg=40)
WRIST = CameraCfg("wrist", (-0.05, 0.0, 0.08), (0.25, 0.0, 0.0), frame="gripper", vertical_fov_deg=60)


def center_of(image: np.ndarray, rgb: tuple[float, ...]) -> np.ndarray | None:
    """The centre in px of the ball of this colour; None where it is not wholly in the picture, or hidden in part."""
    channel = int(np.argmax(rgb))
    others = np.delete(image.astype(int), channel, axis=-1).max(axis=-1)
    rows, columns = np.nonzero(image[..., channel].astype(int) > others + 20)
    height, width = image.shape[:2]
    if not len(rows) or min(rows.min(), columns.min()) == 0 or rows.max() == height - 1 or columns.max() == width - 1:
        return None
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


@torch.inference_mode()
def test_projected_tcp_and_handle_fall_on_their_balls(make_env, only_markers):
    env = make_env(num_envs=8, cameras=(OVERVIEW, WRIST))
    policy, obs = load_policy(SHIPPED_CHECKPOINT, 31, 8), env.reset(7)
    errors: dict[tuple[str, str], list[float]] = {(c.name, m): [] for c in env.cameras for m in MARKERS}
    for step in range(60):
        if step % 3 == 0:
            sample = env.capture(["color"])
            to_handle = sample["proprio"][:, 20:23]
            points = {"tcp": sample["ee_position"], "handle": sample["ee_position"] + to_handle}
            for c, camera in enumerate(env.cameras):
                for marker, rgb in MARKERS.items():
                    for i in range(env.num_envs):
                        center = center_of(sample["color"][i, c], rgb)
                        if center is not None:
                            pose = sample["extrinsics"][i, c]
                            at = camera.intrinsics @ pose[:3, :3].T @ (points[marker][i] - pose[:3, 3])
                            errors[camera.name, marker].append(float(np.hypot(*(at[:2] / at[2] - center))))
        obs, *_ = env.step(policy(obs["policy"]))
    for (camera, marker), off in errors.items():
        print(f"{camera}, {marker}: {len(off)} balls, median {np.median(off):.2f}, maximum {max(off):.2f} px")
        assert len(off) >= 20 and np.median(off) < 0.5 and max(off) < 1.5
