"""Crystals before and after, of the few results that are looked at one by one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.prediction.status import UNRELAXED
from deeprelax_ase.report.results import Results

#: Å³. Cells of less hold no crystal.
_NO_VOLUME = 1e-3


@dataclass(frozen=True, eq=False)
class Pair:
    """A crystal before and after.

    Attributes:
        place: among the inputs.
        name: its id.
        status, reason, model: those of its result.
        initial: the unrelaxed one; None where it is not known.
        relaxed: as it was stored, atoms in the periodic images nearest to the unrelaxed ones; None where it failed.
    """

    place: int
    name: str
    status: str
    reason: str | None
    model: str | None
    initial: Crystal | None
    relaxed: Crystal | None

    @property
    def displacements(self) -> np.ndarray:
        """(N, 3) Å, how far each atom moves beyond being carried along by the cell; (0, 3) where that is not known."""
        if self.initial is None or self.relaxed is None:
            return np.zeros((0, 3))
        return self.relaxed.positions - self.initial.fractional_positions @ self.relaxed.cell


def pairs_of(results: Results, wanted: Collection[int]) -> tuple[dict[int, Pair], str]:
    """The crystals at the places that are ``wanted``, and why their unrelaxed forms are not known, or nothing.

    Where the unrelaxed crystal holds other atoms than the stored one it is not its own, and is left out.
    """
    if not wanted:
        return {}, ""
    wanted, missing = set(wanted), ""
    before: dict[int, Crystal | None] = {}
    try:
        before = dict(results.unrelaxed(wanted))
    except DeepRelaxError as error:
        missing = str(error)
    pairs = {}
    for rows in results.rows(wanted, geometry=True):
        columns = (rows.index.tolist(), rows.ids, rows.statuses, rows.reasons, rows.models, rows.crystals)
        for place, *told, stored in zip(*columns, strict=True):
            name, status, reason, model = told
            ends = _ends(before.get(place), stored, failed=status in UNRELAXED)
            pairs[place] = Pair(place, name, status, reason, model, *ends)
    return pairs, missing


def _ends(initial: Crystal | None, stored: Crystal | None, *, failed: bool) -> tuple[Crystal | None, Crystal | None]:
    if failed:
        return initial or stored, None
    if initial is None or stored is None:
        return initial, stored
    if not np.array_equal(initial.numbers, stored.numbers) or min(initial.volume, stored.volume) < _NO_VOLUME:
        return None, stored
    return initial, _nearest(stored, initial)


def _nearest(crystal: Crystal, to: Crystal) -> Crystal:
    """The same crystal with each atom in its image nearest to where ``to`` has it; formats may have wrapped it."""
    fractional = crystal.fractional_positions
    shifts = np.round(fractional - to.fractional_positions) * crystal.pbc
    return crystal.with_geometry((fractional - shifts) @ crystal.cell, crystal.cell) if shifts.any() else crystal
