"""What decides about trust, on PhysX itself: picture, state and action belong together, and calibration is right."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import MARKER_M, MARKERS

from flags.collect import SHIPPED_CHECKPOINT
from policies.rsl_rl import load_policy
from simulators import Sample
from simulators.cameras import CameraCfg
from simulators.variation import VariationCfg

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
                        apart = np.linalg.norm(to_handle[i]) > 4 * MARKER_M  # else one hides part of the other
                        if center is not None and apart:
                            pose = sample["extrinsics"][i, c]
                            at = camera.intrinsics @ pose[:3, :3].T @ (points[marker][i] - pose[:3, 3])
                            errors[camera.name, marker].append(float(np.hypot(*(at[:2] / at[2] - center))))
        obs, *_ = env.step(policy(obs["policy"]))
    for (camera, marker), off in errors.items():
        print(f"{camera}, {marker}: {len(off)} balls, median {np.median(off):.2f}, maximum {max(off):.2f} px")
        assert len(off) >= 20 and np.median(off) < 0.5 and max(off) < 1.5


@torch.inference_mode()
def test_forty_episodes_with_staggered_resets_show_the_states_beside_them(make_env):
    """Each state is put into another env later: its picture must be the one that was captured, bit by bit."""
    cameras = tuple(replace(camera, width=96, height=72) for camera in (OVERVIEW, WRIST))
    variation = VariationCfg(("pose", "looks"))
    env = make_env(num_envs=10, cameras=cameras, variation=variation)
    policy, obs = load_policy(SHIPPED_CHECKPOINT, 31, 8), env.reset(7)
    env.episode_length_buf[:] = env.max_episode_length - 1 - 2 * torch.arange(10)
    recorded: list[Sample] = []
    episodes = 0
    for _ in range(40):
        recorded.append(env.capture(["color", "depth"]))
        obs, _, dones, _ = env.step(policy(obs["policy"]))
        ended = dones.nonzero()[:, 0]
        episodes += len(ended)
        env.episode_length_buf[ended] = env.max_episode_length - 7 - ended % 3  # each env again, at steps of its own
    assert episodes >= 40
    info = env.episode_info()
    env = make_env(num_envs=10, cameras=cameras, variation=variation, seed=5)
    mismatches = 0
    for sample in recorded:
        env.set_state(sample["sim_state"], info)
        again = env.capture(["color", "depth"])
        for stream in ("color", "depth"):
            mismatches += (again[stream] != sample[stream]).reshape(10, len(cameras), -1).any(axis=-1).sum()
        for name in ("sim_state", "extrinsics", "ee_position", "ee_rotation", "joint_pos"):
            assert np.array_equal(again[name], sample[name]), name
        assert again["proprio"] == pytest.approx(sample["proprio"], abs=2e-5)
    print(f"{episodes} episodes, {4 * 10 * len(recorded)} pictures: {mismatches} are not equal bit by bit;")
    print(f"from one row to the next {moved(recorded):.1%} of the pixels differ")
    assert mismatches == 0 and moved(recorded) > 0.02


def moved(recorded: list[Sample]) -> float:
    """The share of pixels that differ between one row and the next."""
    pairs = pairwise(sample["color"] for sample in recorded)
    return float(np.mean([(a != b).any(axis=-1).mean() for a, b in pairs]))


@torch.inference_mode()
def test_depth_is_the_distance_of_what_is_seen(make_env, only_markers):
    """Only the balls are drawn: in the middle of one the depth is its centre's less its radius."""
    env = make_env(num_envs=4, cameras=(WRIST,))
    env.reset(7)
    sample = env.capture(["color", "depth"])
    for i in range(4):
        pose = sample["extrinsics"][i, 0]
        x, y, z = WRIST.intrinsics @ pose[:3, :3].T @ (sample["ee_position"][i] - pose[:3, 3])
        assert abs(int(sample["depth"][i, 0, int(y / z), int(x / z)]) - 1000 * (z - MARKER_M)) <= 1.5
    assert (sample["depth"] == 0).mean() > 0.5, "nothing was hit, which is 0"
