"""ASE's optimizers on many crystals at once: all forces of a round are computed in one call of the potential."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.evaluation.relaxation import Advance, Limits, Relax, Relaxed

if TYPE_CHECKING:
    from ase import Atoms


#: Of each crystal what ASE calls ``energy`` (eV), ``forces`` (N, 3) eV/Å and ``stress`` (6,) eV/Å³.
Compute = Callable[[Sequence["Atoms"]], Sequence[dict[str, Any]]]


def m3gnet_compute() -> Compute:
    """M3GNet of many crystals in one call of the network, on the CPU.

    What it gives raises :class:`CalculatorError` where a crystal has an unknown element, or atoms in one place.

    Raises:
        CalculatorError: the weights are not to be had.
    """
    from ase.stress import full_3x3_to_voigt_6_stress

    from deeprelax_ase.calculators.m3gnet_batch import m3gnet_network, m3gnet_of

    m3gnet_network()

    def compute(given: Sequence[Atoms]) -> list[dict[str, Any]]:
        found = m3gnet_of(given)
        if not all(np.isfinite(one.forces).all() for one in found):
            raise CalculatorError("M3GNet does not know an element, or atoms lie in one place. Leave the crystal out.")
        return [
            {"energy": one.energy, "forces": one.forces, "stress": full_3x3_to_voigt_6_stress(one.stress)}
            for one in found
        ]

    return compute


def ase_optimizer_in_batches(name: str, compute: Compute, limits: Limits, *, atoms_per_batch: int = 100) -> Relax:
    """Relaxes positions and cells with an optimizer of ASE that asks for forces once a step, as FIRE does.

    Every crystal has an optimizer of its own and takes the steps that it would take alone; crystals that are done make
    room for others.

    Args:
        name: of the optimizer in ``ase.optimize``.
        compute: the potential.
        limits: when it ends.
        atoms_per_batch: so many atoms at once; one crystal always fits. On a CPU, larger batches leave the caches.
    """

    def relax(crystals: list[Crystal], advance: Advance) -> Relaxed:
        runs: list[_Run] = []
        active: list[_Run] = []
        waiting = deque(crystals)
        while waiting or active:
            while waiting and (not active or sum(map(len, active)) + len(waiting[0]) <= atoms_per_batch):
                active.append(_Run.of(waiting.popleft(), name))
                runs.append(active[-1])
            _step(active, compute, limits)
            for _ in filter(_Run.is_over, active):
                advance()
            active = [run for run in active if not run.is_over()]
        size = max(len(runs), 1)
        return Relaxed(
            [run.start if run.relaxed is None else run.relaxed for run in runs],
            sum(run.calls for run in runs) / size,
            sum(run.converged for run in runs) / size,
            sum(run.failed for run in runs),
        )

    return relax


@dataclass(eq=False)
class _Run:
    """The relaxation of one crystal."""

    start: Crystal
    atoms: Atoms
    filtered: Any
    optimizer: Any
    calls: int = 0
    converged: bool = False
    failed: bool = False
    relaxed: Crystal | None = None

    @classmethod
    def of(cls, crystal: Crystal, name: str) -> _Run:
        import ase.optimize
        from ase.filters import FrechetCellFilter

        atoms = crystal.to_atoms()
        filtered = FrechetCellFilter(atoms)
        return cls(crystal, atoms, filtered, getattr(ase.optimize, name)(filtered, logfile=None))

    def __len__(self) -> int:
        return len(self.start)

    def is_over(self) -> bool:
        return self.failed or self.relaxed is not None

    def take(self, results: dict[str, Any], limits: Limits) -> None:
        """Go on with these results for where the atoms are: a step, or the end."""
        from ase.calculators.singlepoint import SinglePointCalculator

        self.calls += 1
        self.atoms.calc = SinglePointCalculator(self.atoms, **results)
        converged = bool(np.linalg.norm(self.filtered.get_forces(), axis=1).max() < limits.fmax)
        if converged or self.calls > limits.steps:
            self.relaxed, self.converged = Crystal.of(self.atoms), converged
        else:
            self.optimizer.step()


def _step(active: list[_Run], compute: Compute, limits: Limits) -> None:
    """Make one step of each crystal. An error ends the relaxation of its crystal and of no other."""
    for run, results in zip(active, _computed(active, compute), strict=True):
        try:
            if isinstance(results, Exception):
                raise results
            run.take(results, limits)
        except Exception:  # whatever potentials, optimizers and filters raise
            run.failed = True


def _computed(active: list[_Run], compute: Compute) -> Sequence[dict[str, Any] | Exception]:
    """Compute all at once; where that fails, one by one, to find the crystal at fault."""
    try:
        return compute([run.atoms for run in active])
    except Exception as error:  # whatever potentials raise
        if len(active) == 1:
            return [error]
        return [result for run in active for result in _computed([run], compute)]
