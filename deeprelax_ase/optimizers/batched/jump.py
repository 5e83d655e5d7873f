"""The jumps of many crystals: predicted and judged together, each as it would be alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from deeprelax_ase.calculators.batched_ase import PotentialCalculator
from deeprelax_ase.calculators.identity import model_for
from deeprelax_ase.errors import CalculatorError, StructureError, UnsupportedElementError
from deeprelax_ase.optimizers.acceptance import JumpCriteria, Snapshot
from deeprelax_ase.optimizers.batched.case import Case, evaluated
from deeprelax_ase.optimizers.jump import FORCE_INFORMED_STEPS, gains_from_forces, without_foreign_energy
from deeprelax_ase.optimizers.moves import move_to
from deeprelax_ase.prediction.status import REJECTED, SKIPPED, JumpDecision

if TYPE_CHECKING:
    from deeprelax_ase.calculators.batched import BatchedPotential
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction


class BatchedJumps:
    """Jumps under a potential in batches.

    Args:
        predictor: makes the predictions.
        potential: judges them.
        fmax: eV/Å, of what counts as converged.
        steps: most steps of each crystal, jumps included.
        finish: name of the class of the finish; None for the jump alone.
    """

    def __init__(
        self, predictor: Predictor, potential: BatchedPotential, *, fmax: float, steps: int, finish: str | None
    ) -> None:
        self._predictor, self._potential, self._fmax = predictor, potential, fmax
        self._steps, self._finish = steps, finish
        self._calculator = PotentialCalculator(potential)

    def evaluate_starts(self, cases: list[Case]) -> None:
        """Energy and forces of each start; not finite where the potential fails, from which a jump may lead away."""
        for case, found in zip(cases, evaluated(cases, self._potential), strict=True):
            if isinstance(found, str):
                case.start_error = found
            else:
                case.known, case.seen = found
                case.converged = case.seen.fmax < self._fmax

    def predict(self, cases: Iterable[Case]) -> None:
        """Make the predictions that there are not yet."""
        wanting_all = [case for case in cases if case.prediction is None]
        for asked in dict.fromkeys(case.dof.asked for case in wanting_all):
            wanting = [case for case in wanting_all if case.dof.asked == asked]
            made = self._predictor.predict_many([case.crystal for case in wanting], relax_cell=asked, bonds=False)
            for case, prediction in zip(wanting, made, strict=True):
                if isinstance(prediction, Exception):
                    knows_it = not isinstance(prediction, UnsupportedElementError)
                    case.error = CalculatorError(case.start_error) if case.start_error and knows_it else prediction
                else:
                    case.prediction = without_foreign_energy(case.dof, prediction)

    def jump(self, cases: Iterable[Case]) -> None:
        """Jump from every start, and go back where energy and forces are against it."""
        jumping: list[Case] = []
        for case in cases:
            case.steps = 1
            case.dof.checked.forget()
            if case.prediction is not None and case.prediction.unchanged:
                case.decision = JumpDecision(SKIPPED, case.prediction.unchanged)
            else:
                jumping.append(case)

        predictions = [(case, case.prediction) for case in jumping if case.prediction is not None]
        for case, decision in self._attempt(predictions, self._predictor):
            case.decision = decision
            if decision.kept:
                case.start_error = ""

    def jump_informed(self, cases: Iterable[Case]) -> None:
        """Jump again, with the forces known where the last jump landed, as often as each would alone."""
        going = [case for case in cases if self._may_go_on(case)]
        knows_forces = bool(going) and self._predictor.model_name == model_for(self._calculator)
        if not knows_forces or not self._predictor.reads_forces:
            return
        for _ in range(FORCE_INFORMED_STEPS):
            going = [case for case in going if case.goes_on and not case.converged and case.steps < self._steps]
            if not going:
                return
            made = self._predictor.predict_many_with_forces(case.found() for case in going)
            predictions: list[tuple[Case, Prediction]] = []
            for case, prediction in zip(going, made, strict=True):
                if not isinstance(prediction, Exception):
                    case.steps += 1
                    predictions.append((case, prediction))
                elif not isinstance(prediction, StructureError):  # elsewhere the finish may follow
                    case.error = prediction
            going = [case for case, decision in self._attempt(predictions) if decision.kept]

    def _may_go_on(self, case: Case) -> bool:
        at_prediction = case.decision is not None and case.decision.outcome != REJECTED
        return at_prediction and not case.start_error and gains_from_forces(case.dof, self._finish)

    def _attempt(
        self, predictions: list[tuple[Case, Prediction]], predictor: Predictor | None = None
    ) -> list[tuple[Case, JumpDecision]]:
        """Move each to its prediction, as far as constraints let it, and back where that is not kept."""
        moved: list[tuple[Case, Snapshot]] = []
        for case, prediction in predictions:
            start, case.relaxed.calc = Snapshot(case.dof), self._calculator
            try:
                move_to(case.dof, prediction, predictor)
                moved.append((case, start))
            except Exception as error:  # whatever constraints raise
                case.error = error
        decided: list[tuple[Case, JumpDecision]] = []
        found_there = evaluated([case for case, _ in moved], self._potential)
        for (case, start), found in zip(moved, found_there, strict=True):
            if isinstance(found, str):
                decision = JumpDecision(REJECTED, f"the calculator fails after it ({found})")
            else:
                decision = JumpCriteria().judge(case.seen, found[1], len(case.relaxed))
                if decision.kept:
                    case.known, case.seen = found
                    case.converged = case.seen.fmax < self._fmax
            decided.append((case, decision))
            if not decision.kept:
                start.restore()
        return decided
