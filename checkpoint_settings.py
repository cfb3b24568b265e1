"""What a policy needs and its checkpoint does not hold: the activation function, and the limit that clips actions.

Isaac Lab writes both to `params/agent.yaml` in the run's folder; a caller may name them instead.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn

from checkpoint_file import CheckpointError, read_file

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
_BY_CLASS = {module.__name__.lower(): name for name, module in ACTIVATIONS.items()}
"""RSL-RL's names by torch's: "silu" is "swish"."""
_SECTIONS = ("actor", "policy")
"""Where agent.yaml describes the network: rsl-rl 4 and 5, rsl-rl 2 and 3."""
_GAUSSIANS = ("GaussianDistribution", "HeteroscedasticGaussianDistribution")
"""RSL-RL's distributions whose mean is the network's answer, or its first A numbers."""
_ASSUMED = "assumed: no params/agent.yaml beside it"


@dataclass(frozen=True)
class Settings:
    """Both values; `*_from` is the path of agent.yaml, a flag, or says that the value is assumed."""

    activation: str
    """A key of `ACTIVATIONS`."""
    activation_from: str
    clip_actions: float | None
    """Actions are clipped to plus or minus this; None: they are not."""
    clip_actions_from: str
    agent_yaml: Path | None
    """The run's configuration; None: there is none beside the checkpoint."""


def choose_settings(
    checkpoint: Path, section: str, activation: str | None, clip_actions: float | Literal["none"] | None
) -> Settings:
    """What the caller names, else what the run's agent.yaml says, else elu without clipping as in Isaac Lab's task.

    Args:
        section: Where agent.yaml describes the network of this checkpoint's release, "actor" or "policy".

    Raises:
        CheckpointError: agent.yaml cannot be read, or describes what cannot be used here.
    """
    agent_yaml = _find_agent_yaml(checkpoint)
    if agent_yaml is None:
        cfg, network, origin = {}, {"activation": "elu"}, _ASSUMED
    else:
        cfg, origin = _read_yaml(agent_yaml), str(agent_yaml)
        network = _network(cfg, section)
        _check_distribution(agent_yaml, network)
    if activation is None:
        name, activation_from = (
            _checked_activation(f"{origin}: {section}.activation", network.get("activation")),
            origin,
        )
    else:
        name, activation_from = _checked_activation("--activation", activation), "--activation"
    if clip_actions is None:
        limit, clip_actions_from = _checked_limit(f"{origin}: clip_actions", cfg.get("clip_actions")), origin
    else:
        limit, clip_actions_from = _checked_limit("--clip_actions", clip_actions), "--clip_actions"
    return Settings(name, activation_from, limit, clip_actions_from, agent_yaml)


def activation_name(text: str) -> str | None:
    """RSL-RL's name of an activation by any of its names: "SiLU", "leaky_relu", "torch.nn.ELU"; None: unknown."""
    found = re.fullmatch(r"(?:[\w.]+[.:])?(\w+)(?:\(\))?", text.strip())
    name = found[1].lower().replace("_", "") if found else ""
    return name if name in ACTIVATIONS else _BY_CLASS.get(name)


def _checked_activation(place: str, value: Any) -> str:
    name = activation_name(value) if isinstance(value, str) else None
    if name is None:
        remedy = "name the trained one, there or with --activation"
        raise CheckpointError(f"{place} is {value}, expected one of {', '.join(ACTIVATIONS)}; {remedy}")
    return name


def _checked_limit(place: str, value: Any) -> float | None:
    """Isaac Lab clips nothing where clip_actions is null or absent."""
    if value in (None, "none", math.inf):
        return None
    if isinstance(value, bool) or not (isinstance(value, (int, float)) and value > 0):
        expected = "expected a positive number or null"
        raise CheckpointError(f"{place} is {value!r}, {expected}; correct it, or name it with --clip_actions")
    return value


def _find_agent_yaml(checkpoint: Path) -> Path | None:
    """The configuration of the run that the checkpoint lies in, or that it is a symbolic link into."""
    for path in (checkpoint, checkpoint.resolve()):
        agent_yaml = path.parent / "params" / "agent.yaml"
        if os.path.lexists(agent_yaml):
            return agent_yaml
    return None


class _PlainLoader(yaml.SafeLoader):
    """Reads the name of a Python object as text, and other tags, such as Isaac Lab's !!python/tuple, as None."""


_PlainLoader.add_constructor(None, lambda loader, node: None)
_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, name, node: name)


def _read_yaml(agent_yaml: Path) -> dict[str, Any]:
    try:
        cfg = yaml.load(read_file(agent_yaml), Loader=_PlainLoader)
    except CheckpointError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # the second: a date that there is not
        raise CheckpointError(f"{agent_yaml}: not YAML ({' '.join(str(error).split())}); repair it") from error
    return cfg if isinstance(cfg, dict) else {}


def _network(cfg: dict[str, Any], section: str) -> dict[str, Any]:
    """The section of the checkpoint's own release, else the other's: Isaac Lab converts old configurations."""
    for name in (section, *_SECTIONS):
        network = cfg.get(name)
        if isinstance(network, dict) and "activation" in network:
            return network
    return {}


def _check_distribution(agent_yaml: Path, network: dict[str, Any]) -> None:
    cfg = network.get("distribution_cfg")
    name = cfg.get("class_name") if isinstance(cfg, dict) else None
    if name is not None and re.split("[.:]", str(name))[-1] not in _GAUSSIANS:
        raise CheckpointError(f"{agent_yaml}: the policy's distribution is {name}; give a Gaussian policy")
