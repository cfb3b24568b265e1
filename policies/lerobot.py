"""A policy that LeRobot trained on an export of ours (`vpl_export.py lerobot`).

    policy = load_lerobot("outputs/train/act/checkpoints/last/pretrained_model").bind(env)

LeRobot 0.4.4 or 0.6.1 is needed. It is fed as the export is written: `observation.images.<camera>`, and as
`observation.state` all columns of the role `state` in their order. Its actions are joint targets.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from policies import PolicyError
from policies.visuomotor import felt
from simulators import CameraEnv, Sample
from vpl.columns import Role

PREFIX = "observation.images."


def load_lerobot(path: str | Path) -> LeRobotPolicy:
    """The policy in the folder that LeRobot calls pretrained_model.

    Raises:
        PolicyError: LeRobot is not installed, or there is no policy.
    """
    folder = Path(path)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise PolicyError(f"lerobot:{path} has no model.safetensors; give the folder pretrained_model of a checkpoint")
    try:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    except ImportError as error:
        raise PolicyError(f"lerobot:{path} needs LeRobot ({error}); pip install lerobot==0.4.4, or 0.6.1") from error
    cfg = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(cfg.type).from_pretrained(folder)
    about = {"layout": f"lerobot {cfg.type}", "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    return LeRobotPolicy(policy, cfg, make_pre_post_processors, folder, about)


class LeRobotPolicy:
    """See `policies.Policy`."""

    def __init__(self, policy: Any, cfg: Any, make_processors: Any, folder: Path, about: Mapping[str, Any]) -> None:
        self._policy, self._cfg, self._make_processors, self._folder = policy.eval(), cfg, make_processors, folder
        self._about = dict(about)
        self._cameras = [key.removeprefix(PREFIX) for key in cfg.input_features if key.startswith(PREFIX)]

    @property
    def needs(self) -> tuple[str, ...]:
        """See `policies.Policy`: it has a queue of actions of its own, and is asked with pictures in every step."""
        return ("color",)

    def bind(self, env: CameraEnv) -> LeRobotPolicy:
        """See `policies.Policy`."""
        names = [camera.name for camera in env.cameras]
        if missing := [name for name in self._cameras if name not in names]:
            raise PolicyError(f"the policy needs a camera {missing[0]}; the cameras are {', '.join(names)}")
        self._order = {name: names.index(name) for name in self._cameras}
        self._state = [name for name, column in env.columns.items() if column.role is Role.STATE]
        width = sum(math.prod(map(int, env.columns[name].shape)) for name in self._state)
        self._check_shapes(env, width)
        self._device, self._action_for_target = env.device, env.action_for_target
        self._cfg.device = str(env.device)
        self._policy.to(env.device)
        overrides = {"device_processor": {"device": str(env.device)}}
        self._before, self._after = self._make_processors(
            self._cfg, pretrained_path=str(self._folder), preprocessor_overrides=overrides
        )
        return self

    def _check_shapes(self, env: CameraEnv, width: int) -> None:
        """Refuse a policy that was trained on another state of `width` numbers, other pictures or other actions."""
        camera = env.cameras[0]
        has = {"observation.state": (width,), "action": env.columns["joint_pos_target"].shape}
        has |= {PREFIX + name: (3, camera.height, camera.width) for name in self._cameras}
        for name, feature in {**self._cfg.input_features, **self._cfg.output_features}.items():
            if name in has and tuple(feature.shape) != has[name]:
                raise PolicyError(f"the policy has {name} of {tuple(feature.shape)}, here it is {has[name]}")

    def reset(self, env_ids: Tensor) -> None:
        """See `policies.Policy`; envs start together."""
        self._policy.reset()

    @torch.inference_mode()
    def act(self, sample: Sample | None, obs: Mapping[str, Tensor]) -> Tensor:
        """See `policies.Policy`."""
        assert sample is not None
        batch = {"observation.state": felt(sample, self._state).to(self._device)}
        for name, camera in self._order.items():
            pictures = torch.as_tensor(sample["color"][:, camera]).to(self._device)
            batch[PREFIX + name] = pictures.permute(0, 3, 1, 2).float() / 255
        target = self._after(self._policy.select_action(self._before(batch)))
        return self._action_for_target(target.to(self._device))

    def describe(self) -> dict[str, Any]:
        """See `policies.Policy`."""
        return self._about
