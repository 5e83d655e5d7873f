"""The jump of a relaxation and its corrections: made, judged, recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from deeprelax_ase.errors import ModelError, StructureError
from deeprelax_ase.optimizers.freedom import Freedom
from deeprelax_ase.optimizers.restart import JumpRecord
from deeprelax_ase.optimizers.slab import slab_normal
from deeprelax_ase.optimizers.target import model_for
from deeprelax_ase.optimizers.trial import KEPT, JumpCriteria, Place, Verdict, attempt, move
from deeprelax_ase.optimizers.uncertain import ON_UNCERTAIN, announce, refusal

if TYPE_CHECKING:
    from deeprelax_ase.prediction import Prediction
    from deeprelax_ase.predictor import Predictor

#: Further jumps under a calculator whose forces the model has learnt to read.
CORRECTIONS = 2

#: Finishes that learn no curvature, and that corrections save calls. The others need as many with them as without.
CORRECTED = ("FIRE", "FIRE2", "MDMin", "PreconFIRE")


@dataclass(frozen=True)
class LeapSettings:
    """What the caller wants of the jump, see :class:`~deeprelax_ase.optimizers.deeprelax.DeepRelaxOptimizer`.

    Attributes:
        corrections: most further jumps; None for the number that suits model and calculator.
        criteria: when a jump under a calculator is kept.
        max_error: Å, largest expected error that is trusted without one; None for the calibrated limit.
        on_uncertain: what comes with a refusal.
    """

    corrections: int | None = None
    criteria: JumpCriteria = field(default_factory=JumpCriteria)
    max_error: float | None = None
    on_uncertain: str = "warn"

    def __post_init__(self) -> None:
        if self.on_uncertain not in ON_UNCERTAIN:
            raise ValueError(f"on_uncertain={self.on_uncertain!r} must be one of {ON_UNCERTAIN}")
        if self.corrections is not None and (self.corrections < 0 or self.corrections != int(self.corrections)):
            raise ValueError(f"corrections={self.corrections} must be a whole number, 0 for none")
        if self.max_error is not None and not self.max_error >= 0:
            raise ValueError(f"max_error={self.max_error} must be a length in Å, math.inf for no limit")


class Leap:
    """The jump of one relaxation.

    Args:
        freedom: what may move.
        predictor: loads, or hands out, the predictor.
        settings: what the caller wants.
        finish: name of the class of the finish; None for none.

    Attributes:
        record: of the jump, for restarts; None before it.
        prediction: as the model made it; None before the jump and after a restart.
        start: where the jump was made from, under a calculator; None before it and after a restart.
        at_prediction: whether the atoms are where the first jump put them.

    Raises:
        ValueError: corrections are wanted where there can be none.
    """

    def __init__(
        self, freedom: Freedom, predictor: Callable[[], Predictor], settings: LeapSettings, *, finish: str | None
    ) -> None:
        # the network reads forces and stress together, of a crystal that moves as a whole
        self._can_correct = freedom.moves_cell and finish is not None and slab_normal(freedom.atoms) is None
        if settings.corrections and not self._can_correct:
            raise ValueError(
                f"corrections={settings.corrections} need a crystal whose cell may move, as forces and stress are read "
                "together, and a finish, which looks at what they lead to"
            )
        self._freedom, self._predictor, self._settings, self._finish = freedom, predictor, settings, finish
        self.record: JumpRecord | None = None
        self.prediction: Prediction | None = None
        self.start: Place | None = None
        self.at_prediction = False

    def make(self) -> JumpRecord:
        """Jump; the record says what came of it.

        Raises:
            StructureError: the model cannot relax the atoms.
            UncertainPredictionError: it does not trust itself, and that is to be an error.
        """
        from deeprelax_ase.optimizers.jump import carry_out, jump, predict  # here, as they load torch

        freedom, settings, atoms, predictor = self._freedom, self._settings, self._freedom.atoms, self._predictor()
        if settings.corrections and not predictor.corrects:
            raise ModelError(
                f"{predictor.model_name} has not learnt to read forces: leave corrections={settings.corrections} out"
            )
        positions, cell = atoms.positions.copy(), atoms.cell.array.copy()
        if freedom.has_calculator:
            attempted = attempt(freedom, lambda: jump(freedom, predictor), settings.criteria)
            prediction, verdict, self.start = attempted
        else:
            prediction = predict(freedom, predictor)
            verdict = refusal(prediction, settings.max_error) or Verdict(KEPT, "no calculator to check it, no finish")
            if verdict.kept:
                move(freedom, lambda: carry_out(freedom, predictor, prediction))
            else:
                announce(verdict, settings.on_uncertain)
        self.prediction, self.at_prediction = prediction, verdict.kept
        self.record = JumpRecord(
            numbers=atoms.numbers.copy(),
            positions=positions,
            cell=cell,
            model=prediction.model,
            uncertainty=float(prediction.uncertainty.total),
            solver_converged=bool(prediction.solver_converged),
            verdict=verdict,
            over=not verdict.kept,
            orig_cell=freedom.orig_cell,
        )
        return self.record

    def correct(self) -> bool:
        """Jump again, now that forces are known; whether there was anything to do."""
        from deeprelax_ase.optimizers.jump import jump_again

        record = self.record
        if record is None or record.over or record.memory is not None or record.corrections >= self._most(record):
            return False
        try:
            attempted = attempt(self._freedom, lambda: jump_again(self._freedom, self._predictor()), JumpCriteria())
        except StructureError:  # the last jump led where the network cannot follow; the finish may
            return False
        kept = attempted.verdict.kept
        self.record = replace(record, corrections=record.corrections + 1, over=not kept)
        self.at_prediction = self.at_prediction and not kept
        return True

    def end(self) -> None:
        """The finish takes over: no more corrections."""
        self.at_prediction = False
        if self.record is not None:
            self.record = replace(self.record, over=True)

    def _most(self, record: JumpRecord) -> int:
        if self._settings.corrections is not None or not self._can_correct or self._finish not in CORRECTED:
            return self._settings.corrections or 0
        of_calculator = record.model == model_for(self._freedom.atoms.calc)
        return CORRECTIONS if of_calculator and self._predictor().corrects else 0
