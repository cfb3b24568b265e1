"""How far MuJoCo Warp's simulation and pictures are from MuJoCo's, from equal states under equal actions.

    python benchmarks/parity.py --num_envs 64 --steps 60

Both start from the states of one reset. The shipped policy acts on MuJoCo's observations, and both take its actions. A
picture is compared where both are put into one state. Prints how many episodes stay within the bounds, and quantiles.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from flags.collect import SHIPPED_CHECKPOINT, parse_flags
from policies.rsl_rl import load_policy
from simulators import CameraEnv, SimulatorCfg, load, options

JOINT_BOUND, DRAWER_BOUND_M = 2e-3, 2e-3
FRAME_EVERY = 12


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    flags = parse_flags(["--enable_wrist_camera"])
    cfg = SimulatorCfg(flags.task, args.num_envs, flags.cameras())
    looks = {"samples_per_pixel": args.samples_per_pixel, "shadows": args.shadows}
    with (
        load("mujoco", cfg) as cpu,
        load("mujoco_warp", replace(cfg, device=args.device, options=options("mujoco_warp", looks))) as gpu,
        torch.inference_mode(),
    ):
        joints, drawer, psnr_db = compare(cpu, gpu, args.steps)
        results = {"envs": args.num_envs, "steps": args.steps, **looks, **gpu.describe()}
    within = (joints < JOINT_BOUND) & (drawer < DRAWER_BOUND_M)
    results |= {
        "within_bounds": float(within.mean()),
        "joints_rad": quantiles(joints),
        "drawer_m": quantiles(drawer),
        "psnr_db": {camera.name: quantiles(values) for camera, values in zip(cfg.cameras, psnr_db.T, strict=True)},
    }
    print(json.dumps(results, indent=1))
    if args.results:
        args.results.write_text(json.dumps(results, indent=1))
    return 0


def compare(cpu: CameraEnv, gpu: CameraEnv, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest difference of joints (rad, m) and drawer (m) of each env, (N,), and PSNRs of pictures, (K, C)."""
    policy = load_policy(SHIPPED_CHECKPOINT, cpu.task.num_obs, cpu.task.num_actions)
    obs = cpu.reset(0)
    gpu.set_state(cpu.get_state())
    joints, drawer, states = np.zeros(cpu.num_envs), np.zeros(cpu.num_envs), []
    for step in range(steps):
        if step % FRAME_EVERY == 0:
            states.append(cpu.get_state())
        action = policy(obs["policy"])
        obs, *_ = cpu.step(action)
        gpu.step(action.to(gpu.device))
        a, b = cpu.capture(), gpu.capture()
        joints = np.maximum(joints, np.abs(a["joint_pos"] - b["joint_pos"]).max(axis=1))
        drawer = np.maximum(drawer, np.abs(a["drawer_pos"] - b["drawer_pos"]))
    return joints, drawer, np.concatenate([psnr_of_state(cpu, gpu, state) for state in states])


def psnr_of_state(cpu: CameraEnv, gpu: CameraEnv, state: np.ndarray) -> np.ndarray:
    """PSNR in dB of each env's and camera's pictures of one state, (N, C)."""
    images = []
    for env in (cpu, gpu):
        env.set_state(state)
        images.append(env.capture(["color"])["color"].astype(np.float32))
    return 10 * np.log10(255**2 / np.square(images[0] - images[1]).mean(axis=(2, 3, 4)))


def quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"q{q}": float(np.quantile(values, q / 100)) for q in (0, 5, 50, 95, 100)}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--num_envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--samples_per_pixel", type=int, default=1, help="of MuJoCo Warp's pictures")
    parser.add_argument("--shadows", action="store_true", help="of MuJoCo Warp's pictures")
    parser.add_argument("--device", default="cuda:0", help="cpu: Warp's own CPU back end")
    parser.add_argument("--results", type=Path, default=None, help="JSON to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
