"""What the demonstrations of a policy for the drawer are like, on MuJoCo: the figures of the card.

    python checkpoints/open_drawer_franka/measure.py --checkpoint logs/mine/model_249.pt --pose_scale 2

The front's force is that of the contacts between a finger and a drawer's or a door's panel at the end of a control
step; the view is the wrist camera's, in the rows before the fingers close on the bar.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import mujoco
import numpy as np
import torch

from flags.cameras import CameraFlags
from policies.rsl_rl import load_policy
from simulators import SimulatorCfg, load
from simulators.mujoco_cpu import MujocoCpuEnv
from simulators.mujoco_env import STATE
from simulators.tasks.open_drawer import held
from simulators.variation import VariationCfg

TASK = "Isaac-Open-Drawer-Franka-v0"
HORIZONS = (60, 80, 120)
PULLING = (0.02, 0.38)
"""m: how far the drawer is open while it is pulled."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).with_name("model.pt"))
    parser.add_argument("--num_envs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=777)
    parser.add_argument("--pose_scale", type=float, default=1.0, help="multiple of the default pose ranges")
    args = parser.parse_args()
    pose_range = tuple(args.pose_scale * side for side in VariationCfg().pose_range)
    variation = VariationCfg(("pose",), pose_range)  # type: ignore[arg-type]
    cfg = SimulatorCfg(
        TASK, args.num_envs, variation=variation, cameras=CameraFlags(enable_wrist_camera=True).cameras()
    )
    policy = load_policy(args.checkpoint, 31, 8)
    with load("mujoco", cfg) as env, torch.inference_mode():
        assert isinstance(env, MujocoCpuEnv)
        report(measure(env, policy, args.seed))


def measure(env: MujocoCpuEnv, policy, seed: int) -> dict[str, np.ndarray]:
    """(T, N) each; T is the longest of HORIZONS. Targets are (T, N, 7)."""
    obs, rows = env.reset(seed), []
    forces = FrontForces(env)
    for _ in range(HORIZONS[-1]):
        sample = env.capture()
        handle = env._state.site_pos["handle"].double().numpy()
        action = policy.act(sample, obs)
        obs, _, _, extras = env.step(action)
        state = env._state
        rows.append(
            {
                "drawer": state.task_joint_pos[:, 0].numpy(),
                "held": held(state).numpy(),
                "speed": state.tcp_vel.norm(dim=1).numpy(),
                "target": extras["joint_pos_target"][:, :7].numpy(),
                "force": forces.measure(),
                "in_view": in_view(env, sample["extrinsics"][:, 1], handle),
            }
        )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def in_view(env: MujocoCpuEnv, extrinsics: np.ndarray, handle: np.ndarray) -> np.ndarray:
    """Whether the wrist camera at `T_world_cam` (N, 4, 4) has the point `handle` (N, 3) m in its picture, (N,) bool."""
    camera = env.cameras[1]
    in_camera = np.einsum("nji,nj->ni", extrinsics[:, :3, :3], handle - extrinsics[:, :3, 3])
    pixel = in_camera @ camera.intrinsics.T
    u, v = pixel[:, 0] / pixel[:, 2], pixel[:, 1] / pixel[:, 2]
    return (pixel[:, 2] > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)


class FrontForces:
    """Contact forces of fingers against the fronts of drawers and doors."""

    def __init__(self, env: MujocoCpuEnv) -> None:
        self._env, self._model = env, env.model
        self._data = mujoco.MjData(self._model)
        fingers = [self._model.body(name).id for name in ("leftfinger", "rightfinger")]
        front = self._model.material("front").id
        self._fingers = {i for i in range(self._model.ngeom) if self._model.geom_bodyid[i] in fingers}
        self._front = {i for i in range(self._model.ngeom) if self._model.geom_matid[i] == front}

    def measure(self) -> np.ndarray:
        """The largest of each env, (N,) N."""
        return np.array([self._of(env, row) for env, row in enumerate(self._env._rows_live)])

    def _of(self, env: int, row: np.ndarray) -> float:
        for name, values in self._env._fields.values.items():
            getattr(self._model, name)[:] = values[env]
        mujoco.mj_setState(self._model, self._data, row, STATE)
        mujoco.mj_forward(self._model, self._data)
        force, largest = np.zeros(6), 0.0
        for i in range(self._data.ncon):
            pair = set(self._data.contact[i].geom)
            if pair & self._fingers and pair & self._front:
                mujoco.mj_contactForce(self._model, self._data, i, force)
                largest = max(largest, float(np.linalg.norm(force[:3])))
        return largest


def report(rows: dict[str, np.ndarray]) -> None:
    """Print the card's figures."""
    for steps in HORIZONS:
        print(f"success in {steps:3d} steps      {(rows['drawer'][steps - 1] >= 0.3).mean():7.1%}")
    within = slice(80)
    pulling = (rows["drawer"] > PULLING[0]) & (rows["drawer"] < PULLING[1])
    change = np.abs(np.diff(rows["target"][within], axis=0)).mean()
    peak, force = rows["speed"].max(axis=0), rows["force"].max(axis=0)
    before = ~np.maximum.accumulate(rows["held"], axis=0) & (rows["drawer"] < PULLING[0])
    print(f"bar held while pulling    {rows['held'][pulling].mean():7.1%}")
    print(f"step of a joint's target  {change:7.4f} rad")
    print(f"tool's peak speed         {np.median(peak):7.2f} m/s median, {np.quantile(peak, 0.95):.2f} m/s 95 %")
    print(f"finger against the front  {np.quantile(force, 0.95):7.1f} N 95 %, above 20 N in {(force > 20).mean():.1%}")
    print(f"handle in the wrist view  {rows['in_view'][before].mean():7.1%} of the rows before the grasp")


if __name__ == "__main__":
    main()
