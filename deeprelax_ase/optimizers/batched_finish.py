"""Many crystals relaxed together under a potential in batches: jumps judged, then finished, as each would be alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress

from deeprelax_ase.calculators.batched_ase import PotentialCalculator
from deeprelax_ase.calculators.identity import potential_name
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import CalculatorError, UnsupportedElementError
from deeprelax_ase.graph.torch_builder import batch_tensors
from deeprelax_ase.optimizers.acceptance import EnergyForces, JumpCriteria, Snapshot, energy_forces
from deeprelax_ase.optimizers.batch import finish_atoms, given_crystal
from deeprelax_ase.optimizers.batched import IN_BATCHES, relax_in_batches
from deeprelax_ase.optimizers.batched_state import BatchedStart, KnownResults
from deeprelax_ase.optimizers.degrees_of_freedom import (
    DegreesOfFreedom,
    degrees_of_freedom,
    refuse_missing_stress,
    refuse_tilted_layers,
)
from deeprelax_ase.optimizers.jump import crystal_of
from deeprelax_ase.optimizers.moves import move_to
from deeprelax_ase.prediction.judgement import judge
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import REJECTED, SKIPPED, JumpDecision, forget

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.calculators.batched import BatchedPotential
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction

#: What became of a crystal: its result and the relaxed atoms, or why there is none.
Finished = tuple[RelaxationResult, "Atoms"] | Exception


def finish_in_batches(
    given: Sequence[tuple[Atoms, Prediction | None]],
    predictor: Predictor,
    potential: BatchedPotential,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    finish: str | None = "fire",
    relax_cell: Any = None,
    calculator_name: str | None = None,
    observe: Callable[[int], object] | None = None,
) -> list[Finished]:
    """Relax crystals as :func:`~deeprelax_ase.optimizers.finish_atoms` does with each, but all together.

    Energies and forces of all starts are computed, then those of all jumps, which are judged one by one; then all go on
    side by side. There are no force-informed steps. Crystals with constraints other than ``FixAtoms`` are relaxed one
    by one, as all are by another finish than ``"fire"`` and ``"fast"``.

    Args:
        given: unrelaxed crystals, which are not changed, and their predictions by ``predictor``, where it made them.
        predictor: makes the others, and those in cells that constraints allow.
        potential: one of :func:`~deeprelax_ase.calculators.get_batched`.
        fmax, steps, finish, relax_cell, calculator_name: see :func:`~deeprelax_ase.optimizers.finish_atoms`.
        observe: is told after each round of the finish how many crystals are at work.

    Returns:
        of each crystal, in order, its result and the relaxed atoms, or the error that it alone would raise.
    """
    options: dict[str, Any] = {"fmax": fmax, "steps": steps, "finish": finish, "relax_cell": relax_cell}
    options["calculator_name"] = calculator_name or potential.name
    cases = [_Case(atoms, prediction) for atoms, prediction in given]
    together = finish is None or finish.lower() in IN_BATCHES
    for case in cases:
        case.prepare(potential, relax_cell)
    alone = [case for case in cases if case.error is None and not (together and case.goes_in_batches())]
    for case in alone:
        case.finish_alone(predictor, potential, options)
    options["potential"] = potential_name(PotentialCalculator(potential))
    before = _evaluate_starts([case for case in cases if case.goes_on], potential, fmax)
    if steps > 0:
        _predict([case for case in before if not case.converged], predictor)
        _judge_jumps(
            {case: seen for case, seen in before.items() if case.goes_on and not case.converged},
            predictor,
            potential,
            fmax,
        )
    for case in before:
        if case.start_error and case.error is None:
            case.error = CalculatorError(case.start_error)
    if finish is not None and steps > 0:
        _finish([case for case in before if case.goes_on and not case.converged], potential, options, observe)
    return [case.told(predictor.model_name, options) for case in cases]


def pays_in_batches(potential: BatchedPotential, finish: str | None) -> bool:
    """Whether many crystals relaxed together under ``potential`` take less time than one by one, by this ``finish``."""
    return not potential.one_by_one and (finish is None or finish.lower() in (*IN_BATCHES, "none"))


@dataclass(eq=False)
class _Case:
    """One crystal on its way."""

    atoms: Atoms
    prediction: Prediction | None
    relaxed: Any = None
    dof: Any = None
    crystal: Any = None  # repeating in all directions, as a potential takes it
    known: KnownResults | None = None  # where the atoms are
    decision: JumpDecision | None = None
    calls: int = 0
    steps: int = 0
    converged: bool = False
    error: Exception | None = None
    made: Finished | None = None
    start_error: str = field(default="")

    @property
    def goes_on(self) -> bool:
        return self.error is None and self.made is None

    def prepare(self, potential: BatchedPotential, relax_cell: Any) -> None:
        try:
            self.relaxed = self.atoms.copy()
            self.relaxed.calc = PotentialCalculator(potential)
            self.dof = degrees_of_freedom(self.relaxed, relax_cell=relax_cell)
            refuse_tilted_layers(self.dof)
            self.crystal = crystal_of(self.dof)
            refuse_missing_stress(self.dof)
        except Exception as error:  # whatever is in such atoms
            self.error = error

    def goes_in_batches(self) -> bool:
        dof: DegreesOfFreedom = self.dof
        plain = all(type(constraint) is FixAtoms for constraint in dof.atoms.constraints)
        return plain and dof.plane is None

    def finish_alone(self, predictor: Predictor, potential: BatchedPotential, options: dict[str, Any]) -> None:
        try:
            calculator = PotentialCalculator(potential)
            self.made = finish_atoms(self.atoms, predictor, calculator, prediction=self.prediction, **options)
        except Exception as error:  # whatever potentials raise
            self.error = error

    def here(self) -> Crystal:
        """The crystal where the atoms are, as a potential takes it."""
        periodic = self.relaxed.pbc[:, None]
        cell = np.where(periodic, self.relaxed.cell.array, self.crystal.cell)
        return self.crystal.with_geometry(self.relaxed.positions, cell)

    def take(self, known: KnownResults) -> EnergyForces:
        """Attach what is known where the atoms are; returns what the optimizer sees of it."""
        self.known = known
        given = self.relaxed.get_volume() if self.relaxed.cell.rank == 3 else 0.0
        results: dict[str, Any] = {"energy": known.energy, "free_energy": known.energy, "forces": known.forces}
        if given and np.isfinite(known.stress).all():
            results["stress"] = full_3x3_to_voigt_6_stress(known.stress * (self.here().volume / given))
        self.relaxed.calc = SinglePointCalculator(self.relaxed, **results)
        return energy_forces(self.dof)

    def begin(self) -> BatchedStart:
        """The start of the finish."""
        here, moves = self.here(), np.ones(len(self.relaxed), dtype=bool)
        for constraint in self.relaxed.constraints:
            moves[constraint.index] = False
        return BatchedStart(here.numbers, here.positions, here.cell, self.dof.cell, moves, self.known)

    def place(self, positions: np.ndarray, cell: np.ndarray) -> None:
        """Move the atoms; a lattice vector out of a layer is carried along, as ASE's filters do."""
        if self.dof.moves_cell:
            carried = self.relaxed.cell.array @ np.linalg.solve(self.here().cell, cell)
            moved = np.where(self.relaxed.pbc[:, None], cell, carried)
            self.relaxed.set_cell(moved, apply_constraint=False)
        self.relaxed.set_positions(positions, apply_constraint=False)

    def told(self, model: str, options: dict[str, Any]) -> Finished:
        """The result, or the error."""
        if self.error is not None:
            return self.error
        if self.made is not None:
            return self.made
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
            energy=self.relaxed.calc.results["energy"],
            steps=self.steps,
            force_calls=self.calls,
            model=model,
            calculator=options["calculator_name"],
            potential=options["potential"],
        )
        forget(self.relaxed)
        self.relaxed.info.update(result.info)
        return result, self.relaxed


def _predict(cases: Iterable[_Case], predictor: Predictor) -> None:
    """Make the predictions that there are not yet."""
    wanting_all = [case for case in cases if case.prediction is None]
    for asked in dict.fromkeys(case.dof.asked for case in wanting_all):
        wanting = [case for case in wanting_all if case.dof.asked == asked]
        made = predictor.predict_many([case.crystal for case in wanting], relax_cell=asked)
        for case, prediction in zip(wanting, made, strict=True):
            if isinstance(prediction, Exception):
                knows_it = not isinstance(prediction, UnsupportedElementError)
                case.error = CalculatorError(case.start_error) if case.start_error and knows_it else prediction
            else:
                case.prediction = prediction


def _evaluate_starts(cases: list[_Case], potential: BatchedPotential, fmax: float) -> dict[_Case, EnergyForces]:
    """Energy and forces of each start; not finite where the potential fails, from which a jump may lead away."""
    before: dict[_Case, EnergyForces] = {}
    for case, found in zip(cases, _evaluated(cases, potential), strict=True):
        if isinstance(found, str):
            case.start_error, before[case] = found, EnergyForces(np.nan, np.nan)
        else:
            before[case] = case.take(found)
            case.converged = before[case].fmax < fmax
    return before


def _judge_jumps(
    before: dict[_Case, EnergyForces], predictor: Predictor, potential: BatchedPotential, fmax: float
) -> None:
    """Jump from every start, and go back where energy and forces are against it."""
    jumping: list[tuple[_Case, Snapshot, KnownResults | None]] = []
    for case in before:
        case.steps, prediction, start = 1, case.prediction, Snapshot(case.dof)
        assert prediction is not None
        case.dof.checked.forget()
        if prediction.unchanged:
            case.decision = JumpDecision(SKIPPED, prediction.unchanged)
            continue
        try:
            move_to(case.dof, prediction, predictor)
            jumping.append((case, start, case.known))
        except Exception as error:  # whatever constraints raise
            case.error = error
    found_there = _evaluated([case for case, _, _ in jumping], potential)
    for (case, start, known), found in zip(jumping, found_there, strict=True):
        if isinstance(found, str):
            case.decision = JumpDecision(REJECTED, f"the calculator fails after it ({found})")
        else:
            after = case.take(found)
            case.decision = JumpCriteria().judge(before[case], after, len(case.relaxed))
            case.converged = case.decision.kept and after.fmax < fmax
        if case.decision.kept:
            case.start_error = ""
            continue
        start.restore()
        if known is not None:
            case.take(known)


def _evaluated(cases: list[_Case], potential: BatchedPotential) -> list[KnownResults | str]:
    """Results where the atoms of each are, or why there are none."""
    found: list[KnownResults | str] = []
    waiting = list(cases)
    while waiting:
        chosen = [waiting.pop(0)]
        atoms = len(chosen[0].relaxed)
        while waiting and atoms + len(waiting[0].relaxed) <= potential.atoms_at_once:
            chosen.append(waiting.pop(0))
            atoms += len(chosen[-1].relaxed)
        tensors = [tensor.to(potential.device) for tensor in batch_tensors([case.here() for case in chosen])]
        made = potential(*tensors)
        forces = torch.split(made.forces.cpu(), [len(case.relaxed) for case in chosen])
        energies, stresses = made.energies.tolist(), made.stresses.cpu().numpy()
        for k, case in enumerate(chosen):
            case.calls += 1
            known = KnownResults(energies[k], forces[k].numpy(), stresses[k])
            found.append(made.errors.get(k, known))
    return found


def _finish(
    cases: list[_Case],
    potential: BatchedPotential,
    options: dict[str, Any],
    observe: Callable[[int], object] | None,
) -> None:
    """Relax all ``cases`` side by side from where they are."""
    if not cases:
        return
    ends = relax_in_batches(
        [case.begin() for case in cases],
        potential,
        optimizer=options["finish"],
        fmax=options["fmax"],
        steps=options["steps"] - 1,
        observe=observe,
    )
    for place, end in ends:
        case = cases[place]
        case.calls, case.steps, case.converged = case.calls + end.calls, case.steps + end.steps, end.converged
        case.place(end.positions, end.cell)
        if end.results is None:
            case.error = CalculatorError(f"{end.error}, after step {case.steps}")
        else:
            case.take(end.results)
