"""The words that say what became of a crystal and of a jump, and the keys of ``atoms.info`` that carry them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

#: Statuses of a crystal without a calculator. The prediction is trusted; the crystal stays where it was, as the model
#: would not bring it nearer to its minimum; the prediction is not trusted; the crystal was read, but no prediction is
#: handed out; it could not be read, or something broke.
ACCEPTED, UNCHANGED, UNCERTAIN, REFUSED, FAILED = "accepted", "unchanged", "uncertain", "refused", "failed"

#: The same under a calculator: the finish converged, or did not; there was none, and the jump was not kept.
CONVERGED, NOT_CONVERGED, JUMP_REJECTED = "converged", "not converged", "jump rejected"

#: All of them, the better ones first.
STATUSES = (ACCEPTED, UNCHANGED, CONVERGED, UNCERTAIN, NOT_CONVERGED, JUMP_REJECTED, REFUSED, FAILED)

#: Statuses of crystals that are relaxed, as far as can be known; of crystals that a calculator computed last; and of
#: crystals that are as they were given.
TRUSTED = (ACCEPTED, UNCHANGED, CONVERGED)
FINISHED = (CONVERGED, NOT_CONVERGED, JUMP_REJECTED)
UNRELAXED = (REFUSED, FAILED)

#: Status of structures in a file that does not tell one.
UNKNOWN = "unknown"

#: Outcomes of a jump.
KEPT, REJECTED, SKIPPED = "kept", "rejected", "skipped"

_PREFIX = "deeprelax_"

#: Keys of ``atoms.info`` that tell how far a prediction may be off; they leave with the first step away from it.
ERROR_KEYS = (
    "deeprelax_error",
    "deeprelax_volume_error",
    "deeprelax_ood",
    "deeprelax_novelty",
    "deeprelax_odds_worse",
    "deeprelax_odds_judged",
)

#: Keys of ``atoms.info`` that this package writes: "deeprelax_" and the name of a result's field.
INFO_KEYS = (
    *("deeprelax_model", "deeprelax_calculator", "deeprelax_potential", "deeprelax_uncertainty"),
    *("deeprelax_status", "deeprelax_reason", *ERROR_KEYS, "deeprelax_energy_relaxed"),
    *("deeprelax_energy_relaxed_bound", "deeprelax_energy_relaxed_potential"),
    *("deeprelax_jump", "deeprelax_jump_reason"),
)


@dataclass(frozen=True)
class JumpDecision:
    """Outcome of a jump, and the reason for it.

    Attributes:
        outcome: ``"kept"``, ``"rejected"`` or ``"skipped"`` (it was not made).
        reason: a sentence.
    """

    outcome: str
    reason: str

    @property
    def kept(self) -> bool:
        """Whether the atoms are where the jump put them."""
        return self.outcome == KEPT


def info_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``atoms.info`` for a result with these ``values`` of its fields; None is left out."""
    named = {_PREFIX + name: value for name, value in values.items() if value is not None}
    return {key: value for key, value in named.items() if key in INFO_KEYS}


def values_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`info_of`."""
    return {key.removeprefix(_PREFIX): info[key] for key in INFO_KEYS if info.get(key) is not None}


def forget(atoms: Atoms, keys: Iterable[str] = INFO_KEYS) -> None:
    """Remove ``keys`` from ``atoms.info``, where they are there."""
    for key in keys:
        atoms.info.pop(key, None)
