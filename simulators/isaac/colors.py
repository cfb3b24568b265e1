"""What surfaces look like to Newton's ray caster: a colour for each shape of each env, and no patterns.

    colors = Colors(env)
    colors.put([drawn["looks"] for drawn in episode_info])

The floor is one for all envs and keeps its colour.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import warp as wp

_PLACE = re.compile(r"/World/envs/env_(\d+)/.*/Looks/(\w+)$")


class Colors:
    """The shapes of each env by their material."""

    def __init__(self, env: Any) -> None:
        from isaaclab_newton.physics import NewtonBackendCfg

        backend = env.sim.get_or_create_backend(NewtonBackendCfg(physics_cfg=env.sim.cfg.physics, device=env.device))
        self._colors = wp.to_torch(backend.model.shape_color)
        """Of all shapes, (shapes, 3) RGB from 0 to 1 as it is seen; the renderer's own."""
        self._authored = self._colors.clone()
        found = [_PLACE.match(path) for path in backend.model.isaaclab.visual_material_path]
        self._shapes: list[dict[str, list[int]]] = [{} for _ in range(env.num_envs)]
        for shape, place in enumerate(found):
            if place:
                self._shapes[int(place[1])].setdefault(place[2], []).append(shape)

    def put(self, looks: Sequence[Mapping[str, Any]]) -> None:
        """Paint each env as `looks.draw_looks` has drawn it; what it does not name is as it was authored."""
        colors = self._authored.clone()
        for shapes, drawn in zip(self._shapes, looks, strict=True):
            for material, look in drawn.items():
                colors[shapes.get(material, [])] = torch.tensor(look["rgb"]).to(colors)
        self._colors.copy_(colors)
