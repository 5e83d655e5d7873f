"""The other way down: a relaxation from where the jump started, so that the lower of two minima is kept."""

from __future__ import annotations

from typing import Any

from ase.optimize.optimize import Optimizer

from deeprelax_ase.optimizers.acceptance import REJECTED, JumpDecision, Snapshot, energy_forces
from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.optimizers.finish import Finish

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

    def __init__(self, optimizer: str | type[Optimizer], dof: DegreesOfFreedom, start: Snapshot) -> None:
        self._freedom = dof
        self._other = Finish(optimizer, {}, dof, remember=lambda memory: None)
        self._landed, self._snapshot = energy_forces(dof), Snapshot(dof)
        self._other.prepare(None)
        start.restore()
        start.remember()

    def step(self, fmax: Any) -> None:
        """One step of the other way, of a relaxation to ``fmax`` in eV/Å."""
        self._other.step(fmax)

    def give_up(self) -> None:
        """Put the atoms back to the minimum that the jump has led to."""
        self._snapshot.restore()

    def decide(self, decision: JumpDecision, *, converged: bool) -> JumpDecision:
        """Leave the atoms at the lower minimum, that of the jump where there is no difference.

        Args:
            decision: on the jump, so far.
            converged: whether the other way has come to rest too.

        Returns:
            the verdict now.
        """
        gap = (energy_forces(self._freedom).energy - self._landed.energy) / len(self._freedom.atoms)
        if converged and gap < -SAME_MINIMUM:
            return JumpDecision(REJECTED, f"{self._other.name} from the start ends {-gap:.4f} eV/atom lower")
        self._snapshot.restore()
        self._snapshot.remember()
        found = f"ends at {gap:+.4f} eV/atom" if converged else "does not come to rest"
        return JumpDecision(decision.outcome, f"{decision.reason}; {self._other.name} from the start {found}")
