"""The other way down: a relaxation from where the jump started, so that the lower of two minima is kept."""

from __future__ import annotations

from typing import Any

from ase.optimize.optimize import Optimizer

from deeprelax_ase.optimizers.finish import Finish
from deeprelax_ase.optimizers.freedom import Freedom
from deeprelax_ase.optimizers.trial import TAKEN_BACK, Place, Verdict, look_at

#: eV/atom. Minima whose energies are nearer than this are taken for the same.
SAME_MINIMUM = 1e-3


class Comparison:
    """Relaxes a crystal once more, from its start, after the jump and its finish have come to rest.

    A relaxation that goes by small steps and one that begins with a jump may end in different minima, and no sign that
    costs less than going both ways tells beforehand which is lower.

    Args:
        optimizer: class, or name, of the optimizer that goes the other way.
        freedom: what it may move.
        start: where from.
    """

    def __init__(self, optimizer: str | type[Optimizer], freedom: Freedom, start: Place) -> None:
        self._freedom = freedom
        self._other = Finish(optimizer, {}, freedom, remember=lambda memory: None)
        self._landed, self._place = look_at(freedom), Place(freedom)
        self._other.prepare(None)
        start.restore()
        start.remember()

    def step(self, fmax: Any) -> None:
        """One step of the other way, of a relaxation to ``fmax`` in eV/Å."""
        self._other.step(fmax)

    def give_up(self) -> None:
        """Put the atoms back to the minimum that the jump has led to."""
        self._place.restore()

    def decide(self, verdict: Verdict, *, converged: bool) -> Verdict:
        """Leave the atoms at the lower minimum, that of the jump where there is no difference.

        Args:
            verdict: on the jump, so far.
            converged: whether the other way has come to rest too.

        Returns:
            the verdict now.
        """
        gap = (look_at(self._freedom).energy - self._landed.energy) / len(self._freedom.atoms)
        if converged and gap < -SAME_MINIMUM:
            return Verdict(TAKEN_BACK, f"{self._other.name} from the start ends {-gap:.4f} eV/atom lower")
        self._place.restore()
        self._place.remember()
        found = f"ends at {gap:+.4f} eV/atom" if converged else "does not come to rest"
        return Verdict(verdict.outcome, f"{verdict.reason}; {self._other.name} from the start {found}")
