"""The result of every reader: pairs as they were found, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import length_hint
from typing import TYPE_CHECKING

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data.readers.layers import periodic_layers
from deeprelax_ase.errors import DeepRelaxError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


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
