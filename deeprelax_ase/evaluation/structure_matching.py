"""Whether pymatgen takes two crystals for the same, section 4.10.5 of arXiv:2404.00865."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data.parallel import map_in_processes


class Match(NamedTuple):
    """How pymatgen's StructureMatcher compares two crystals.

    Attributes:
        same: whether it holds them for the same, with its defaults (ltol=0.2, stol=0.3), as in section 4.10.5.
        rmsd: root mean square distance of the atoms over ``(V / N)^(1/3)``, without dimension, as Matbench Discovery
            reports it (github.com/janosh/matbench-discovery, metrics.geo_opt): from ``StructureMatcher(stol=1.0,
            scale=False)``, and 1 where that finds no mapping.
    """

    same: bool
    rmsd: float


def structure_match(predicted: Crystal, true: Crystal) -> Match:
    """Compare two crystals by pymatgen's StructureMatcher."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    structures = predicted.to_structure(), true.to_structure()
    found = StructureMatcher(stol=1.0, scale=False).get_rms_dist(*structures)
    return Match(bool(StructureMatcher().fit(*structures)), 1.0 if found is None else float(found[0]))


def structure_matches(
    predicted: Sequence[Crystal],
    true: Sequence[Crystal],
    *,
    jobs: int = 1,
    advance: Callable[[], object] = lambda: None,
) -> list[Match]:
    """:func:`structure_match` of each pair, in ``jobs`` processes; ``advance`` is called after each."""
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predicted crystals, but {len(true)} true ones")
    matches = []
    for match in map_in_processes(structure_match, predicted, true, workers=jobs, chunksize=16):
        matches.append(match)
        advance()
    return matches
