"""A crystal on its way through batches: its atoms, what may move of them, and what is known of it so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from deeprelax_ase.calculators.batched_ase import PotentialCalculator
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import is_of_disk, note_force_calls
from deeprelax_ase.io.constraints import are_kept_in_batches
from deeprelax_ase.optimizers.acceptance import EnergyForces
from deeprelax_ase.optimizers.batched.start import BatchedStart, KnownResults
from deeprelax_ase.optimizers.batched.state import BatchedState
from deeprelax_ase.optimizers.batched.symmetry import held_symmetry
from deeprelax_ase.optimizers.checked_atoms import CheckedAtoms, look_together
from deeprelax_ase.optimizers.degrees_of_freedom import (
    DegreesOfFreedom,
    degrees_of_freedom,
    refuse_missing_stress,
    refuse_tilted_layers,
)
from deeprelax_ase.optimizers.jump import crystal_of, without_foreign_energy
from deeprelax_ase.optimizers.model_hessian import free_directions
from deeprelax_ase.optimizers.one_crystal import finish_atoms, given_crystal
from deeprelax_ase.optimizers.symmetry import hold_symmetry
from deeprelax_ase.prediction.judgement import judge
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import JumpDecision, forget

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.calculators.batched import BatchedPotential
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction

#: What became of a crystal: its result and the relaxed atoms, or why there is none.
Finished = tuple[RelaxationResult, "Atoms"] | Exception


class _KnownResults(SinglePointCalculator):
    """Results of one geometry, which are compared bit by bit: ASE's comparison takes a millisecond for each crystal."""

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Name what differs from the geometry that the results are of."""
        known: Any = self.atoms
        pairs = {name: (getattr(atoms, name), getattr(known, name)) for name in ("numbers", "positions", "pbc")}
        pairs["cell"] = atoms.cell.array, known.cell.array
        return [name for name, (one, other) in pairs.items() if not np.array_equal(one, other)]


@dataclass(eq=False)
class Case:
    """One crystal on its way.

    Attributes:
        atoms: as they were given; they are not changed.
        prediction: of them, once there is one.
        relaxed: a copy, which moves.
        dof: of that.
        crystal: repeating in all directions, as a potential takes it.
        origin: (3, 3) Å, the cell in which ``crystal`` starts, and which deformations are measured from.
        known: energy, forces and stress where ``relaxed`` is; None where the potential fails.
        seen: the same as the optimizer sees it.
        decision: about the jump.
        calls: of the potential; none where it does not know an element.
        steps: taken, the jump included.
        converged: whether it is, where it is.
        error: why it is not gone on with.
        made: what became of it, where it went another way.
        start_error: why the potential fails where the crystal starts; empty where it does not, or the jump led away.
        keep_symmetry: whether the space group is held, see :func:`~deeprelax_ase.optimizers.finish_atoms`.
    """

    atoms: Atoms
    prediction: Prediction | None
    relaxed: Any = None
    dof: Any = None
    crystal: Any = None
    origin: Any = None
    known: KnownResults | None = None
    seen: EnergyForces = field(default_factory=lambda: EnergyForces(np.nan, np.nan))
    decision: JumpDecision | None = None
    calls: int = 0
    steps: int = 0
    converged: bool = False
    error: Exception | None = None
    made: Finished | None = None
    start_error: str = ""
    keep_symmetry: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether anything is left to be done here."""
        return self.error is None and self.made is None

    def prepare(
        self, predictor: Predictor, calculator: PotentialCalculator, relax_cell: Any, checked: CheckedAtoms
    ) -> None:
        """See what ``checked``, a copy of the atoms, may do; an :attr:`error` where it cannot relax like a crystal."""
        try:
            self.relaxed = checked.atoms
            if self.keep_symmetry:
                hold_symmetry(self.relaxed, relax_cell)
            self.relaxed.calc = calculator
            self.dof = degrees_of_freedom(self.relaxed, relax_cell=relax_cell, checked=checked)
            refuse_tilted_layers(self.dof)
            self.crystal = crystal_of(self.dof, lambda: predictor)
            refuse_missing_stress(self.dof)
            self.origin = self.cell_here()
            if self.relaxed.constraints:  # one of an atom that is not there shows here
                self.relaxed.copy().set_positions(self.relaxed.positions)
            if self.prediction is not None:
                self.prediction = without_foreign_energy(self.dof, self.prediction)
        except Exception as error:  # whatever is in such atoms
            self.error = error

    def goes_in_batches(self) -> bool:
        """Whether it can be relaxed beside others."""
        dof: DegreesOfFreedom = self.dof
        masked = dof.cell is not None and not dof.cell.matrix.all()
        if masked and not self.keep_symmetry and held_symmetry(self.relaxed, self.relaxed.cell.array) is not None:
            return False  # none has looked whether the mask would break it
        return are_kept_in_batches(self.relaxed.constraints) and dof.plane is None

    def finish_alone(self, predictor: Predictor, potential: BatchedPotential, options: dict[str, Any]) -> None:
        """Relax it by itself, into :attr:`made`."""
        try:
            calculator = PotentialCalculator(potential)
            self.made = finish_atoms(self.atoms, predictor, calculator, prediction=self.prediction, **options)
        except Exception as error:  # whatever potentials raise
            if is_of_disk(error):
                raise
            self.error = error

    def cell_here(self) -> np.ndarray:
        """(3, 3) Å, the cell where the atoms are, as a potential takes it: repeating in all directions."""
        return np.where(self.relaxed.pbc[:, None], self.relaxed.cell.array, self.crystal.cell)

    def results(self) -> dict[str, Any]:
        """Energy, forces and stress where the atoms are, as far as they are known, by ASE's names."""
        known: KnownResults = self.known  # type: ignore[assignment]
        seen, given = (abs(np.linalg.det(cell)) for cell in (self.cell_here(), self.relaxed.cell.array))
        results: dict[str, Any] = {"energy": known.energy, "free_energy": known.energy, "forces": known.forces}
        if given and np.isfinite(known.stress).all():
            results["stress"] = full_3x3_to_voigt_6_stress(known.stress * (seen / given))
        return results

    def found(self) -> tuple[Crystal, np.ndarray, np.ndarray]:
        """The crystal where the atoms are, forces (N, 3) in eV/Å and stress (3, 3) in eV/Å³ with the pressure."""
        self.relaxed.calc = _KnownResults(self.relaxed, **self.results())
        stress = voigt_6_to_full_3x3_stress(self.relaxed.get_stress()) + self.dof.pressure * np.eye(3)
        return Crystal.of(self.relaxed), self.relaxed.get_forces(), stress

    def begin(self, *, known: bool = True) -> BatchedStart:
        """The start of the finish, with the results here where they are ``known``."""
        cell = self.cell_here()
        symmetry = held_symmetry(self.relaxed, cell)
        moves = free_directions(self.relaxed) if self.relaxed.constraints and symmetry is None else None
        return BatchedStart(
            self.crystal.numbers,
            self.relaxed.positions.copy(),
            cell,
            self.dof.cell,
            moves,
            self.known if known else None,
            origin=self.origin,
            steps_before=self.steps,
            symmetry=symmetry,
        )

    def place(self, positions: np.ndarray, cell: np.ndarray) -> None:
        """Move the atoms; a lattice vector out of a layer is carried along, as ASE's filters do."""
        if self.dof.moves_cell:
            carried = self.relaxed.cell.array @ np.linalg.solve(self.cell_here(), cell)
            moved = np.where(self.relaxed.pbc[:, None], cell, carried)
            self.relaxed.set_cell(moved, apply_constraint=False)
        self.relaxed.set_positions(positions, apply_constraint=False)

    def told(self, model: str, options: dict[str, Any]) -> Finished:
        """The result, or the error, which tells the calls of the potential."""
        if self.error is not None:
            return note_force_calls(self.error, self.calls) if self.calls else self.error
        if self.made is not None:
            return self.made
        if self.keep_symmetry:
            self.relaxed.set_constraint(self.atoms.constraints)
        results = self.results()
        forces = results["forces"].copy()
        for held in self.relaxed.constraints:
            held.adjust_forces(self.relaxed, forces)
        before, after = given_crystal(self.atoms), given_crystal(self.relaxed)
        prediction = None if self.decision is None else self.prediction
        result = RelaxationResult.finished(
            before,
            after,
            prediction=prediction,
            judgement=None if prediction is None else judge(prediction),
            decision=self.decision,
            converged=self.converged,
            alone=options["finish"] is None,
            energy=results["energy"],
            fmax=float(np.linalg.norm(forces, axis=1).max()),
            forces=results["forces"].ravel().tolist(),
            steps=self.steps,
            force_calls=self.calls,
            model=model,
            calculator=options["calculator_name"],
            potential=options["potential"],
        )
        forget(self.relaxed)
        self.relaxed.info.update(result.info)
        self.relaxed.calc = SinglePointCalculator(self.relaxed, **results)
        return result, self.relaxed


def prepared(
    given: Sequence[tuple[Atoms, Prediction | None]],
    predictor: Predictor,
    potential: BatchedPotential,
    relax_cell: Any,
    *,
    keep_symmetry: bool = False,
) -> list[Case]:
    """The ``given`` atoms, with their predictions where there are any, ready to be relaxed."""
    cases = [Case(atoms, prediction, keep_symmetry=keep_symmetry) for atoms, prediction in given]
    copies = [CheckedAtoms(case.atoms.copy()) for case in cases]
    if relax_cell is not False:  # only cells that move ask for vacuum
        look_together(copies, potential.device)
    calculator = PotentialCalculator(potential)  # of all of them: none is asked by itself
    for case, checked in zip(cases, copies, strict=True):
        case.prepare(predictor, calculator, relax_cell, checked)
    return cases


def evaluated(cases: list[Case], potential: BatchedPotential) -> list[tuple[KnownResults, EnergyForces] | str]:
    """Results where the atoms of each are, and what an optimizer sees of them; or why there are none."""
    found: list[tuple[KnownResults, EnergyForces] | str] = []
    waiting = deque(cases)
    while waiting:
        chosen, most = [waiting.popleft()], potential.atoms_at_once  # a GPU is asked for it
        atoms = len(chosen[0].relaxed)
        while waiting and atoms + len(waiting[0].relaxed) <= most:
            chosen.append(waiting.popleft())
            atoms += len(chosen[-1].relaxed)
        starts = [case.begin(known=False) for case in chosen]
        symmetric = any(start.symmetry is not None for start in starts)
        state = BatchedState.of(starts, range(len(starts)), potential.device, symmetric=symmetric)
        errors = state.evaluate(potential)
        seen = zip(state.enthalpies().tolist(), state.largest(*state.pulls()).tolist(), strict=True)
        for k, (case, known, one) in enumerate(zip(chosen, state.known(), seen, strict=True)):
            case.calls += potential.knows(case.relaxed.numbers)
            found.append(errors.get(k, (known, EnergyForces(*one))))
    return found
