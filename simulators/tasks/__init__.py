"""What a task is to the embedded simulators, and how one is found by its name; no physics engine is imported here.

    task = load_task("Isaac-Open-Drawer-Franka-v0")          # or "my_package.my_module:MyTask"

A task adds things to the scene, and is made of plain functions of a `SceneState`. `open_drawer.py` is one to copy.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from simulators import TASKS
from simulators.things import Body, Surface, Vector
from vpl.columns import Column, SuccessRule


@dataclass(frozen=True)
class SceneState:
    """What observations, rewards and columns are made of; float32 tensors, positions in the env frame."""

    joint_pos: torch.Tensor
    """The robot's, (N, 9) rad, fingers m."""
    joint_vel: torch.Tensor
    """(N, 9) rad/s, fingers m/s."""
    joint_effort: torch.Tensor
    """What the drives apply, (N, 9) N m, fingers N."""
    tcp_pos: torch.Tensor
    """Tool centre point, (N, 3) m."""
    tcp_vel: torch.Tensor
    """(N, 3) m/s."""
    tcp_rot: torch.Tensor
    """(N, 3, 3), columns: the hand's axes."""
    left_finger_pos: torch.Tensor
    """Fingertip, (N, 3) m."""
    right_finger_pos: torch.Tensor
    """(N, 3) m."""
    task_joint_pos: torch.Tensor
    """Of `Task.joints`, (N, K) m or rad."""
    task_joint_vel: torch.Tensor
    """(N, K) m/s or rad/s."""
    site_pos: Mapping[str, torch.Tensor]
    """Of `Task.sites`, (N, 3) m each."""
    site_rot: Mapping[str, torch.Tensor]
    """Of `Task.sites`, (N, 3, 3) each, columns: the site's axes."""


class Task(ABC):
    """A task of the Franka arm; one object serves all envs."""

    name: str
    num_actions: int
    sign_actions: tuple[int, ...] = ()
    """Indices of the actions that are signs, not quantities."""
    max_episode_length: int
    """Control steps until the time-out."""
    step_dt: float
    """Seconds between two control steps."""
    language_instruction: str
    success_rule: SuccessRule | None = None
    """What `succeeded` goes by, where it is one number of one column."""
    obs_terms: Mapping[str, int]
    """Name and width of each part of the observation, in order."""
    columns: Mapping[str, Column] = {}
    """What the task records, beside what every task does."""
    joints: tuple[str, ...] = ()
    """Joints of `things` whose positions and velocities it reads."""
    sites: tuple[str, ...] = ()
    """Sites of `things` whose poses it reads."""
    movable: tuple[str, ...] = ()
    """Bodies of `things` that may stand elsewhere in each episode."""
    surfaces: tuple[Surface, ...] = ()
    """Of `things`, where other objects may stand without being in the way."""
    frictions: Mapping[str, str] = {}
    """Coefficients that are drawn for each env: name in `state_spec`, and the geom that has it."""
    isaac_joints: Mapping[str, tuple[str, str]] = {}
    """Columns that are joints' positions: the articulation and the joint in Isaac Lab's scene."""
    isaac_sites: Mapping[str, tuple[str, str, Vector]] = {}
    """Of `sites`: the articulation and the body in Isaac Lab's scene, and where the site is in the body."""
    reward_weights: Mapping[str, Mapping[str, float]]
    """Of the terms of `reward_terms`, by the name of the set of rewards; each is multiplied by `step_dt`."""

    early_weights: Mapping[str, Mapping[str, float]] = {}
    """By set, the weights that are others in training until most episodes succeed: what makes a motion gentle keeps a
    beginner from finding it."""
    is_learned = True
    """Whether a trained policy acts; the trainer says when not."""

    def __init__(self, name: str = "", rewards: str | None = None) -> None:
        """Be the task `name` with the set `rewards` of `reward_weights`, None: the first.

        Raises:
            ValueError: there is no such set.
        """
        self.name = name
        self.rewards = rewards or next(iter(self.reward_weights))
        if self.rewards not in self.reward_weights:
            raise ValueError(f"--rewards '{rewards}': task {name} has {', '.join(self.reward_weights)}")

    @property
    def measures_success(self) -> bool:
        """Whether `succeeded` has an answer."""
        return self.success_rule is not None or type(self).succeeded is not Task.succeeded

    @property
    def num_obs(self) -> int:
        """O, the length of an observation."""
        return sum(self.obs_terms.values())

    @abstractmethod
    def things(self) -> list[Body]:
        """What the task puts before the robot."""

    @abstractmethod
    def initial_joint_pos(self, uniform: torch.Tensor) -> torch.Tensor:
        """Start positions of the robot's and the task's joints, (n, 9 + K) from numbers in [-1, 1), (n, 9 + K)."""

    @abstractmethod
    def observations(self, state: SceneState, last_action: torch.Tensor) -> torch.Tensor:
        """What the policy sees, (N, O) float32, in the order of `obs_terms`."""

    @abstractmethod
    def reward_terms(
        self, state: SceneState, action: torch.Tensor, last_action: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The unweighted terms of the set `rewards`, (N,) each, of the state that `action` led to."""

    @abstractmethod
    def joint_pos_target(self, action: torch.Tensor) -> torch.Tensor:
        """What actions (N, A) ask of the drives, (N, 9) rad and m."""

    @abstractmethod
    def action_for_target(self, joint_pos_target: torch.Tensor) -> torch.Tensor:
        """The action (N, A) that asks for the targets (N, 9): the inverse of `joint_pos_target`."""

    def draw_friction(self, rng: np.random.Generator) -> tuple[float, ...]:
        """The coefficients of `frictions` for one env, drawn once, at start-up."""
        return ()

    def rows(self, state: SceneState) -> dict[str, torch.Tensor]:
        """The values of `columns`, (N, *shape) each."""
        return {}

    def terminated(self, state: SceneState) -> torch.Tensor:
        """Which envs' episodes the task itself ends, (N,) bool."""
        return torch.zeros(len(state.joint_pos), dtype=torch.bool, device=state.joint_pos.device)

    def succeeded(self, state: SceneState) -> torch.Tensor:
        """Which envs have succeeded at this instant, (N,) bool.

        Raises:
            NotImplementedError: the task has no `success_rule` and says nothing of its own.
        """
        if self.success_rule is None:
            raise NotImplementedError(f"task {self.name} has no measure of success")
        return self.success_rule.holds(self.rows(state)[self.success_rule.column])

    def reward(self, state: SceneState, action: torch.Tensor, last_action: torch.Tensor) -> torch.Tensor:
        """The weighted sum of the terms, (N,)."""
        terms = self.reward_terms(state, action, last_action)
        weights = dict(self.reward_weights[self.rewards])
        if not self.is_learned:
            weights |= self.early_weights.get(self.rewards, {})
        return self.step_dt * torch.stack([weights[name] * term for name, term in terms.items()]).sum(dim=0)


def load_task(name: str, rewards: str | None = None) -> Task:
    """The task that is registered as `name`, or that `module:Class` names, with a set of its rewards.

    Raises:
        ValueError: there is none.
    """
    place = TASKS.get(name, name)
    module, _, class_name = place.partition(":")
    if not class_name:
        raise ValueError(f"--task '{name}' is unknown; available: {', '.join(TASKS)}, or your own as module:Class")
    try:
        task_class = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--task '{name}': {error}; give module:Class of a task that Python can import") from error
    return task_class(name, rewards)
