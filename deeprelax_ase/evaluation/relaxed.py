"""A common interface of relaxations to compare: one signature, one record of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from deeprelax_ase.crystal import Crystal

#: Tells that another crystal is done.
Advance = Callable[[], object]


@dataclass(frozen=True)
class Relaxed:
    """Result of the relaxation of G crystals.

    Attributes:
        crystals: relaxed, in order; as they were where nothing could be made of them.
        calls: of the potential, for each crystal on average; None where there is no potential.
        converged: share that reached the limit of the forces; None likewise.
        failed: how many nothing could be made of.
    """

    crystals: list[Crystal]
    calls: float | None = None
    converged: float | None = None
    failed: int = 0


#: Relaxes crystals; a baseline.
Relax = Callable[[list[Crystal], Advance], Relaxed]


@dataclass(frozen=True)
class Limits:
    """Limits of an iterative relaxation. It ends at a largest force of ``fmax`` eV/Å, or after so many ``steps``."""

    fmax: float = 0.05
    steps: int = 500


def one_by_one(
    one: Callable[[Crystal], tuple[Crystal, int, bool]], crystals: Iterable[Crystal], advance: Advance
) -> Relaxed:
    """Apply ``one`` to each crystal: it returns the relaxed one, the calls that it took, and whether it converged.

    An exception costs that crystal, and no other.
    """
    made, calls, done, failed = [], 0, 0, 0
    for crystal in crystals:
        try:
            relaxed, taken, converged = one(crystal)
        except Exception:  # whatever calculators and libraries raise: it costs this crystal
            relaxed, taken, converged = crystal, 0, False
            failed += 1
        made.append(relaxed)
        calls += taken
        done += converged
        advance()
    return Relaxed(made, calls / max(len(made), 1), done / max(len(made), 1), failed)
