"""What the pixels of `segmentation` are: the parts of MuJoCo's model by name.

names, label_of_geom = segment(model)         # names[label_of_geom[7]] is what geom 7 is
"""

from __future__ import annotations

import mujoco
import numpy as np

NOTHING = "nothing"
_OF_ROOM = {"floor": "floor", "joint": "floor", "wall": "wall"}
"""By material, what the world's own geoms are."""


def segment(model: mujoco.MjModel) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the parts by id, of which 0 is nothing, and each geom's id, (ngeom,) uint8.

    A geom that has a name is a part of its own; the others are parts of their body.
    """
    parts = [_part(model, geom) for geom in range(model.ngeom)]
    names = tuple(dict.fromkeys([NOTHING, *parts]))
    return names, np.array([names.index(part) for part in parts], np.uint8)


def _part(model: mujoco.MjModel, geom: int) -> str:
    if name := model.geom(geom).name:
        return name
    if body := int(model.geom_bodyid[geom]):
        return model.body(body).name
    return _OF_ROOM[model.material(int(model.geom_matid[geom])).name]
