"""Candidates no two of which are the same crystal, and none of which is a source; neutral ones where asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice, product

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import PairDataset
from deeprelax_ase.data.fingerprints import fingerprints
from deeprelax_ase.data.readers import RawPair
from deeprelax_ase.labelling.candidates import Candidate, CandidateSettings, candidate_tries

#: Tries that are compared at once at most, and tries without anything new after which nothing else is taken to be
#: there.
_AT_ONCE, _IN_VAIN = 100, 500


def distinct_candidates(
    sources: Sequence[Crystal],
    number: int,
    *,
    seed: int = 0,
    systems: Collection[frozenset[int]] | None = None,
    elements: Collection[int] | None = None,
    settings: CandidateSettings | None = None,
    neutral: bool = False,
) -> Iterator[Candidate]:
    """``number`` different candidates, or fewer where hundreds of tries give nothing new; a longer run begins the same.

    Two crystals are the same if :func:`~deeprelax_ase.data.fingerprints.fingerprints` are: composition, volume and near
    distances, to 0.02 Å. Those of the sources are none.

    Args:
        sources: crystals at rest, of at most 94 as the largest atomic number.
        number: of candidates that are wanted.
        seed: of all random numbers.
        systems: sets of atomic numbers that may be made; those of the sources by default. No other is ever made, so
            that what is held out stays so.
        elements: atomic numbers of which every system may be made, in place of ``systems``.
        settings: kinds and sizes.
        neutral: whether oxidation states must be able to add up to nothing, see
            :func:`~deeprelax_ase.labelling.is_neutral`.

    Raises:
        ValueError: no sources or no systems are given, an element is beyond 94, or a share is negative, of no kind that
            is known, or all of them are zero.
    """
    tries = candidate_tries(sources, seed=seed, systems=systems, elements=elements, settings=settings)
    together = min(number, _AT_ONCE)
    return islice(_new(tries, set(_marks(sources)), together, neutral=neutral), number)


def _new(tries: Iterator[Candidate | None], seen: set[tuple], together: int, *, neutral: bool) -> Iterator[Candidate]:
    """Yield the new ones, and add them to what was ``seen``; ``together`` are compared at once."""
    in_vain = 0
    while in_vain < _IN_VAIN:
        made = [one for one in islice(tries, together) if one is not None]
        wanted = [one for one in made if not neutral or is_neutral(one.crystal.numbers)]
        in_vain += together
        for candidate, mark in zip(wanted, _marks([one.crystal for one in wanted]), strict=True):
            if mark not in seen:
                seen.add(mark)
                in_vain = 0
                yield candidate


def _marks(crystals: Sequence[Crystal]) -> list[tuple]:
    """The fingerprint of each crystal, and in how many directions it repeats."""
    if not len(crystals):
        return []
    pairs = PairDataset.of(RawPair("", crystal, crystal, "train", in_order=True) for crystal in crystals).pairs
    repeats = (int(crystal.pbc.sum()) for crystal in crystals)
    return list(zip(fingerprints(pairs, "initial"), repeats, strict=True))


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
