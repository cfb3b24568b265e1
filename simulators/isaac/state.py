"""The complete state of an env of Isaac Lab's as one row of numbers, and how it is put back."""

from __future__ import annotations

from typing import Any

import torch

from simulators.isaac.actions import previous_targets


def parts(env: Any) -> list[tuple[str, torch.Tensor]]:
    """Name and value (N, n) of each part of the state, in a fixed order."""
    scene = env.scene.get_state(is_relative=True)
    found = [
        (f"{kind}/{entity}/{quantity}", value.reshape(env.num_envs, -1))
        for kind, entities in scene.items()
        for entity, quantities in entities.items()
        if isinstance(quantities, dict)  # a surface gripper's is a tensor, and not restored
        for quantity, value in quantities.items()
    ]
    own = [("last_action", env.action_manager.action), ("episode_length", env.episode_length_buf[:, None])]
    return [*found, *previous_targets(env.action_manager), *own]


def restore(env: Any, values: torch.Tensor) -> None:
    """Put back what `parts` gave, side by side in `values` (N, S)."""
    scene = env.scene.get_state(is_relative=True)
    start = 0
    for name, part in parts(env):
        value = values[:, start : start + part.shape[1]].to(part.dtype)
        start += part.shape[1]
        if "/" in name:
            kind, entity, quantity = name.split("/")
            scene[kind][entity][quantity] = value.reshape(scene[kind][entity][quantity].shape)
        else:
            part.copy_(value)  # the manager's own buffer
    env.scene.reset_to(scene, None, is_relative=True)
