"""Charge neutrality of a composition, by the oxidation states that its elements are known in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import product


def is_neutral(numbers: Iterable[int]) -> bool:
    """Whether atoms with these atomic ``numbers`` can have oxidation states that add up to nothing.

    States are those of pymatgen's tables: the ones that crystals of the ICSD have or, for elements without any there,
    the common ones. Atoms of one element may differ, as those of Fe3O4 do. It is what pymatgen's
    ``Composition.oxi_state_guesses`` is asked for; that lists every assignment, which takes seconds for 40 atoms.

    An element alone is neutral, and an alloy of metals is not, since its elements have positive states only.
    """
    counts = Counter(int(z) for z in numbers)
    if len(counts) == 1:
        return True
    sums = {0}
    for number, count in counts.items():
        sums = {a + b for a, b in product(sums, _sums(number, count))}
    return 0 in sums


@cache
def _sums(number: int, count: int) -> frozenset[int]:
    """All sums of the states of ``count`` atoms of an element."""
    if count == 0:
        return frozenset([0])
    return frozenset(a + b for a, b in product(_sums(number, count - 1), _states(number)))


@cache
def _states(number: int) -> tuple[int, ...]:
    from pymatgen.core import Element

    element = Element.from_Z(number)
    return element.icsd_oxidation_states or element.common_oxidation_states
