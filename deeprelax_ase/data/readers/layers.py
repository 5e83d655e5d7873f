"""Layers that repeat in two directions, as periodic crystals with a vacuum that is the same on both sides of a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

T = TypeVar("T")


def periodic_layers(initial: T, relaxed: T) -> tuple[T, T]:
    """Copies of two ASE ``Atoms`` that repeat in the same two directions, periodic in all three.

    The width of the vacuum means nothing for a layer. So the relaxed layer gets that of the unrelaxed one: a vector
    across the layer that is as high, and carried along with the plane. Anything else is returned as it is, as are
    layers without a cell vector across them.
    """
    flags = [np.asarray(getattr(side, "pbc", ())) for side in (initial, relaxed)]
    if not all(hasattr(side, "cell") and flag.sum() == 2 for side, flag in zip((initial, relaxed), flags, strict=True)):
        return initial, relaxed
    (across,) = np.flatnonzero(~flags[0])
    cells = [_atoms(side).cell.array for side in (initial, relaxed)]
    if not np.array_equal(flags[0], flags[1]) or abs(np.linalg.det(cells[0])) < 1e-9:
        return initial, relaxed
    first, last = (_atoms(side).copy() for side in (initial, relaxed))
    first.pbc = last.pbc = True
    last.cell[across] = _carried(cells[0], cells[1], int(across))
    return first, last


def _atoms(side: object) -> Atoms:
    return side  # type: ignore[return-value]


def _carried(cell: np.ndarray, other: np.ndarray, across: int) -> np.ndarray:
    """(3,) Å, the vector across the layer in ``cell`` (3, 3), carried to the plane that ``other`` (3, 3) has."""
    plane = [k for k in range(3) if k != across]
    normals = [np.cross(*c[plane]) / np.linalg.norm(np.cross(*c[plane])) for c in (cell, other)]
    height = cell[across] @ normals[0]
    shares, *_ = np.linalg.lstsq(cell[plane].T, cell[across] - height * normals[0], rcond=None)
    return shares @ other[plane] + height * normals[1]
