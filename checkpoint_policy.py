"""Turn any RSL-RL checkpoint (`model_*.pt`) into a torch policy. RSL-RL itself is not needed.

    policy = load_policy("logs/rsl_rl/franka_open_drawer/2025-10-01_12-00-00/model_399.pt", num_obs=31, num_actions=8)
    with torch.inference_mode():
        action = policy(obs)

What `OnPolicyRunner.save` of each release writes, beside `iter`, `infos` and the optimizer's state:

    rsl-rl  state dict         layers    action noise                   observation normalizer
    2.x     model_state_dict   actor.*   std or log_std                 obs_norm_state_dict (top level)
    3.x     model_state_dict   actor.*   std or log_std                 actor_obs_normalizer.*
    4.x     actor_state_dict   mlp.*     std or log_std                 obs_normalizer.*
    5.x     actor_state_dict   mlp.*     distribution.[log_]std_param   obs_normalizer.*

The activation function is not in the checkpoint, nor are the `clip_actions` that Isaac Lab's RslRlVecEnvWrapper applies
to the policy's output: checkpoint_settings.py finds both.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from checkpoint_file import CheckpointError, read_file, unpickle
from checkpoint_settings import ACTIVATIONS, Settings, choose_settings

_LAYOUTS = {
    "model_state_dict": ("actor.", "actor_obs_normalizer.", "policy"),
    "actor_state_dict": ("mlp.", "obs_normalizer.", "actor"),
}
"""For each state dict: the prefix of the layers, the prefix of the normalizer, the section in agent.yaml."""
_NOISE_KEYS = ("std", "log_std", "distribution.std_param", "distribution.log_std_param")
_WRAPPERS = ("_orig_mod", "module")
"""What torch.compile and DistributedDataParallel put into the names of parameters."""


class CheckpointPolicy(nn.Module):
    """The mean action of a trained actor, on observations as the simulator gives them. Its weights are frozen.

    Attributes:
        num_obs: O, the length of an observation.
        num_actions: A, the length of an action.
        normalized: Whether observations are normalized, with the checkpoint's statistics.
        activation: A key of `ACTIVATIONS`.
        activation_from: Where it comes from: the path of the run's agent.yaml, the flag, or that it is assumed.
        clip_actions: Actions are clipped to plus or minus this; None: they are not.
        clip_actions_from: Likewise.
        agent_yaml: The run's configuration; None: there is none beside the checkpoint.
        layout: The releases that write such a checkpoint, e.g. "rsl-rl 5.x".
        iteration: The training iteration that wrote it; None: it does not say.
        sha256: Hex digest of the file.
    """

    obs_mean: Tensor
    obs_std: Tensor

    def __init__(
        self,
        widths: list[int],
        layers: dict[str, Tensor],
        statistics: dict[str, Tensor],
        *,
        settings: Settings,
        layout: str,
        iteration: int | None,
        sha256: str,
    ) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for num_inputs, num_outputs in pairwise(widths):
            # skip_init draws no random numbers, so loading a policy leaves the seed of a run alone
            modules += [skip_init(nn.Linear, num_inputs, num_outputs), ACTIVATIONS[settings.activation]()]
        self.network = nn.Sequential(*modules[:-1]).requires_grad_(False)
        self.network.load_state_dict(layers)
        self.num_obs, self.num_actions = widths[0], widths[-1]
        self.normalized = bool(statistics)
        if self.normalized:
            self.register_buffer("obs_mean", statistics["_mean"].float())
            self.register_buffer("obs_std", statistics["_std"].float())
        self.activation, self.activation_from = settings.activation, settings.activation_from
        self.clip_actions, self.clip_actions_from = settings.clip_actions, settings.clip_actions_from
        self.agent_yaml = settings.agent_yaml
        self.layout, self.iteration, self.sha256 = layout, iteration, sha256

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations (N, O) float32 to actions (N, A) float32."""
        if self.normalized:
            obs = (obs - self.obs_mean) / (self.obs_std + 1e-2)  # the eps of RSL-RL's EmpiricalNormalization
        action: Tensor = self.network(obs)
        return action if self.clip_actions is None else action.clamp(-self.clip_actions, self.clip_actions)


def load_policy(
    path: str | Path,
    num_obs: int | None,
    num_actions: int | None,
    device: str | torch.device = "cpu",
    *,
    activation: str | None = None,
    clip_actions: float | Literal["none"] | None = None,
) -> CheckpointPolicy:
    """Load the actor of a checkpoint. Only tensors and plain values are unpickled: a hostile file runs no code.

    What is not given is read from `params/agent.yaml` beside the checkpoint. Without it (a published checkpoint is a
    lone file) the activation is elu, Isaac Lab's for Isaac-Open-Drawer-Franka-v0, and actions are not clipped.

    Args:
        path: A `model_*.pt` as `OnPolicyRunner.save` of rsl-rl 2.x to 5.x writes it.
        num_obs: Expected length of an observation; None: not checked.
        num_actions: Expected length of an action; None: not checked.
        device: Where the policy runs, whichever device it was trained on.
        activation: The activation function, by RSL-RL's name or torch's.
        clip_actions: Clip actions to plus or minus this; "none": do not clip.

    Raises:
        CheckpointError: The file is not such a checkpoint, or not one for these lengths.
    """
    path = Path(path)
    data = read_file(path)
    checkpoint = unpickle(path, data)
    actor = _find_actor(path, checkpoint)
    widths = _check_tensors(path, actor)
    settings = choose_settings(path, actor.yaml_section, activation, clip_actions)
    if not actor.has_std and widths[-1] != num_actions:
        actor, widths = _keep_mean(path, actor, widths)
        if settings.agent_yaml is None:  # a Beta policy has the same layers
            actor = replace(actor, layout=f"{actor.layout}, assumed Gaussian")
    for name, length, expected in (("observations", widths[0], num_obs), ("actions", widths[-1], num_actions)):
        if expected is not None and length != expected:
            raise CheckpointError(f"{path}: has {length} {name}, expected {expected}; give one trained on this task")

    policy = CheckpointPolicy(
        widths,
        actor.layers,
        actor.statistics,
        settings=settings,
        layout=actor.layout,
        iteration=_iteration(checkpoint["iter"]),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return policy.eval().to(device)


def _iteration(value: Any) -> int | None:
    """`iter` as a trainer may have counted it: in numbers of Python, NumPy or torch."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    is_number = isinstance(value, (int, float, np.number)) and math.isfinite(value)
    return int(value) if is_number else None


@dataclass(frozen=True)
class _Actor:
    """What makes the mean action, without the prefixes of its release."""

    layers: dict[str, Tensor]
    """ "0.weight", "0.bias", "2.weight", ...: the state dict of linear layers with activations between them."""
    statistics: dict[str, Tensor]
    """ "_mean" and "_std" of the observations, (1, O) each; empty: they are not normalized."""
    has_std: bool
    """False: its std depends on the state, and is the second half of the last layer's rows."""
    layout: str
    yaml_section: str


def _keep_mean(path: Path, actor: _Actor, widths: list[int]) -> tuple[_Actor, list[int]]:
    """The actor without the half of its last layer that makes the std: RSL-RL has the mean in the first rows."""
    num_actions, remainder = divmod(widths[-1], 2)
    if remainder:
        found = f"no action std and {widths[-1]} rows in the last layer, which cannot be a mean and a std"
        raise CheckpointError(f"{path}: {found}; give an unaltered checkpoint")
    last = 2 * (len(widths) - 2)
    layers = actor.layers | {key: actor.layers[key][:num_actions] for key in (f"{last}.weight", f"{last}.bias")}
    layout = f"{actor.layout}, state-dependent std"
    return replace(actor, layers=layers, layout=layout), [*widths[:-1], num_actions]


def _is_state_dict(value: Any) -> bool:
    """Whether it maps names to plain tensors of real numbers; normalizers also count in integers."""
    return isinstance(value, dict) and all(
        isinstance(key, str)
        and isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_complex()
        for key, tensor in value.items()
    )


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the names that it has without torch.compile and DistributedDataParallel."""
    return {".".join(part for part in key.split(".") if part not in _WRAPPERS): state[key] for key in state}


def _find_actor(path: Path, checkpoint: Any) -> _Actor:
    keys = list(checkpoint) if isinstance(checkpoint, dict) else []
    section = next((key for key in _LAYOUTS if key in keys), None)
    if section is None or "iter" not in keys or not _is_state_dict(checkpoint[section]):
        found = f"a {type(checkpoint).__name__} with the keys {keys[:8]}"
        expected = "iter and model_state_dict (rsl-rl 2, 3) or actor_state_dict (rsl-rl 4, 5)"
        raise CheckpointError(f"{path}: holds {found}, expected {expected}; give the model_*.pt of an RSL-RL run")
    state, (network, normalizer, yaml_section) = _unwrapped(checkpoint[section]), _LAYOUTS[section]
    layers = {key.removeprefix(network): value for key, value in state.items() if key.startswith(network)}
    statistics = {key.removeprefix(normalizer): value for key, value in state.items() if key.startswith(normalizer)}

    known = (network, normalizer, "critic.", "critic_obs_normalizer.")
    unknown = [key for key in state if not (key.startswith(known) or key in _NOISE_KEYS)]
    if any("rnn." in key for key in unknown):
        raise CheckpointError(f"{path}: is a recurrent policy ({unknown[0]}); give one trained without memory")
    if unknown or not layers:
        found = ", ".join((unknown or list(state))[:8])
        raise CheckpointError(f"{path}: {section} holds {found}; give a plain MLP actor ({network}0.weight, ...)")

    if section == "model_state_dict" and _is_state_dict(checkpoint.get("obs_norm_state_dict")):
        statistics = _unwrapped(checkpoint["obs_norm_state_dict"])
    statistics = {key: value for key, value in statistics.items() if key in ("_mean", "_std")}
    has_std = any(key in state for key in _NOISE_KEYS)
    return _Actor(layers, statistics, has_std, _layout(section, checkpoint, state), yaml_section)


def _layout(section: str, checkpoint: dict[str, Any], state: dict[str, Tensor]) -> str:
    """The releases that write such a checkpoint, as far as it tells them apart."""
    if section == "actor_state_dict":
        if "std" in state or "log_std" in state:
            return "rsl-rl 4.x"
        return "rsl-rl 5.x" if any(key in state for key in _NOISE_KEYS) else "rsl-rl 4.x or 5.x"
    if _is_state_dict(checkpoint.get("obs_norm_state_dict")):
        return "rsl-rl 2.x"
    return "rsl-rl 3.x" if any("obs_normalizer." in key for key in state) else "rsl-rl 2.x or 3.x"


def _check_tensors(path: Path, actor: _Actor) -> list[int]:
    """Return the widths of the layers, from O to A, if all shapes agree and all values are finite."""
    tensors = actor.layers | actor.statistics
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    matrices = [found.get(f"{2 * i}.weight", ()) for i in range(len(actor.layers) // 2)]
    are_2d = bool(matrices) and all(len(shape) == 2 for shape in matrices)
    widths = [matrices[0][1], *(rows for rows, _ in matrices)] if are_2d else []
    expected: dict[str, tuple[int, ...]] = {}
    for i, (num_inputs, num_outputs) in enumerate(pairwise(widths)):
        expected |= {f"{2 * i}.weight": (num_outputs, num_inputs), f"{2 * i}.bias": (num_outputs,)}
    if actor.statistics:
        expected |= {"_mean": (1, *widths[:1]), "_std": (1, *widths[:1])}
    if found != expected:
        raise CheckpointError(f"{path}: the actor's shapes do not chain up: {found}; give an unaltered checkpoint")
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {key} of the actor holds NaN or infinity; give an earlier checkpoint")
    return widths
