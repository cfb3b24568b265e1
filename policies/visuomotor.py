"""A student: it sees what cameras see and feels what the robot feels, and answers with the next joint targets.

    policy = load_student("runs/x/student.pt").bind(env)
    action = policy.act(sample, obs)

examples/train_student.py trains it. A checkpoint says what it needs: cameras, size of the pictures, columns of the
robot's state. Columns of another role than `state` are refused: a robot does not know where the drawer is.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from policies import PolicyError
from simulators import CameraEnv, Sample
from simulators.cameras import CameraCfg
from vpl.columns import Role

KIND = "isaac-data-gen student 1"
CHANNELS = (32, 64, 128, 128)


@dataclass(frozen=True)
class StudentCfg:
    """What a student is made of and what it needs; JSON types."""

    cameras: tuple[dict[str, Any], ...]
    """As metadata.json lists them, in the order of the images' axis C."""
    height: int
    width: int
    """Pictures are resized to this, px."""
    state: dict[str, int]
    """Columns of the robot's state and their widths, in order; P numbers in all."""
    joints: int
    """J, numbers of a joint target."""
    horizon: int = 12
    """K, joint targets of an answer."""
    execute: int = 1
    """How many of them are executed before it looks again."""
    features: int = 128
    """Numbers that a picture becomes."""
    hidden: int = 512


class StudentNet(nn.Module):
    """A convolutional network for each camera, and one for all that is known: the next K joint targets.

    Strided convolutions with residual blocks and group normalization, from scratch.
    """

    state_mean: Tensor
    state_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, cfg: StudentCfg) -> None:
        super().__init__()
        self.cfg = cfg
        self.eyes = nn.ModuleList([_eye(cfg) for _ in cfg.cameras])
        inputs, outputs = sum(cfg.state.values()), cfg.horizon * cfg.joints
        self.head = nn.Sequential(
            nn.Linear(inputs + cfg.features * len(cfg.cameras), cfg.hidden),
            nn.ReLU(),
            nn.Linear(cfg.hidden, cfg.hidden),
            nn.ReLU(),
            nn.Linear(cfg.hidden, outputs),
        )
        for name, width in (("state_mean", inputs), ("target_mean", cfg.joints)):
            self.register_buffer(name, torch.zeros(width))
        for name, width in (("state_std", inputs), ("target_std", cfg.joints)):
            self.register_buffer(name, torch.ones(width))

    def forward(self, color: Tensor, state: Tensor) -> Tensor:
        """Joint targets (N, K, J), rad and m, of pictures (N, C, 3, H, W) from 0 to 1 and states (N, P)."""
        known = [(state - self.state_mean) / self.state_std]
        known += [eye(color[:, i]) for i, eye in enumerate(self.eyes)]
        targets = self.head(torch.cat(known, dim=1)).view(-1, self.cfg.horizon, self.cfg.joints)
        return targets * self.target_std + self.target_mean


class _Block(nn.Module):
    """Halves height and width, then adds what a second convolution sees."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        size = 5 if inputs == 3 else 3
        self.down = nn.Sequential(nn.Conv2d(inputs, outputs, size, 2, size // 2), nn.GroupNorm(8, outputs), nn.ReLU())
        self.more = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1), nn.GroupNorm(8, outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        more: Tensor = x + self.more(x)
        return more


def _eye(cfg: StudentCfg) -> nn.Sequential:
    blocks = [_Block(inputs, outputs) for inputs, outputs in pairwise((3, *CHANNELS))]
    shrunk = [-(-side // 2 ** len(CHANNELS)) for side in (cfg.height, cfg.width)]
    flat = nn.Linear(CHANNELS[-1] * shrunk[0] * shrunk[1], cfg.features)
    return nn.Sequential(*blocks, nn.Flatten(), flat, nn.ReLU())


def resized(color: Tensor, height: int, width: int) -> Tensor:
    """Pictures (N, C, H, W, 3) uint8 as (N, C, 3, height, width) from 0 to 1, each pixel the mean of what it covers."""
    pictures = color.permute(0, 1, 4, 2, 3)
    flat = pictures.reshape(-1, *pictures.shape[2:]).float() / 255
    if flat.shape[2:] != (height, width):
        flat = nn.functional.interpolate(flat, (height, width), mode="bilinear", antialias=True)
    return flat.view(*pictures.shape[:2], 3, height, width)


class Student:
    """See `policies.Policy`. It looks, executes some of its answer's joint targets, and looks again."""

    def __init__(self, net: nn.Module, cfg: StudentCfg, about: Mapping[str, Any]) -> None:
        """`net` maps pictures and states as `StudentNet` does; `about` is what `describe` says."""
        self.net, self.cfg, self.about = net.eval(), cfg, dict(about)
        self.cameras = tuple(map(_camera, cfg.cameras))
        """What it was trained with."""
        self.execute = cfg.execute
        self._chunk, self._used = torch.zeros(0), cfg.execute

    @property
    def needs(self) -> tuple[str, ...]:
        """See `policies.Policy`."""
        return ("color",) if self._used >= self.execute else ()

    def bind(self, env: CameraEnv) -> Student:
        """See `policies.Policy`."""
        for name, width in self.cfg.state.items():
            column = env.columns.get(name)
            if column is None or column.role is not Role.STATE:
                role = "is missing" if column is None else f"is {column.role.value}"
                raise PolicyError(
                    f"the student needs {name}, which {role}: a student is fed by columns of the role state"
                )
            if math.prod(map(int, column.shape)) != width:
                raise PolicyError(f"the student needs {name} of {width} numbers, here it has {column.shape}")
        if (joints := env.columns["joint_pos_target"].shape) != (self.cfg.joints,):
            raise PolicyError(f"the student answers with {self.cfg.joints} joint targets, this robot has {joints}")
        if names := [camera.name for camera in self.cameras if camera not in env.cameras]:
            raise PolicyError(
                f"the student was trained with other cameras: here {', '.join(names)} is missing or elsewhere; "
                "give the flags of its dataset"
            )
        self._order = [env.cameras.index(camera) for camera in self.cameras]
        self._device, self._action_for_target = env.device, env.action_for_target
        self.net.to(self._device)
        return self

    def reset(self, env_ids: Tensor) -> None:
        """See `policies.Policy`; envs start together."""
        self._used = self.execute

    @torch.inference_mode()
    def act(self, sample: Sample | None, obs: Mapping[str, Tensor]) -> Tensor:
        """See `policies.Policy`."""
        if self._used >= self.execute:
            assert sample is not None
            self._chunk, self._used = self._answer(sample), 0
        target = self._chunk[:, self._used]
        self._used += 1
        return self._action_for_target(target)

    def _answer(self, sample: Sample) -> Tensor:
        state = felt(sample, self.cfg.state).to(self._device)
        if not self.cameras:
            return self.net(state.new_zeros(len(state), 0, 3, 1, 1), state)
        color = torch.as_tensor(sample["color"][:, self._order]).to(self._device)
        return self.net(resized(color, self.cfg.height, self.cfg.width), state)

    def describe(self) -> dict[str, Any]:
        """See `policies.Policy`."""
        return {**self.about, "execute": self.execute}


def felt(sample: Sample, names: Iterable[str]) -> Tensor:
    """Columns of a sample side by side, (N, P) float32."""
    return torch.cat([torch.as_tensor(sample[name]).reshape(len(sample[name]), -1) for name in names], dim=1).float()


def save_student(path: Path, net: StudentNet, about: Mapping[str, Any]) -> None:
    """Write a checkpoint; `about` (JSON types) says how it came about, with the list `seeds` of its datasets."""
    weights = {name: tensor.half().cpu() for name, tensor in net.state_dict().items()}
    torch.save({"kind": KIND, "cfg": asdict(net.cfg), "about": dict(about), "weights": weights}, path)


def load_torchscript(path: str | Path) -> Student:
    """A network of your own, saved by `torch.jit.save(net, path, {"student.json": json.dumps(asdict(cfg))})`.

    It maps pictures and states as `StudentNet` does, and `cfg` is a `StudentCfg`.

    Raises:
        PolicyError: there is none, or it does not say what it needs.
    """
    data, extra = read(path), {"student.json": ""}
    try:
        net = torch.jit.load(io.BytesIO(data), map_location="cpu", _extra_files=extra)
        cfg = json.loads(extra["student.json"])
        cfg = StudentCfg(**{**cfg, "cameras": tuple(cfg["cameras"])})
        return Student(net, cfg, {"layout": "torchscript", "sha256": hashlib.sha256(data).hexdigest()})
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise PolicyError(f"torchscript:{path} has no network and student.json: {reason}") from error


def load_student(path: str | Path) -> Student:
    """A student's checkpoint.

    Raises:
        PolicyError: there is none, or it is not a student's.
    """
    data = read(path)
    try:
        stored = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, UnpicklingError) as error:
        raise PolicyError(f"student:{path} is no checkpoint of torch: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(stored, dict) or stored.get("kind") != KIND:
        raise PolicyError(f"student:{path} is not a '{KIND}'; examples/train_student.py writes them")
    try:
        cfg = StudentCfg(**{**stored["cfg"], "cameras": tuple(stored["cfg"]["cameras"])})
        net = StudentNet(cfg)
        net.load_state_dict(stored["weights"])
        told = {name: value for name, value in stored["about"].items() if name != "losses"}
        return Student(net, cfg, {"layout": KIND, "sha256": hashlib.sha256(data).hexdigest(), **told})
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PolicyError(f"student:{path} is damaged: {' '.join(str(error).split())[:120]}") from error


def read(path: str | Path) -> bytes:
    """A policy's file.

    Raises:
        PolicyError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}") from error


def _camera(row: Mapping[str, Any]) -> CameraCfg:
    """A camera as metadata.json has it."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return CameraCfg(**{name: value for name, value in values.items() if name != "intrinsics"})
