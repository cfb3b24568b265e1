"""What Isaac Lab's action terms ask of the joint drives, and which action asks for given joint targets.

    target = joint_pos_target(env.action_manager, robot_target, actions)      # nothing is done
    actions = action_for_target(env.action_manager, target)                   # its inverse

Read from the terms' own numbers, so a task may scale and order its joints as it likes.
"""

from __future__ import annotations

from typing import Any

import torch

from simulators import SimulatorError


def joint_pos_target(manager: Any, present: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """The targets (N, J) rad and m that actions (N, A) make of the `present` ones (N, J).

    Raises:
        SimulatorError: the task has actions of another kind.
    """
    target, start = present.clone(), 0
    for term in _terms(manager):
        part = actions[:, start : start + term.action_dim]
        start += term.action_dim
        target[:, _joints(term)] = _KINDS[type(term).__name__][0](term, part)
    return target


def action_for_target(manager: Any, target: torch.Tensor) -> torch.Tensor:
    """The action (N, A) whose joint targets are `target` (N, J), as far as its limits allow.

    Raises:
        SimulatorError: the task has actions of another kind.
    """
    parts = [_KINDS[type(term).__name__][1](term, target[:, _joints(term)]) for term in _terms(manager)]
    return torch.cat(parts, dim=1)


def previous_targets(manager: Any) -> list[tuple[str, torch.Tensor]]:
    """Name and value (N, n) of what terms remember of the step before, which a state must hold: the manager's own."""
    found = ((name, manager.get_term(name)) for name in manager.active_terms)
    return [(f"{name}_before", term._prev_applied_actions) for name, term in found if _averages(term)]


def _terms(manager: Any) -> list[Any]:
    terms = [manager.get_term(name) for name in manager.active_terms]
    for term in terms:
        if type(term).__name__ not in _KINDS:
            raise SimulatorError(f"joint targets and the task's {type(term).__name__} cannot be turned into each other")
    return terms


def _joints(term: Any) -> list[int]:
    """Of the articulation, in the term's order; its own indices are of another type in each release and class."""
    return [term._asset.joint_names.index(name) for name in term._joint_names]


def _averages(term: Any) -> bool:
    return hasattr(term, "_prev_applied_actions")


def _offset_target(term: Any, action: torch.Tensor) -> torch.Tensor:
    return action * term._scale + term._offset


def _offset_action(term: Any, target: torch.Tensor) -> torch.Tensor:
    return (target - term._offset) / term._scale


def _binary_target(term: Any, action: torch.Tensor) -> torch.Tensor:
    return torch.where(action < 0, term._close_command, term._open_command)


def _binary_action(term: Any, target: torch.Tensor) -> torch.Tensor:
    middle = (term._open_command + term._close_command) / 2
    return torch.where(target.mean(dim=1, keepdim=True) >= middle.mean(), 1.0, -1.0)


def _averaged_target(term: Any, action: torch.Tensor) -> torch.Tensor:
    """A moving average of targets that [-1, 1] spreads over the joints' range."""
    low, high = _limits(term)
    asked = (action * term._scale).clamp(-1, 1) * (high - low) / 2 + (high + low) / 2
    return (term._alpha * asked + (1 - term._alpha) * term._prev_applied_actions).clamp(low, high)


def _averaged_action(term: Any, target: torch.Tensor) -> torch.Tensor:
    """A target farther away than one step can bring it is asked for with all there is."""
    low, high = _limits(term)
    asked = (target - (1 - term._alpha) * term._prev_applied_actions) / term._alpha
    return ((2 * asked - high - low) / (high - low)).clamp(-1, 1) / term._scale


def _limits(term: Any) -> tuple[torch.Tensor, torch.Tensor]:
    limits = term._asset.data.soft_joint_pos_limits.torch[:, _joints(term)]  # only release 3 comes here
    return limits[..., 0], limits[..., 1]


_KINDS = {
    "JointPositionAction": (_offset_target, _offset_action),
    "BinaryJointPositionAction": (_binary_target, _binary_action),
    "EMAJointPositionToLimitsAction": (_averaged_target, _averaged_action),
}
"""By Isaac Lab's class: the target of an action, and the action for a target."""
