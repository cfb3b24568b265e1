"""What a policy needs and its checkpoint does not hold: the activation, and the limit that clips actions.

Isaac Lab writes both to `params/agent.yaml` in the run's folder; a caller may name them instead.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from policies import PolicyError

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
_OTHER_NAMES = {"celu": "crelu", "leakyrelu": "lrelu", "silu": "swish"}
"""torch's, where they are not RSL-RL's but for capitals."""
_YAML_SECTIONS = ("actor", "policy")
"""Where agent.yaml has the actor, in the words of RSL-RL 4 and 5, and of 2 and 3. Isaac Lab translates old ones."""
_GAUSSIANS = ("", "GaussianDistribution", "HeteroscedasticGaussianDistribution")
"""Distributions whose mean is what the network answers, or its first A numbers; the first is agent.yaml's silence."""


class CheckpointError(PolicyError):
    """A checkpoint that cannot be used. The message is one line: the file, what was found, what to do."""


class _PlainLoader(yaml.SafeLoader):
    """Reads the name of a Python object as text, and other tags, such as Isaac Lab's !!python/tuple, as None."""


_PlainLoader.add_constructor(None, lambda loader, node: None)
_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, name, node: name)


@dataclass(frozen=True)
class Run:
    """What a run's agent.yaml says of the actor, unchecked: a flag may take its place."""

    activation: Any
    clip_actions: Any
    """None: Isaac Lab clips nothing where it is null or absent."""
    source: str


def read_run(checkpoint: Path) -> Run:
    """The configuration of the run that the checkpoint lies in, or that it is a symbolic link into."""
    beside = [path.parent / "params" / "agent.yaml" for path in (checkpoint, checkpoint.resolve())]
    agent_yaml = next(filter(os.path.lexists, beside), None)
    if agent_yaml is None:
        return Run("elu", None, "assumed, there is no params/agent.yaml beside it")
    if agent_yaml.exists() and not (agent_yaml.is_file() or agent_yaml.is_dir()):
        raise CheckpointError(f"{agent_yaml}: is no regular file; copy its content into one")
    try:
        cfg = yaml.load(agent_yaml.read_bytes(), Loader=_PlainLoader)
    except OSError as error:
        raise CheckpointError(f"{agent_yaml}: cannot be read: {error.strerror}; repair or move it") from error
    except (yaml.YAMLError, ValueError) as error:  # the second: a date that there is not
        raise CheckpointError(f"{agent_yaml}: not YAML ({' '.join(str(error).split())}); repair it") from error
    cfg = cfg if isinstance(cfg, dict) else {}
    sections = [cfg[name] for name in _YAML_SECTIONS if isinstance(cfg.get(name), dict)]
    network: dict[str, Any] = next((section for section in sections if "activation" in section), {})
    distribution = network.get("distribution_cfg")
    name = str(distribution.get("class_name", "")) if isinstance(distribution, dict) else ""
    if re.split("[.:]", name)[-1] not in _GAUSSIANS:
        kind = name.removesuffix("Distribution")
        raise CheckpointError(f"{agent_yaml}: is a {kind} policy; give one with Gaussian actions")
    return Run(network.get("activation"), cfg.get("clip_actions"), str(agent_yaml))


def known_activation(name: str) -> str | None:
    """The key of `ACTIVATIONS` that a name such as "silu", "leaky_relu" or "torch.nn.ELU" stands for; None: none."""
    short = re.split("[.:]", name)[-1].lower().replace("_", "").removesuffix("()")
    key = _OTHER_NAMES.get(short, short)
    return key if key in ACTIVATIONS else None


def choose_settings(run: Run, activation: str | None, clip_actions: float | None) -> tuple[str, float | None, str]:
    """Activation, limit of the actions, and both in words: what is given, else what the run's agent.yaml says."""
    sources = ("--activation" if activation else run.source, run.source if clip_actions is None else "--clip_actions")
    written = activation or run.activation
    name = known_activation(written) if isinstance(written, str) else None
    if name is None:
        expected = f"expected one of {', '.join(ACTIVATIONS)}"
        remedy = "name the trained one, there or by --activation"
        raise CheckpointError(f"{sources[0]}: the actor's activation is {written}, {expected}; {remedy}")
    clip = run.clip_actions if clip_actions is None else clip_actions
    if clip is not None and (isinstance(clip, bool) or not (isinstance(clip, (int, float)) and clip > 0)):
        expected = "expected a positive number or null"
        raise CheckpointError(f"{sources[1]}: clip_actions is {clip!r}, {expected}; correct it, or give --clip_actions")
    if clip == math.inf:
        clip = None
    return name, clip, _in_words(name, clip, sources)


def _in_words(activation: str, clip: float | None, sources: tuple[str, str]) -> str:
    clipping = "actions not clipped" if clip is None else f"actions clipped to ±{clip:g}"
    if sources[0] == sources[1]:
        return f"{activation}, {clipping}: {sources[0]}"
    return f"{activation}: {sources[0]}; {clipping}: {sources[1]}"
