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
the `clip_actions` that its RslRlVecEnvWrapper applies to the policy's output. Both are read from there if they are not
given; `CheckpointPolicy.settings` says in words what is used and where it comes from.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from policies import PolicyError
from policies.checkpoint_settings import ACTIVATIONS, CheckpointError, choose_settings, read_run
from simulators import CameraEnv, Sample

_LAYOUTS = {
    "model_state_dict": ("actor.", "actor_obs_normalizer."),
    "actor_state_dict": ("mlp.", "obs_normalizer."),
}
"""For each state dict: the prefix of the layers, the prefix of the normalizer."""
_WRAPPERS = re.compile(r"(^|\.)(?:(?:_orig_mod|module)\.)+")
"""What torch.compile and DistributedDataParallel put into the names of a module's tensors."""
_TORCH_ERRORS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError)
"""What torch's unpickler raises on damaged files, as fuzzed: it does not wrap them."""
_NOISE_KEYS = ("std", "log_std", "distribution.std_param", "distribution.log_std_param")


_scalar = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS: list[Any] = [
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # in numpy 1 and in numpy 2
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]},
]
"""What a number of numpy is pickled as; training scripts put some into `infos`."""


class CheckpointPolicy(nn.Module):
    """The mean action of a trained actor, on observations as the simulator gives them. Its weights are frozen.

    Attributes:
        num_obs: O, the length of an observation.
        num_actions: A, the length of an action.
        normalized: Whether observations are normalized, with the checkpoint's statistics.
        activation: A key of `ACTIVATIONS`.
        clip_actions: Actions are clipped to plus or minus this; None: they are not.
        settings: Activation and clipping, and where each comes from, in words.
        layout: The releases that write such a checkpoint, e.g. "rsl-rl 5.x".
        iteration: The training iteration that wrote it; None: it does not say.
        sha256: Hex digest of the file.
    """

    obs_mean: Tensor
    obs_std: Tensor
    needs: tuple[str, ...] = ()
    """See `policies.Policy`: it looks at no image."""

    def __init__(
        self,
        widths: list[int],
        layers: dict[str, Tensor],
        statistics: dict[str, Tensor],
        *,
        activation: str,
        clip_actions: float | None,
        settings: str,
        layout: str,
        iteration: int | None,
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
        self.activation, self.clip_actions, self.settings = activation, clip_actions, settings
        self.layout, self.iteration, self.sha256 = layout, iteration, sha256

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations (N, O) float32 to actions (N, A) float32."""
        if self.normalized:
            obs = (obs - self.obs_mean) / (self.obs_std + 1e-2)  # the eps of RSL-RL's EmpiricalNormalization
        action: Tensor = self.network(obs)
        return action if self.clip_actions is None else action.clamp(-self.clip_actions, self.clip_actions)

    def bind(self, env: CameraEnv) -> CheckpointPolicy:
        """See `policies.Policy`."""
        task = env.task
        if (self.num_obs, self.num_actions) != (task.num_obs, task.num_actions):
            raise PolicyError(
                f"it maps {self.num_obs} observations to {self.num_actions} actions, "
                f"--task {env.cfg.task} needs {task.num_obs} and {task.num_actions}; give a checkpoint of this task"
            )
        return self.to(env.device)

    def describe(self) -> dict[str, Any]:
        """See `policies.Policy`."""
        names = ("sha256", "layout", "iteration", "normalized", "activation", "clip_actions", "settings")
        return {name: getattr(self, name) for name in names}

    def reset(self, env_ids: Tensor) -> None:
        """See `policies.Policy`: it remembers nothing."""

    def act(self, sample: Sample | None, obs: Mapping[str, Tensor]) -> Tensor:
        """See `policies.Policy`."""
        action: Tensor = self(obs["policy"])
        return action


def load_policy(
    path: str | Path,
    num_obs: int | None,
    num_actions: int | None,
    device: str | torch.device = "cpu",
    activation: str | None = None,
    clip_actions: float | None = None,
) -> CheckpointPolicy:
    """Load the actor of a checkpoint. Only tensors and plain values are unpickled: a hostile file runs no code.

    Without `params/agent.yaml` beside the checkpoint (a published checkpoint is a lone file) the activation is elu,
    Isaac Lab's for Isaac-Open-Drawer-Franka-v0, and actions are not clipped.

    Args:
        path: A `model_*.pt` as `OnPolicyRunner.save` of rsl-rl 2.x to 5.x writes it.
        num_obs: Expected length of an observation; None: not checked.
        num_actions: Expected length of an action; None: not checked.
        device: Where the policy runs, whichever device it was trained on.
        activation: The actor's, by any name that `known_activation` knows; None: agent.yaml's.
        clip_actions: Actions are clipped to plus or minus this, with infinity they are not; None: agent.yaml's.

    Raises:
        CheckpointError: The file is not such a checkpoint, or not one for these lengths.
    """
    path = Path(path)
    data = _read(path)
    checkpoint = _unpickle(path, data)
    actor = _find_actor(path, checkpoint)
    run = read_run(path)
    if not actor.has_std:
        actor = _mean_rows(path, actor, num_actions)
    widths = _check_tensors(path, actor)
    for name, length, expected in (("observations", widths[0], num_obs), ("actions", widths[-1], num_actions)):
        if expected is not None and length != expected:
            raise CheckpointError(f"{path}: has {length} {name}, expected {expected}; give one trained on this task")
    name, clip, settings = choose_settings(run, activation, clip_actions)
    policy = CheckpointPolicy(
        widths,
        actor.layers,
        actor.statistics,
        activation=name,
        clip_actions=clip,
        settings=settings,
        layout=actor.layout,
        iteration=_iteration(checkpoint["iter"]),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return policy.eval().to(device)


def _read(path: Path) -> bytes:
    """The file's content, if it can be a checkpoint at all."""
    try:
        if not path.is_file():
            found = "is a directory" if path.is_dir() else "is no regular file" if path.exists() else "no such file"
            raise CheckpointError(f"{path}: {found}; give a file such as logs/rsl_rl/<experiment>/<run>/model_399.pt")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; change its permissions or copy it") from error
    if not data:
        raise CheckpointError(f"{path}: is empty; give a checkpoint that was written to its end")
    if data.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: is a Git LFS pointer, not the file itself; run git lfs pull in its repository")
    if data.lstrip()[:1] == b"<":
        raise CheckpointError(f"{path}: is an HTML page, not the file; download it anew, from the link to the raw file")
    if b"/constants.pkl" in data:  # only torch.jit.save writes this member
        raise CheckpointError(f"{path}: is a TorchScript export; give the model_*.pt of the run, not its policy.pt")
    if data[:1] == b"\x08" and b"onnx" in path.suffix.encode() + data[:4096].lower() + data[-4096:].lower():
        raise CheckpointError(f"{path}: is an ONNX export; give the model_*.pt of the run")
    return data


def _unpickle(path: Path, data: bytes) -> Any:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        if damaged := archive.testzip():
            # torch.load compares no checksums: it would take flipped weights
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        if not any(name.endswith("data.pkl") for name in archive.namelist()):
            members = ", ".join(archive.namelist()[:4])
            raise CheckpointError(f"{path}: is another program's zip ({members}); give the model_*.pt of an RSL-RL run")
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"the Python object {found[1]}" if found else "Python objects"
        raise CheckpointError(f"{path}: holds {what}, which may run code: refused; give tensors only") from error
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, zlib.error, *_TORCH_ERRORS) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: not a torch file, or cut short or damaged: {reason}; copy it again") from error


@dataclass(frozen=True)
class _Actor:
    """What makes the mean action, without the prefixes of its release."""

    layers: dict[str, Tensor]
    """ "0.weight", "0.bias", "2.weight", ...: the state dict of linear layers with activations between them."""
    statistics: dict[str, Tensor]
    """ "_mean" and "_std" of the observations, (1, O) each; empty: they are not normalized."""
    layout: str
    has_std: bool
    """False: the last layer has twice as many rows, the mean's and the standard deviation's."""


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
    if section is None or "iter" not in keys or not _is_state_dict(checkpoint[section]):
        found = f"a {type(checkpoint).__name__} with the keys {keys[:8]}"
        expected = "iter and model_state_dict (rsl-rl 2, 3) or actor_state_dict (rsl-rl 4, 5)"
        raise CheckpointError(f"{path}: holds {found}, expected {expected}; give the model_*.pt of an RSL-RL run")
    state, (network, normalizer) = _unwrapped(checkpoint[section]), _LAYOUTS[section]
    layers = {key.removeprefix(network): value for key, value in state.items() if key.startswith(network)}
    statistics = {key.removeprefix(normalizer): value for key, value in state.items() if key.startswith(normalizer)}

    known = (network, normalizer, "critic.", "critic_obs_normalizer.")
    unknown = [key for key in state if not (key.startswith(known) or key in _NOISE_KEYS)]
    if any("rnn." in key for key in unknown):
        raise CheckpointError(f"{path}: is a recurrent policy ({unknown[0]}); give one trained without memory")
    if unknown or not layers:
        found = ", ".join((unknown or list(state))[:8])
        raise CheckpointError(f"{path}: {section} holds {found}; give a plain MLP actor ({network}0.weight, ...)")
    if section == "actor_state_dict":
        layout = "rsl-rl 4.x" if "std" in state or "log_std" in state else "rsl-rl 5.x"
    elif "obs_norm_state_dict" in keys and _is_state_dict(checkpoint["obs_norm_state_dict"]):
        layout, statistics = "rsl-rl 2.x", _unwrapped(checkpoint["obs_norm_state_dict"])
    else:
        layout = "rsl-rl 3.x" if any("obs_normalizer." in key for key in state) else "rsl-rl 2.x or 3.x"
    statistics = {key: value for key, value in statistics.items() if key in ("_mean", "_std")}
    return _Actor(layers, statistics, layout, has_std=any(key in state for key in _NOISE_KEYS))


def _mean_rows(path: Path, actor: _Actor, num_actions: int | None) -> _Actor:
    """The actor without the rows of its last layer that give the standard deviation: RSL-RL puts them behind."""
    last = max(int(name.split(".")[0]) for name in actor.layers)
    rows = len(actor.layers[f"{last}.bias"]) if f"{last}.bias" in actor.layers else 1
    if rows == num_actions:
        return actor  # somebody has left the deviation out
    if rows % 2:
        raise CheckpointError(f"{path}: no action std and {rows} rows in the last layer; give an unaltered checkpoint")
    halves = {name: value[: rows // 2] for name, value in actor.layers.items() if name.startswith(f"{last}.")}
    return replace(actor, layers=actor.layers | halves)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what wrappers of the module have put into its names."""
    return {_WRAPPERS.sub(r"\1", name): value for name, value in state.items()}


def _iteration(value: Any) -> int | None:
    """`iter` as a trainer may have counted it, in numbers of Python, numpy or torch; None: it is no number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return int(value) if isinstance(value, (int, float, np.number)) and math.isfinite(value) else None


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
