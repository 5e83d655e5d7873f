"""What every reader gives: pairs as they were found, or why there is none."""

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
        name: what it is called in its source.
        reason: why, and how to mend it.
    """

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class RawPair:
    """A pair as it was found.

    Attributes:
        name: what it is called in its source.
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
    initial: Atoms | Structure,
    relaxed: Atoms | Structure,
    split: str | None = None,
    *,
    in_order: bool = False,
) -> RawPair | Refused:
    """Both crystals validated; :class:`Refused` if one of them is none. Layers are put into a periodic cell."""
    initial, relaxed = periodic_layers(initial, relaxed)
    crystals = []
    for side, structure in (("unrelaxed", initial), ("relaxed", relaxed)):
        try:
            crystals.append(Crystal.of(structure))
        except (DeepRelaxError, ValueError, TypeError) as error:
            return Refused(name, f"the {side} crystal: {error}")
    return RawPair(name, crystals[0], crystals[1], split, in_order)
