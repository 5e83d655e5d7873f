"""The result of every reader: pairs as they were found, layers made periodic, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import length_hint
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


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


class DataError(DeepRelaxError, ValueError):
    """Relaxation pairs cannot be read at all; the message says what is missing and how to give it."""


@dataclass(frozen=True)
class Refused:
    """A pair that is left out.

    Attributes:
        name: in its source.
        reason: the cause, and the way to mend it.
    """

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class RawPair:
    """A pair as it was found.

    Attributes:
        name: in its source.
        initial, relaxed: the two crystals, in whatever order and setting.
        split: ``train``, ``validation``, ``test``, or None where the source does not say.
        in_order: they are frames of one relaxation: the same atoms in the same order and lattice vectors.
    """

    name: str
    initial: Crystal
    relaxed: Crystal
    split: str | None = None
    in_order: bool = False


@dataclass(frozen=True)
class Counted:
    """Pairs, and how many there are, as ``operator.length_hint`` tells; nothing is told of ``None``."""

    items: Iterable[RawPair | Refused]
    total: int | None

    @classmethod
    def chained(cls, parts: Iterable[Iterable[RawPair | Refused]]) -> Counted:
        """All ``parts``, one after the other; their number is known if that of each is."""
        parts = list(parts)
        totals = [length_hint(part, -1) for part in parts]
        return cls((item for part in parts for item in part), None if min(totals, default=0) < 0 else sum(totals))

    def __iter__(self) -> Iterator[RawPair | Refused]:
        return iter(self.items)

    def __length_hint__(self) -> int:
        return NotImplemented if self.total is None else self.total


def raw_pair(
    name: str,
    initial: Atoms | Structure | Exception,
    relaxed: Atoms | Structure | Exception,
    split: str | None = None,
    *,
    in_order: bool = False,
) -> RawPair | Refused:
    """Both crystals validated; :class:`Refused` if one of them is none, or an error in its place.

    Layers are put into a periodic cell.
    """
    for side, found in (("unrelaxed", initial), ("relaxed", relaxed)):
        if isinstance(found, Exception):
            return Refused(name, f"the {side} crystal: {found}")
    crystals: list[Crystal] = []
    try:
        for structure in periodic_layers(initial, relaxed):
            crystals.append(Crystal.of(structure))
    except Exception as error:  # whatever is in a structure
        return Refused(name, f"the {'relaxed' if crystals else 'unrelaxed'} crystal: {error}")
    return RawPair(name, crystals[0], crystals[1], split, in_order)
