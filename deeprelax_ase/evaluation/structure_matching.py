"""Comparison of crystals by pymatgen: whether two are the same, section 4.10.5 of arXiv:2404.00865."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.parallel import map_in_processes

#: Pairs that a process is given together.
_TOGETHER = 16


class Match(NamedTuple):
    """Comparison of two crystals by pymatgen's StructureMatcher.

    Attributes:
        same: whether it holds them for the same, with its defaults (ltol=0.2, stol=0.3), as in section 4.10.5.
        rmsd: root mean square distance of the atoms over ``(V / N)^(1/3)``, without dimension, as Matbench Discovery
            reports it (github.com/janosh/matbench-discovery, metrics.geo_opt): from ``StructureMatcher(stol=1.0,
            scale=False)``, and 1 where that finds no mapping; nan where it was not asked for.
    """

    same: bool
    rmsd: float


def structure_match(predicted: Crystal, true: Crystal, *, rmsd: bool = True) -> Match:
    """Compare two crystals by pymatgen's StructureMatcher; ``rmsd`` takes two thirds of the time."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    structures = predicted.to_structure(), true.to_structure()
    same = bool(StructureMatcher().fit(*structures))
    if not rmsd:
        return Match(same, float("nan"))
    found = StructureMatcher(stol=1.0, scale=False).get_rms_dist(*structures)
    return Match(same, 1.0 if found is None else float(found[0]))


def structure_matches(
    predicted: Sequence[Crystal],
    true: Sequence[Crystal],
    *,
    rmsd: bool = True,
    jobs: int = 1,
    advance: Callable[[], object] = lambda: None,
) -> list[Match]:
    """:func:`structure_match` of each pair; ``advance`` is called after each.

    A pair that pymatgen fails at, or whose process is killed, counts as one without a mapping, with a warning.

    Args:
        predicted: (G) crystals.
        true: (G) crystals.
        rmsd: whether distances are asked for too.
        jobs: processes; with 1, this one.
        advance: tells the progress.

    Raises:
        ValueError: the numbers of crystals differ.
    """
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predicted crystals, but {len(true)} true ones")
    matches = []
    pairs, workers = zip(predicted, true, strict=True), 0 if jobs == 1 else jobs
    for match in map_in_processes(
        partial(_matcher, rmsd=rmsd), pairs, failed=_no_match, workers=workers, chunk=_TOGETHER
    ):
        matches.append(match)
        advance()
    return matches


def _matcher(device: str, *, rmsd: bool) -> Callable[[list[tuple[Crystal, Crystal]]], list[Match]]:
    return lambda pairs: [structure_match(predicted, true, rmsd=rmsd) for predicted, true in pairs]


def _no_match(number: int, reason: str) -> Match:
    warnings.warn(f"pair {number} could not be matched, and counts as different: {reason}", stacklevel=2)
    return Match(same=False, rmsd=1.0)
