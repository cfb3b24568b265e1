"""Write the RSL-RL checkpoints that tests/test_checkpoint_policy.py reads, with the real releases.

    for v in 2.3.3 3.1.2 4.0.1 5.5.1; do
        python -m venv /tmp/rsl_rl_$v
        /tmp/rsl_rl_$v/bin/pip install torch==2.13.0 numpy tensorboard rsl-rl-lib==$v
        /tmp/rsl_rl_$v/bin/python tests/checkpoints/write_checkpoints.py plain normalized
    done
    /tmp/rsl_rl_3.1.2/bin/python tests/checkpoints/write_checkpoints.py recurrent
    /tmp/rsl_rl_5.5.1/bin/python tests/checkpoints/write_checkpoints.py recurrent

Each release trains two iterations on noise, saves `rsl_rl_<release>_<variant>.pt` beside this file, and writes what
its own inference policy answers to a fixed batch: `obs` (16, 31) and `actions` (16, 8), float32, in an .npz.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner

RELEASE = version("rsl-rl-lib")
MAJOR = int(RELEASE.split(".")[0])
NUM_ENVS, NUM_OBS, NUM_ACTIONS = 4, 31, 8


class NoiseEnv(VecEnv):
    """Observations far from zero mean and unit variance, so that a normalizer has something to learn."""

    num_envs, num_actions, max_episode_length = NUM_ENVS, NUM_ACTIONS, 5
    device = "cpu"
    cfg: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.episode_length_buf = torch.zeros(NUM_ENVS, dtype=torch.long)

    def observe(self) -> torch.Tensor:
        return 3.0 * torch.randn(NUM_ENVS, NUM_OBS) * torch.rand(NUM_OBS) + torch.linspace(-2.0, 2.0, NUM_OBS)

    def get_observations(self) -> Any:
        return as_batch(self.observe()) if MAJOR >= 3 else (self.observe(), {"observations": {}})

    def reset(self) -> Any:
        return self.get_observations()

    def step(self, actions: torch.Tensor) -> tuple[Any, torch.Tensor, torch.Tensor, dict[str, Any]]:
        self.episode_length_buf += 1
        dones = self.episode_length_buf >= self.max_episode_length
        self.episode_length_buf[dones] = 0
        obs = as_batch(self.observe()) if MAJOR >= 3 else self.observe()
        return obs, -actions.square().sum(dim=1), dones.long(), {"observations": {}, "time_outs": dones}


def as_batch(obs: torch.Tensor) -> Any:
    """What an inference policy of this release takes: a tensor in 2.x, a TensorDict since 3.0."""
    if MAJOR < 3:
        return obs
    from tensordict import TensorDict

    return TensorDict({"policy": obs}, batch_size=[len(obs)])


def runner_cfg(variant: str) -> dict[str, Any]:
    normalized, recurrent = variant == "normalized", variant == "recurrent"
    rnn = {"rnn_type": "lstm", "rnn_hidden_dim": 4, "rnn_num_layers": 1} if recurrent else {}
    algorithm = {"class_name": "PPO", "num_learning_epochs": 2, "num_mini_batches": 2, "learning_rate": 1e-2}
    cfg: dict[str, Any] = {
        "num_steps_per_env": 12,
        "save_interval": 100,
        "algorithm": algorithm | {"rnd_cfg": None, "symmetry_cfg": None},
        "empirical_normalization": normalized if MAJOR == 2 else None,
    }
    if MAJOR <= 3:
        policy = {"class_name": "ActorCriticRecurrent" if recurrent else "ActorCritic", "activation": "elu"} | rnn
        policy |= {"actor_hidden_dims": [16, 8], "critic_hidden_dims": [16, 8], "init_noise_std": 1.0}
        policy |= {f"{net}_obs_normalization": normalized for net in ("actor", "critic")} if MAJOR == 3 else {}
        return cfg | {"policy": policy, "obs_groups": {"policy": ["policy"], "critic": ["policy"]}}
    model = {"class_name": "RNNModel" if recurrent else "MLPModel", "activation": "elu"} | rnn
    model |= {"hidden_dims": [16, 8], "obs_normalization": normalized}
    noise = {"stochastic": True} if MAJOR == 4 else {"distribution_cfg": {"class_name": "GaussianDistribution"}}
    groups = {"actor": ["policy"], "critic": ["policy"]}
    return cfg | {"actor": model | noise, "critic": dict(model), "obs_groups": groups}


def write_checkpoint(variant: str) -> None:
    torch.manual_seed(0)
    out = Path(__file__).with_name(f"rsl_rl_{RELEASE}_{variant}.pt")
    with tempfile.TemporaryDirectory() as log_dir:
        runner = OnPolicyRunner(NoiseEnv(), runner_cfg(variant), log_dir=log_dir, device="cpu")
        runner.learn(num_learning_iterations=2)
        runner.save(str(out))
    if variant == "recurrent":  # its answer depends on a hidden state, and the test only sees it refused
        return
    obs = 2.0 * torch.randn(16, NUM_OBS)
    with torch.inference_mode():
        actions = runner.get_inference_policy(device="cpu")(as_batch(obs))
    np.savez(out.with_suffix(".npz"), obs=obs.numpy(), actions=actions.numpy())


if __name__ == "__main__":
    for variant in sys.argv[1:]:
        write_checkpoint(variant)
