"""The jump of a relaxation, and the force-informed steps that may follow it: made, judged, recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.calculators.identity import level_note, model_for
from deeprelax_ase.crystal import Crystal, check_elements
from deeprelax_ase.errors import CalculatorError, ModelError, StructureError
from deeprelax_ase.models.card import DEFAULT, one_shot_options
from deeprelax_ase.optimizers.acceptance import JumpCriteria, attempt, move
from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.optimizers.restart import JumpRecord
from deeprelax_ase.prediction.judgement import (
    FINISH,
    SKIP,
    WARN,
    Judgement,
    TrustLimits,
    announce,
    check_on_uncertain,
    judge,
)
from deeprelax_ase.prediction.status import KEPT, SKIPPED, JumpDecision
from deeprelax_ase.uncertainty.kinds import CELL_KEPT

if TYPE_CHECKING:
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction

#: Force-informed steps under a calculator whose forces the model has learnt to read.
FORCE_INFORMED_STEPS = 2

#: Finishes that learn no curvature: force-informed steps save them calls. The others need as many with them as without.
FINISHES_THAT_GAIN = ("FIRE", "FIRE2", "MDMin", "PreconFIRE")

#: Å, up to which the crystal that was predicted is the one that jumps.
_SAME_CRYSTAL = 1e-6


@dataclass(frozen=True)
class JumpSettings:
    """Settings of the jump, as :class:`~deeprelax_ase.optimizers.deeprelax.DeepRelaxOptimizer` takes them.

    Raises:
        ValueError: settings that contradict each other, or make no sense.
    """

    model: Any = None
    predictor: Predictor | None = None
    prediction: Prediction | None = None
    device: str = "auto"
    graph_backend: str = "torch"
    one_shot: str = DEFAULT
    force_informed_steps: int | None = None
    criteria: JumpCriteria = field(default_factory=JumpCriteria)
    limits: TrustLimits = field(default_factory=TrustLimits)
    on_uncertain: str = WARN

    def __post_init__(self) -> None:
        if self.predictor is not None and self.model is not None:
            raise ValueError("give either a predictor or a model, not both")
        check_on_uncertain(self.on_uncertain)
        one_shot_options(self.one_shot)
        steps = self.force_informed_steps
        if steps is not None and (steps < 0 or steps != int(steps)):
            raise ValueError(f"force_informed_steps={steps} must be a whole number, 0 for none")


class Jump:
    """The jump of one relaxation.

    Args:
        dof: the degrees of freedom that may move.
        settings: those of the caller.
        finish: name of the class of the finish; None for none.

    Attributes:
        record: of the jump, for restarts; None before it.
        prediction: as the model made it; None before the jump and after a restart.
        at_prediction: whether the atoms are where the jump put them.

    Raises:
        ValueError: force-informed steps are wanted where there can be none.
    """

    def __init__(self, dof: DegreesOfFreedom, settings: JumpSettings, *, finish: str | None) -> None:
        if settings.force_informed_steps and not _may_read_forces(dof, finish):
            raise ValueError(
                f"force_informed_steps={settings.force_informed_steps} need a crystal whose cell may move, as forces "
                "and stress are read together, and a finish, which goes on from them"
            )
        self._dof, self._settings, self._finish = dof, settings, finish
        self._predictor = settings.predictor
        self.record: JumpRecord | None = None
        self.prediction: Prediction | None = None
        self.at_prediction = False

    @property
    def predictor(self) -> Predictor:
        """The predictor, loaded when first asked for."""
        if self._predictor is None:
            wanted = self._settings
            model = wanted.model or model_for(self._dof.atoms.calc)
            options = {name: getattr(wanted, name) for name in ("device", "graph_backend", "one_shot")}
            self._predictor = shared_predictor(model, **options)
        return self._predictor

    @property
    def level_note(self) -> str | None:
        """Remark on the model that was chosen for want of one that knows the calculator's minima; None else."""
        if self._settings.model is not None or self._settings.predictor is not None:
            return None
        return level_note(self._dof.atoms.calc)

    def refuse_missing_calculator(self) -> None:
        """Refuse to finish uncertain predictions under a calculator that is not there.

        Raises:
            CalculatorError: says what to do.
        """
        if self._settings.on_uncertain == FINISH and not self._dof.has_calculator:
            raise CalculatorError(
                f"on_uncertain={FINISH!r} finishes uncertain predictions under a calculator, and the atoms have none: "
                "set atoms.calc, or choose another word"
            )

    def refuse_foreign_prediction(self) -> None:
        """Refuse a prediction that was handed in and is not this model's, of the atoms as they are now.

        Raises:
            ValueError: says what differs.
        """
        if (given := self._settings.prediction) is not None:
            _refuse_foreign(given, self.crystal(), self.predictor.model_name, keeps_cell=not self._dof.moves_cell)

    def crystal(self) -> Crystal:
        """The crystal that the model sees, see :func:`crystal_of`."""
        return crystal_of(self._dof, lambda: self.predictor)

    def make(self) -> JumpRecord:
        """Jump; the record says what came of it.

        Raises:
            StructureError: the model cannot relax the atoms.
            UncertainPredictionError: the prediction is not to be trusted, and that is to be an error.
        """
        dof, atoms, settings = self._dof, self._dof.atoms, self._settings
        if settings.force_informed_steps and not self.predictor.reads_forces:
            raise ModelError(
                f"{self.predictor.model_name} has not learnt to read forces: leave "
                f"force_informed_steps={settings.force_informed_steps} out"
            )
        self.refuse_foreign_prediction()
        positions, cell = atoms.positions.copy(), atoms.cell.array.copy()
        prediction = settings.prediction
        if prediction is None:
            crystal = self.crystal()
            prediction = self.predictor.predict(crystal, relax_cell=dof.asked, graph=dof.checked.known_graph)
        dof.checked.forget()
        judgement = judge(prediction, settings.limits)
        decision = self._follow(prediction, judgement)
        self.prediction = without_foreign_energy(dof, prediction)
        self.at_prediction = decision.kept or bool(prediction.unchanged)
        self.record = JumpRecord(
            numbers=atoms.numbers.copy(),
            positions=positions,
            cell=cell,
            model=prediction.model,
            uncertainty=float(prediction.uncertainty.total),
            judgement=judgement,
            decision=decision,
            over=not self.at_prediction,
            orig_cell=dof.orig_cell,
        )
        return self.record

    def make_force_informed(self) -> bool:
        """Jump again, now that forces are known; whether there was anything to do."""
        record, dof = self.record, self._dof
        if record is None or record.over or record.memory is not None:
            return False
        if record.force_informed_steps >= self._most_force_informed(record):
            return False
        stress = dof.atoms.get_stress(voigt=False) + dof.pressure * np.eye(3)
        try:
            prediction = self.predictor.predict_with_forces(dof.atoms, dof.atoms.get_forces(), stress)
        except StructureError:  # the last jump led where the network cannot follow; the finish may
            return False
        kept = attempt(dof, _moving(dof, prediction), JumpCriteria()).kept
        self.record = replace(record, force_informed_steps=record.force_informed_steps + 1, over=not kept)
        self.at_prediction = self.at_prediction and not kept
        return True

    def end(self) -> None:
        """The finish takes over: no more jumps."""
        self.at_prediction = False
        if self.record is not None:
            self.record = replace(self.record, over=True)

    def _follow(self, prediction: Prediction, judgement: Judgement) -> JumpDecision:
        """Move the atoms there, unless the calculator, or without one the judgement, is against it."""
        dof, settings = self._dof, self._settings
        step = _moving(dof, prediction, self.predictor)
        if dof.has_calculator:
            return _left(prediction) or attempt(dof, step, settings.criteria)
        announce(judgement, settings.on_uncertain, of="the prediction", error=prediction.error)
        if judgement.uncertain and settings.on_uncertain == SKIP:
            return JumpDecision(SKIPPED, judgement.reason)
        if (left := _left(prediction)) is not None:
            return left
        move(dof, step)
        return JumpDecision(KEPT, "no calculator to check it, no finish")

    def _most_force_informed(self, record: JumpRecord) -> int:
        wanted = self._settings.force_informed_steps
        if wanted is not None or not gains_from_forces(self._dof, self._finish):
            return wanted or 0
        of_calculator = record.model == model_for(self._dof.atoms.calc)
        return FORCE_INFORMED_STEPS if of_calculator and self.predictor.reads_forces else 0


def gains_from_forces(dof: DegreesOfFreedom, finish: str | None) -> bool:
    """Whether force-informed steps save calls of a ``finish``, the name of its class, if the model reads forces."""
    return _may_read_forces(dof, finish) and finish in FINISHES_THAT_GAIN


def _may_read_forces(dof: DegreesOfFreedom, finish: str | None) -> bool:
    # the network reads forces and stress together, of a crystal that moves as a whole
    return dof.moves_cell and finish is not None and dof.normal is None


def without_foreign_energy(dof: DegreesOfFreedom, prediction: Prediction) -> Prediction:
    """``prediction`` without the energy of a minimum that ``dof`` does not lead to, as something is held or pressed."""
    if prediction.energy is None or prediction.features is None:
        return prediction
    kept = int(prediction.features.kinds()) in CELL_KEPT
    fits = dof.as_learned and kept == (dof.asked is False)
    return prediction if fits else replace(prediction, energy=None)


def crystal_of(dof: DegreesOfFreedom, predictor: Callable[[], Predictor]) -> Crystal:
    """The crystal that a model sees. It is checked once, as long as the atoms stay where they are.

    Args:
        dof: of the atoms.
        predictor: is asked for where there is a calculator. That computes before the model reads the crystal, so that
            elements are checked here.

    Raises:
        StructureError: the atoms are no crystal, layer or slab, or of elements that the model does not know.
    """
    crystal = dof.checked.crystal()
    if dof.has_calculator:  # which may feel no force across a vacuum, so that nothing is predicted
        from deeprelax_ase.prediction.physical import refuse_vacuum  # here, as it loads torch

        refuse_vacuum(crystal, dof.checked.vacuum())
        of = predictor()
        check_elements(crystal, of.model.card.elements, of.model_name)
    return crystal


def _left(prediction: Prediction) -> JumpDecision | None:
    """Skip the jump of a crystal that is left as it is; None for all others."""
    return JumpDecision(SKIPPED, prediction.unchanged) if prediction.unchanged else None


def _moving(dof: DegreesOfFreedom, prediction: Prediction, predictor: Predictor | None = None) -> Callable[[], None]:
    from deeprelax_ase.optimizers.moves import move_to  # here, as it loads torch

    return partial(move_to, dof, prediction, predictor)


def _refuse_foreign(prediction: Prediction, crystal: Crystal, model: str, *, keeps_cell: bool) -> None:
    if prediction.model != model:
        raise ValueError(
            f"prediction= was made by {prediction.model}, and the jump is {model}'s: pass predictor=, the one that "
            "made it, or leave prediction= out"
        )
    of = prediction.initial
    same = np.array_equal(crystal.numbers, of.numbers) and all(
        np.allclose(here, there, rtol=0, atol=_SAME_CRYSTAL)
        for here, there in ((crystal.cell, of.cell), (crystal.positions, of.positions))
    )
    if not same:
        raise ValueError(
            "prediction= is of another crystal than the atoms, or of other positions or another cell: predict these "
            "atoms, or leave prediction= out"
        )
    if keeps_cell and not np.array_equal(of.cell, prediction.relaxed.cell):
        raise ValueError("prediction= changes the cell, which is to be kept: predict with relax_cell=False")


def shared_predictor(
    model: Any = None, *, device: str = "auto", graph_backend: str = "torch", one_shot: str = "default"
) -> Predictor:
    """The predictor of a model that comes with the package, one per process; for files and model objects a new one.

    Args:
        model: name, path or object of a model; None for the default one.
        device, graph_backend, one_shot: see :class:`~deeprelax_ase.Predictor`.
    """
    by_name = model is None or (isinstance(model, str) and not Path(model).exists())
    load = _load if by_name else _load.__wrapped__  # files may change between two calls
    return load(model, device, graph_backend, one_shot)


@lru_cache(maxsize=4)
def _load(model: Any, device: str, graph_backend: str, one_shot: str) -> Predictor:
    from deeprelax_ase.prediction.predictor import Predictor

    chosen = {} if model is None else {"model": model}
    return Predictor(**chosen, device=device, graph_backend=graph_backend, one_shot=one_shot)
