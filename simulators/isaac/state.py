"""The complete state of an env of Isaac Lab's as one row of numbers, and how it is put back."""

from __future__ import annotations

from typing import Any

import torch

from simulators.isaac.actions import previous_targets

PLACES = ("root_pose", "segment_pose", "nodal_position")
"""Quantities whose last axis begins with a position in the world."""


def state_parts(env: Any) -> list[tuple[str, torch.Tensor]]:
    """Name and value (N, n) of each part of the state, in a fixed order; positions are the env's own."""
    scene = env.scene.get_state(is_relative=False)
    found = [
        (f"{kind}/{entity}/{quantity}", _moved(env, quantity, value, -1).reshape(env.num_envs, -1))
        for kind, entities in scene.items()
        for entity, quantities in entities.items()
        if isinstance(quantities, dict)  # a surface gripper's is a tensor, and not restored
        for quantity, value in quantities.items()
    ]
    own = [("last_action", env.action_manager.action), ("episode_length", env.episode_length_buf[:, None])]
    return [*found, *previous_targets(env.action_manager), *own]


def restore_state(env: Any, values: torch.Tensor) -> None:
    """Put back what `state_parts` gave, side by side in `values` (N, S)."""
    scene = env.scene.get_state(is_relative=False)
    start = 0
    for name, part in state_parts(env):
        value = values[:, start : start + part.shape[1]]
        start += part.shape[1]
        if "/" in name:
            kind, entity, quantity = name.split("/")
            present = scene[kind][entity][quantity]
            scene[kind][entity][quantity] = _moved(env, quantity, value.reshape(present.shape), 1).to(present.dtype)
        else:
            part.copy_(value)  # the manager's own buffer
    env.scene.reset_to(scene, None, is_relative=False)


def _moved(env: Any, quantity: str, value: torch.Tensor, sign: int) -> torch.Tensor:
    """Positions between world and env, in float64: Isaac Lab's own float32 would come back rounded, and show."""
    if quantity not in PLACES:
        return value
    moved = value.double()
    origins = env.scene.env_origins.double().reshape(-1, *[1] * (value.dim() - 2), 3)
    return torch.cat([moved[..., :3] + sign * origins, moved[..., 3:]], dim=-1)
