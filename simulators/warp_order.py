"""Gives MuJoCo Warp's contacts and rows of constraints one order, whichever the GPU's threads found them in.

keep_order(model, data)     # before the first step

MuJoCo Warp numbers them as its threads come, by a counter, so that sums over them are rounded otherwise in each run,
and after the first contact no two runs are equal. `DeterminismType.ALL` fixes the order of sums over what is numbered,
not the numbers: in MuJoCo Warp 3.17 `_sort_contacts` and `_sort_constraints` are empty. Here they are sorted in its
callbacks after the collisions and before the controls, which is before the solver.
"""

from __future__ import annotations

import mujoco_warp as mjw
import warp as wp

from simulators.warp_kernels import contact_keys, permute, rank_keys, renumber_rows, row_keys

_CONTACT = (
    "dist",
    "pos",
    "frame",
    "includemargin",
    "friction",
    "solref",
    "solreffriction",
    "solimp",
    "dim",
    "geom",
    "worldid",
    "type",
    "geomcollisionid",
    "adhesion",
)
"""What a contact of geoms has when the collisions are done; its rows of constraints come later."""
_ROW = ("type", "id", "pos", "margin", "D", "vel", "aref", "frictionloss", "Jqvel", "J")
"""What a row of constraints has when the solver begins."""


def keep_order(model: mjw.Model, data: mjw.Data) -> None:
    """Have contacts and rows of `data` sorted in each step: by env, geoms and number; by type and what is constrained.

    A model of more than 60 degrees of freedom, whose Jacobians MuJoCo Warp keeps sparse, is left as it is.
    """
    if model.is_sparse:
        return
    contact, efc = data.contact, data.efc
    in_contacts = _Permutation([getattr(contact, name).reshape((1, -1)) for name in _CONTACT], data.nacon)
    in_rows = _Permutation([getattr(efc, name) for name in _ROW], data.nefc)

    def sort_contacts(model: mjw.Model, data: mjw.Data) -> None:
        wp.launch(
            contact_keys,
            dim=data.naconmax,
            inputs=[contact.worldid, contact.geom, contact.geomcollisionid, model.ngeom],
            outputs=[in_contacts.keys[0]],
        )
        in_contacts.apply()

    def sort_rows(model: mjw.Model, data: mjw.Data) -> None:
        wp.launch(row_keys, dim=efc.type.shape, inputs=[efc.type, efc.id], outputs=[in_rows.keys])
        in_rows.apply()
        wp.launch(
            renumber_rows,
            dim=contact.efc_address.shape,
            inputs=[data.nacon, contact.worldid, in_rows.rank],
            outputs=[contact.efc_address],
        )

    model.callback.contactfilter = sort_contacts
    model.callback.control = sort_rows


class _Permutation:
    """Sorts groups of things by `keys`, which are to be set before; all memory is there from the start, for graphs."""

    def __init__(self, fields: list[wp.array], count: wp.array) -> None:
        """`fields` are (G, R, ...) and of things that a group has `count` (G,) int of."""
        size = fields[0].shape[:2]
        self.keys = wp.zeros(size, dtype=wp.int64)
        self.rank = wp.zeros(size, dtype=int)
        """Where each thing is now, by its place before."""
        self._order = wp.zeros(size, dtype=int)
        """Which thing is now at each place."""
        self._count = count
        self._fields = [_words(field) for field in fields]
        self._before = [wp.empty_like(field) for field in self._fields]

    def apply(self) -> None:
        wp.launch(rank_keys, dim=self.keys.shape, inputs=[self._count, self.keys], outputs=[self._order, self.rank])
        for field, before in zip(self._fields, self._before, strict=True):
            wp.copy(before, field)
            dim = (*self.keys.shape, field.shape[2])
            wp.launch(permute, dim=dim, inputs=[self._count, self._order, before], outputs=[field])


def _words(field: wp.array) -> wp.array:
    """The same memory as words of 32 bits, (G, R, words) int."""
    groups, rows = field.shape[:2]
    words = field.capacity // (4 * groups * rows)
    return wp.array(ptr=field.ptr, shape=(groups, rows, words), dtype=int, device=field.device)
