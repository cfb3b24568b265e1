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

The activation function is not in the checkpoint. Isaac Lab writes it to `params/agent.yaml` in the run's folder, beside
the `clip_actions` that its RslRlVecEnvWrapper applies to the policy's output; both are read from there.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn.utils import skip_init

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "selu": nn.SELU,
    "relu": nn.ReLU,
    "crelu": nn.CELU,
    "lrelu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "identity": nn.Identity,
}
"""By RSL-RL's own names (its `resolve_nn_activation`)."""
_LAYOUTS = {
    "model_state_dict": ("actor.", "actor_obs_normalizer.", "policy"),
    "actor_state_dict": ("mlp.", "obs_normalizer.", "actor"),
}
"""For each state dict: the prefix of the layers, the prefix of the normalizer, the section in agent.yaml."""
_NOISE_KEYS = ("std", "log_std", "distribution.std_param", "distribution.log_std_param")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message is one line: the file, what was found, what to do."""


class CheckpointPolicy(nn.Module):
    """The mean action of a trained actor, on observations as the simulator gives them. Its weights are frozen.

    Attributes:
        num_obs: O, the length of an observation.
        num_actions: A, the length of an action.
        normalized: Whether observations are normalized, with the checkpoint's statistics.
        activation: A key of `ACTIVATIONS`.
        clip_actions: Actions are clipped to plus or minus this; None: they are not.
        agent_yaml: The run's configuration that both come from; None: there is none beside the checkpoint.
        layout: The releases that write such a checkpoint, e.g. "rsl-rl 5.x".
        iteration: The training iteration that wrote it.
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
        activation: str,
        clip_actions: float | None,
        agent_yaml: Path | None,
        layout: str,
        iteration: int,
        sha256: str,
    ) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for num_inputs, num_outputs in pairwise(widths):
            # skip_init draws no random numbers, so loading a policy leaves the seed of a run alone
            modules += [skip_init(nn.Linear, num_inputs, num_outputs), ACTIVATIONS[activation]()]
        self.network = nn.Sequential(*modules[:-1]).requires_grad_(False)
        self.network.load_state_dict(layers)
        self.num_obs, self.num_actions = widths[0], widths[-1]
        self.normalized = bool(statistics)
        if self.normalized:
            self.register_buffer("obs_mean", statistics["_mean"].float())
            self.register_buffer("obs_std", statistics["_std"].float())
        self.activation, self.clip_actions, self.agent_yaml = activation, clip_actions, agent_yaml
        self.layout, self.iteration, self.sha256 = layout, iteration, sha256

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations (N, O) float32 to actions (N, A) float32."""
        if self.normalized:
            obs = (obs - self.obs_mean) / (self.obs_std + 1e-2)  # the eps of RSL-RL's EmpiricalNormalization
        action: Tensor = self.network(obs)
        return action if self.clip_actions is None else action.clamp(-self.clip_actions, self.clip_actions)


def load_policy(
    path: str | Path, num_obs: int | None, num_actions: int | None, device: str | torch.device = "cpu"
) -> CheckpointPolicy:
    """Load the actor of a checkpoint. Only tensors and plain values are unpickled: a hostile file runs no code.

    Without `params/agent.yaml` beside the checkpoint (a published checkpoint is a lone file) the activation is elu,
    Isaac Lab's for Isaac-Open-Drawer-Franka-v0, and actions are not clipped.

    Args:
        path: A `model_*.pt` as `OnPolicyRunner.save` of rsl-rl 2.x to 5.x writes it.
        num_obs: Expected length of an observation; None: not checked.
        num_actions: Expected length of an action; None: not checked.
        device: Where the policy runs, whichever device it was trained on.

    Raises:
        CheckpointError: The file is not such a checkpoint, or not one for these lengths.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a directory" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {found}; give a file such as logs/rsl_rl/<experiment>/<run>/model_399.pt")
    data = path.read_bytes()
    checkpoint = _unpickle(path, data)
    actor = _find_actor(path, checkpoint)
    widths = _check_tensors(path, actor)
    for name, length, expected in (("observations", widths[0], num_obs), ("actions", widths[-1], num_actions)):
        if expected is not None and length != expected:
            raise CheckpointError(f"{path}: has {length} {name}, expected {expected}; give one trained on this task")

    agent_yaml = path.parent / "params" / "agent.yaml"
    has_yaml = agent_yaml.is_file()
    activation, clip_actions = _read_agent_yaml(agent_yaml, actor.yaml_section) if has_yaml else ("elu", None)
    policy = CheckpointPolicy(
        widths,
        actor.layers,
        actor.statistics,
        activation=activation,
        clip_actions=clip_actions,
        agent_yaml=agent_yaml if has_yaml else None,
        layout=actor.layout,
        iteration=int(checkpoint["iter"]),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return policy.eval().to(device)


def _unpickle(path: Path, data: bytes) -> Any:
    if not data:
        raise CheckpointError(f"{path}: is empty; give a checkpoint that was written to its end")
    if b"/constants.pkl" in data:  # only torch.jit.save writes this member
        raise CheckpointError(f"{path}: is a TorchScript export; give the model_*.pt of the run, not its policy.pt")
    try:
        if damaged := zipfile.ZipFile(io.BytesIO(data)).testzip():
            # torch.load compares no checksums: it would take flipped weights
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"the Python object {found[1]}" if found else "Python objects"
        raise CheckpointError(f"{path}: holds {what}, which may run code: refused; give tensors only") from error
    except (zipfile.BadZipFile, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        reason = str(error).partition("\n")[0]  # any of these, as fuzzed: torch's unpickler does not wrap them
        raise CheckpointError(f"{path}: not a torch file, or cut short or damaged: {reason}; copy it again") from error


@dataclass(frozen=True)
class _Actor:
    """What makes the mean action, without the prefixes of its release."""

    layers: dict[str, Tensor]
    """ "0.weight", "0.bias", "2.weight", ...: the state dict of linear layers with activations between them."""
    statistics: dict[str, Tensor]
    """ "_mean" and "_std" of the observations, (1, O) each; empty: they are not normalized."""
    layout: str
    yaml_section: str


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


def _find_actor(path: Path, checkpoint: Any) -> _Actor:
    keys = list(checkpoint) if isinstance(checkpoint, dict) else []
    section = next((key for key in _LAYOUTS if key in keys), None)
    if section is None or not isinstance(checkpoint.get("iter"), int) or not _is_state_dict(checkpoint[section]):
        found = f"a {type(checkpoint).__name__} with the keys {keys[:8]}"
        expected = "iter and model_state_dict (rsl-rl 2, 3) or actor_state_dict (rsl-rl 4, 5)"
        raise CheckpointError(f"{path}: holds {found}, expected {expected}; give the model_*.pt of an RSL-RL run")
    state, (network, normalizer, yaml_section) = checkpoint[section], _LAYOUTS[section]
    layers = {key.removeprefix(network): value for key, value in state.items() if key.startswith(network)}
    statistics = {key.removeprefix(normalizer): value for key, value in state.items() if key.startswith(normalizer)}

    known = (network, normalizer, "critic.", "critic_obs_normalizer.")
    unknown = [key for key in state if not (key.startswith(known) or key in _NOISE_KEYS)]
    if any("rnn." in key for key in unknown):
        raise CheckpointError(f"{path}: is a recurrent policy ({unknown[0]}); give one trained without memory")
    if unknown or not layers:
        found = ", ".join((unknown or list(state))[:8])
        raise CheckpointError(f"{path}: {section} holds {found}; give a plain MLP actor ({network}0.weight, ...)")
    if not any(key in state for key in _NOISE_KEYS):
        rows = list(layers.values())[-1].numel()
        found = f"no action std and {rows} rows in the last layer: its std depends on the state, with 2 rows an action"
        raise CheckpointError(f"{path}: {found}, or it is a Beta policy; give one with a state-independent std")

    if section == "actor_state_dict":
        layout = "rsl-rl 4.x" if "std" in state or "log_std" in state else "rsl-rl 5.x"
    elif "obs_norm_state_dict" in keys and _is_state_dict(checkpoint["obs_norm_state_dict"]):
        layout, statistics = "rsl-rl 2.x", checkpoint["obs_norm_state_dict"]
    else:
        layout = "rsl-rl 3.x" if any("obs_normalizer." in key for key in state) else "rsl-rl 2.x or 3.x"
    statistics = {key: value for key, value in statistics.items() if key in ("_mean", "_std")}
    return _Actor(layers, statistics, layout, yaml_section)


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


class _PlainLoader(yaml.SafeLoader):
    """Reads a tag that is not plain YAML, such as the !!python/tuple that Isaac Lab writes, as None."""


_PlainLoader.add_constructor(None, lambda loader, node: None)


def _read_agent_yaml(agent_yaml: Path, section: str) -> tuple[str, float | None]:
    """Return the activation and clip_actions of a run. Isaac Lab clips nothing where clip_actions is null or absent."""
    try:
        cfg = yaml.load(agent_yaml.read_bytes(), Loader=_PlainLoader)
    except yaml.YAMLError as error:
        raise CheckpointError(f"{agent_yaml}: not YAML ({' '.join(str(error).split())}); repair it") from error
    network = cfg.get(section) if isinstance(cfg, dict) else None
    activation = network.get("activation") if isinstance(network, dict) else None
    if not isinstance(activation, str) or activation.lower() not in ACTIVATIONS:
        expected = f"expected one of {', '.join(ACTIVATIONS)}"
        raise CheckpointError(f"{agent_yaml}: {section}.activation is {activation}, {expected}; name the trained one")
    clip = cfg.get("clip_actions")
    if clip is not None and not (isinstance(clip, (int, float)) and clip > 0):
        raise CheckpointError(f"{agent_yaml}: clip_actions is {clip!r}, expected a positive number or null; correct it")
    return activation.lower(), clip
