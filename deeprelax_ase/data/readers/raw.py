"""The result of every reader: pairs as they were found, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
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
