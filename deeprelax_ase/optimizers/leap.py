"""The jump of a relaxation and its corrections: made, judged, recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from deeprelax_ase.errors import ModelError, StructureError
from deeprelax_ase.optimizers.acceptance import KEPT, JumpCriteria, JumpDecision, Snapshot, attempt, move
from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.optimizers.restart import JumpRecord
from deeprelax_ase.optimizers.slab import crystal_of, slab_normal
from deeprelax_ase.optimizers.target import model_for
from deeprelax_ase.prediction.judgement import ON_UNCERTAIN, announce, refusal

if TYPE_CHECKING:
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction

#: Further jumps under a calculator whose forces the model has learnt to read.
CORRECTIONS = 2

#: Å, up to which the crystal that was predicted is the one that jumps.
_SAME = 1e-6

#: Finishes that learn no curvature, and that corrections save calls. The others need as many with them as without.
CORRECTED = ("FIRE", "FIRE2", "MDMin", "PreconFIRE")


@dataclass(frozen=True)
class LeapSettings:
    """What the caller wants of the jump, see :class:`~deeprelax_ase.optimizers.deeprelax.DeepRelaxOptimizer`.

    Attributes:
        force_informed_steps: most further jumps; None for the number that suits model and calculator.
        criteria: when a jump under a calculator is kept.
        max_error: Å, largest expected error that is trusted without one; None for the calibrated limit.
        on_uncertain: what comes with a refusal.
    """

    force_informed_steps: int | None = None
    criteria: JumpCriteria = field(default_factory=JumpCriteria)
    max_error: float | None = None
    on_uncertain: str = "warn"

    def __post_init__(self) -> None:
        if self.on_uncertain not in ON_UNCERTAIN:
            raise ValueError(f"on_uncertain={self.on_uncertain!r} must be one of {ON_UNCERTAIN}")
        if self.force_informed_steps is not None and (
            self.force_informed_steps < 0 or self.force_informed_steps != int(self.force_informed_steps)
        ):
            raise ValueError(f"force_informed_steps={self.force_informed_steps} must be a whole number, 0 for none")
        if self.max_error is not None and not self.max_error >= 0:
            raise ValueError(f"max_error={self.max_error} must be a length in Å, math.inf for no limit")


class Leap:
    """The jump of one relaxation.

    Args:
        freedom: what may move.
        predictor: loads, or hands out, the predictor.
        settings: what the caller wants.
        finish: name of the class of the finish; None for none.
        prediction: made before, of these atoms; None to predict at the jump.

    Attributes:
        record: of the jump, for restarts; None before it.
        prediction: as the model made it; None before the jump and after a restart.
        start: where the jump was made from, under a calculator; None before it and after a restart.
        at_prediction: whether the atoms are where the first jump put them.

    Raises:
        ValueError: corrections are wanted where there can be none.
    """

    def __init__(
        self,
        dof: DegreesOfFreedom,
        predictor: Callable[[], Predictor],
        settings: LeapSettings,
        *,
        finish: str | None,
        prediction: Prediction | None = None,
    ) -> None:
        # the network reads forces and stress together, of a crystal that moves as a whole
        self._can_correct = dof.moves_cell and finish is not None and slab_normal(dof.atoms) is None
        if settings.force_informed_steps and not self._can_correct:
            raise ValueError(
                f"force_informed_steps={settings.force_informed_steps} need a crystal whose cell may move, as forces "
                "and stress are read together, and a finish, which looks at what they lead to"
            )
        self._freedom, self._predictor, self._settings, self._finish = dof, predictor, settings, finish
        self._given = prediction
        self.record: JumpRecord | None = None
        self.prediction: Prediction | None = None
        self.start: Snapshot | None = None
        self.at_prediction = False

    def refuse_foreign_prediction(self) -> None:
        """Refuse a prediction that was handed in and is not this model's, of the atoms as they are now.

        Raises:
            ValueError: says what differs.
        """
        given, dof = self._given, self._freedom
        if given is None:
            return
        if given.model != (model := self._predictor().model_name):
            raise ValueError(
                f"prediction= was made by {given.model}, and the jump is {model}'s: pass predictor=, the one that made "
                "it, or leave prediction= out"
            )
        here, there = crystal_of(dof.atoms), given.initial
        same = np.array_equal(here.numbers, there.numbers) and all(
            np.allclose(getattr(here, name), getattr(there, name), rtol=0, atol=_SAME) for name in ("cell", "positions")
        )
        if not same:
            raise ValueError(
                "prediction= is of another crystal than the atoms, or of other positions or another cell: predict "
                "these atoms, or leave prediction= out"
            )
        if not dof.moves_cell and not np.array_equal(there.cell, given.relaxed.cell):
            raise ValueError("prediction= changes the cell, which is to be kept: predict with relax_cell=False")

    def make(self) -> JumpRecord:
        """Jump; the record says what came of it.

        Raises:
            StructureError: the model cannot relax the atoms.
            UncertainPredictionError: it does not trust itself, and that is to be an error.
        """
        from deeprelax_ase.optimizers.jump import carry_out, predict  # here, as they load torch

        self.refuse_foreign_prediction()
        dof, settings, atoms, predictor = self._freedom, self._settings, self._freedom.atoms, self._predictor()
        if settings.force_informed_steps and not predictor.reads_forces:
            raise ModelError(
                f"{predictor.model_name} has not learnt to read forces: leave "
                f"force_informed_steps={settings.force_informed_steps} out"
            )
        positions, cell = atoms.positions.copy(), atoms.cell.array.copy()
        prediction = self._given or predict(dof, predictor)
        if dof.has_calculator:
            attempted = attempt(dof, lambda: carry_out(dof, predictor, prediction), settings.criteria)
            decision, self.start = attempted.decision, attempted.start
        else:
            decision = refusal(prediction, settings.max_error) or JumpDecision(
                KEPT, "no calculator to check it, no finish"
            )
            if decision.kept:
                move(dof, lambda: carry_out(dof, predictor, prediction))
            else:
                announce(decision, settings.on_uncertain)
        self.prediction, self.at_prediction = prediction, decision.kept
        self.record = JumpRecord(
            numbers=atoms.numbers.copy(),
            positions=positions,
            cell=cell,
            model=prediction.model,
            uncertainty=float(prediction.uncertainty.total),
            solver_converged=bool(prediction.solver_converged),
            decision=decision,
            over=not decision.kept,
            orig_cell=dof.orig_cell,
        )
        return self.record

    def correct(self) -> bool:
        """Jump again, now that forces are known; whether there was anything to do."""
        from deeprelax_ase.optimizers.jump import jump_again

        record = self.record
        if (
            record is None
            or record.over
            or record.memory is not None
            or record.force_informed_steps >= self._most(record)
        ):
            return False
        try:
            attempted = attempt(self._freedom, lambda: jump_again(self._freedom, self._predictor()), JumpCriteria())
        except StructureError:  # the last jump led where the network cannot follow; the finish may
            return False
        kept = attempted.decision.kept
        self.record = replace(record, force_informed_steps=record.force_informed_steps + 1, over=not kept)
        self.at_prediction = self.at_prediction and not kept
        return True

    def end(self) -> None:
        """The finish takes over: no more corrections."""
        self.at_prediction = False
        if self.record is not None:
            self.record = replace(self.record, over=True)

    def _most(self, record: JumpRecord) -> int:
        if self._settings.force_informed_steps is not None or not self._can_correct or self._finish not in CORRECTED:
            return self._settings.force_informed_steps or 0
        of_calculator = record.model == model_for(self._freedom.atoms.calc)
        return CORRECTIONS if of_calculator and self._predictor().reads_forces else 0
