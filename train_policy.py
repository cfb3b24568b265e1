"""Train a policy: RSL-RL's PPO on an embedded simulator, from nothing to a checkpoint in minutes.

    python train_policy.py --log_dir logs/mine            # then: --checkpoint logs/mine/model_199.pt

Writes into --log_dir: model_<iteration>.pt (RSL-RL 5 layout), params/agent.yaml, progress.csv, learning_curve.png.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from rsl_rl.runners import OnPolicyRunner

from flags import FlagError, as_flag_error, exit_code, flag, parse
from flags.collect import check_at_least_1, check_seed_and_device
from flags.isaac import abilities
from flags.variation import DATA_POSE_RANGE, PoseFlags, PoseRange
from simulators import SIMULATORS, CameraEnv, SimulatorCfg, SimulatorError, load, options, resolve
from simulators.cache import writable_cache
from simulators.isaac.options import embedded_name
from simulators.tasks import load_task
from simulators.variation import VariationCfg
from vpl.files import StopSignal, run

AGENT_CFG: dict[str, Any] = {  # Isaac Lab's CabinetPPORunnerCfg (rsl_rl_ppo_cfg.py of the task) in RSL-RL 5's words
    "seed": 42,
    "num_steps_per_env": 48,  # there 96 with 4096 envs; half as many learn as well, with 1024 and with 4096
    "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
    "actor": {
        "class_name": "MLPModel",
        "hidden_dims": [256, 128, 64],
        "activation": "elu",
        "obs_normalization": False,
        "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"},
    },
    "critic": {"class_name": "MLPModel", "hidden_dims": [256, 128, 64], "activation": "elu"},
    "algorithm": {
        "class_name": "PPO",
        "learning_rate": 5e-4,
        "schedule": "adaptive",
        "desired_kl": 0.02,
        "gamma": 0.99,
        "lam": 0.95,
        "clip_param": 0.2,
        "entropy_coef": 1e-3,
        "num_learning_epochs": 5,
        "num_mini_batches": 4,
        "max_grad_norm": 1.0,
        "value_loss_coef": 1.0,
        "use_clipped_value_loss": True,
    },
}

TRAINING_POSE_RANGE: PoseRange = tuple(1.8 * side for side in DATA_POSE_RANGE)  # type: ignore[assignment]
"""Wider than a dataset's, so that nothing in a dataset is at the edge of what was learned."""
LEARNED = 0.75
"""Share of an iteration's episodes that must succeed before the task's rewards are all as gentle as they say."""


@dataclass(frozen=True)
class Progress:
    """One row of progress.csv: an iteration of PPO."""

    iteration: int
    env_steps: int
    """Control steps of all envs since the start."""
    seconds: float
    reward: float
    """Mean reward of a step."""
    success_rate: float
    """Share of the episodes ended in this iteration that had succeeded at their end; nan if none ended."""
    episodes: int
    action_std: float


@dataclass(frozen=True, kw_only=True)
class TrainFlags(PoseFlags):
    """What the trainer can be told."""

    task: str = flag("Isaac-Open-Drawer-Franka-v0", "what to learn: a registered task, or your own as module:Class")
    simulator: str = flag("mujoco", "where to learn it; isaac: Isaac Lab 3", choices=tuple(SIMULATORS))
    rewards: str | None = flag(
        None, "which of the task's sets of rewards", metavar="SET", default_says="its first; in Isaac Lab its own"
    )
    checkpoint: Path | None = flag(
        None, "begin with this model_*.pt of this trainer", metavar="FILE", default_says="from nothing"
    )
    num_envs: int = flag(1024, "envs simulated side by side")
    pose_range: PoseRange = flag(
        TRAINING_POSE_RANGE,
        "how far the task's things are moved to either side along x, y, z, and turned about z",
        unit="m, rad",
        metavar=("DX", "DY", "DZ", "DYAW"),
    )
    max_iterations: int = flag(250, "PPO iterations of num_envs x 48 steps")
    save_interval: int = flag(50, "iterations between two checkpoints")
    seed: int = flag(42, "fixes the run (mujoco_warp: its draws)")
    device: str | None = flag(None, "torch device of networks and task", default_says="the simulator's")
    log_dir: Path | None = flag(None, "new folder for the results", metavar="FOLDER", default_says="logs/<date_time>")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: train(check(parse(TrainFlags, argv, __doc__))), SimulatorError)


def check(flags: TrainFlags) -> TrainFlags:
    """The flags with what is left open chosen.

    Raises:
        FlagError: there is one that cannot be.
    """
    check_at_least_1(flags, "num_envs", "max_iterations", "save_interval")
    batches = AGENT_CFG["algorithm"]["num_mini_batches"]
    if flags.num_envs * AGENT_CFG["num_steps_per_env"] < batches:
        raise FlagError(f"--num_envs {flags.num_envs} is too few for {batches} batches")
    with as_flag_error(ValueError):
        able = abilities(resolve(flags.simulator), flags.task)
        if "pose" not in able.kinds:
            raise FlagError(f"--simulator isaac --task {flags.task}: {able.name} cannot vary it; train in Isaac Lab")
        device = flags.device or able.device
        load_task(embedded_name(flags.task), flags.rewards)
    check_seed_and_device(flags.seed, flags.simulator, device)
    flags.check_pose_range()
    if flags.checkpoint and not flags.checkpoint.is_file():
        raise FlagError(f"--checkpoint {flags.checkpoint} is not there; give a model_*.pt of this trainer")
    log_dir = flags.log_dir or Path("logs") / time.strftime("%Y%m%d_%H%M%S")
    if log_dir.exists():
        raise FlagError(f"--log_dir {log_dir} exists already; give a new folder")
    return replace(flags, device=device, log_dir=log_dir)


def train(flags: TrainFlags) -> int:
    """Train, report and save."""
    assert flags.device is not None and flags.log_dir is not None
    torch.set_num_threads(1)  # on two busy cores a second thread makes the update slower
    torch.manual_seed(flags.seed)
    cfg = SimulatorCfg(
        task=flags.task,
        num_envs=flags.num_envs,
        seed=flags.seed,
        device=flags.device,
        rewards=flags.rewards,
        variation=VariationCfg(("pose",), flags.pose_range),
        options=options(flags.simulator, {"deterministic": False}),
    )
    agent_cfg = {**AGENT_CFG, "seed": flags.seed}
    about = f"{flags.num_envs} envs, seed {flags.seed}, results in {flags.log_dir}"
    print(f"training on {flags.simulator}: {about}", flush=True)
    history: list[Progress] = []
    stop = StopSignal("this iteration is completed and saved")
    stop.hurry = leave_at_once
    with load(flags.simulator, cfg) as env:
        (flags.log_dir / "params").mkdir(parents=True)  # once the simulator has started: a failure leaves nothing
        (flags.log_dir / "params" / "agent.yaml").write_text(yaml.safe_dump(agent_cfg, sort_keys=False))
        runner = make_runner(env, agent_cfg, flags.device)
        if flags.checkpoint:
            runner.load(str(flags.checkpoint), map_location=flags.device)
        for progress in learn(runner, env, flags.max_iterations):
            history.append(progress)
            print(progress_line(progress, flags.max_iterations), flush=True)
            last = stop.number or progress.iteration == flags.max_iterations - 1
            if last or progress.iteration % flags.save_interval == 0:
                runner.current_learning_iteration = progress.iteration
                runner.save(str(flags.log_dir / f"model_{progress.iteration}.pt"))
            if last:
                break
    write_history(history, flags.log_dir)
    print(f"{'stopped' if stop.number else 'done'}: {flags.log_dir / f'model_{history[-1].iteration}.pt'}")
    return 128 + stop.number if stop.number else 0


def leave_at_once() -> NoReturn:
    """What the second Ctrl-C does."""
    os._exit(128 + signal.SIGINT)


def make_runner(env: CameraEnv, agent_cfg: dict, device: str) -> OnPolicyRunner:
    """RSL-RL's runner around `env`, without its own logging (log_dir None) and its print-out of the networks."""
    env.reset(agent_cfg["seed"])
    with contextlib.redirect_stdout(io.StringIO()):
        runner = OnPolicyRunner(env, yaml.safe_load(yaml.safe_dump(agent_cfg)), log_dir=None, device=device)
    env.episode_length_buf = torch.randint_like(env.episode_length_buf, high=env.max_episode_length)
    return runner


def learn(runner: OnPolicyRunner, env: CameraEnv, max_iterations: int) -> Iterator[Progress]:
    """PPO's loop as `OnPolicyRunner.learn` runs it, yielding what each iteration did."""
    start = time.monotonic()
    obs = env.get_observations()
    runner.alg.train_mode()
    env.task.is_learned = False
    num_steps = runner.cfg["num_steps_per_env"]
    for iteration in range(max_iterations):
        rewards, episodes, successes = 0.0, 0, 0.0
        with torch.inference_mode():
            for _ in range(num_steps):
                obs, reward, dones, extras = env.step(runner.alg.act(obs))
                runner.alg.process_env_step(obs, reward, dones, extras)
                rewards += reward.mean().item() / num_steps
                if "log" in extras:
                    episodes += int(dones.sum())
                    successes += extras["log"]["success_rate"] * int(dones.sum())
            runner.alg.compute_returns(obs)
        runner.alg.update()
        env.task.is_learned |= episodes > 0 and successes >= LEARNED * episodes
        yield Progress(
            iteration=iteration,
            env_steps=(iteration + 1) * num_steps * env.num_envs,
            seconds=round(time.monotonic() - start, 1),
            reward=round(rewards, 4),
            success_rate=round(successes / episodes, 4) if episodes else float("nan"),
            episodes=episodes,
            action_std=round(runner.alg.get_policy().output_std.mean().item(), 4),
        )


def progress_line(progress: Progress, max_iterations: int) -> str:
    """What the terminal shows of an iteration."""
    steps_per_s = progress.env_steps / progress.seconds
    return (
        f"iteration {progress.iteration + 1:4d}/{max_iterations}  {progress.env_steps / 1e6:6.2f} M steps  "
        f"{steps_per_s / 1e3:5.1f} k steps/s  reward {progress.reward:7.4f}  success {progress.success_rate:6.1%}  "
        f"std {progress.action_std:.2f}  {progress.seconds:5.0f} s"
    )


def write_history(history: list[Progress], log_dir: Path) -> None:
    """progress.csv and learning_curve.png."""
    os.environ.setdefault("MPLCONFIGDIR", str(writable_cache() / "matplotlib"))  # read at the import
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with open(log_dir / "progress.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(history[0])))
        writer.writeheader()
        writer.writerows(asdict(progress) for progress in history)
    million_steps = [p.env_steps / 1e6 for p in history]
    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(7, 5), constrained_layout=True)
    top.plot(million_steps, [100 * p.success_rate for p in history])
    top.set(ylabel="success of ended episodes (%)", ylim=(-3, 103))
    bottom.plot(million_steps, [p.reward for p in history], color="tab:green")
    bottom.set(ylabel="mean reward of a step", xlabel="control steps of all envs (million)")
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    figure.savefig(log_dir / "learning_curve.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    run(main)
