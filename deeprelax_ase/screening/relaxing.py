"""A table of crystals relaxed: what every engine of a screening calls."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError, ModelError
from deeprelax_ase.optimizers.batch import finish_atoms
from deeprelax_ase.prediction.judgement import doubt
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import UNCERTAIN
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT, crystals_of

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from deeprelax_ase.prediction.predictor import Predictor


class TableRelaxer:
    """Relaxes tables; holds the model, and the calculator if one is to finish.

    Args:
        options: how.
        predictor: made of the options by default.

    Attributes:
        seconds: spent on the last table's predictions, by stage: graph, network, geometry.

    Raises:
        ModelError: errors are to be limited, and the model's are not calibrated; also as
            :class:`~deeprelax_ase.Predictor`.
        DeviceError: see there.
        CalculatorError: the one that is to finish cannot be made.
    """

    def __init__(self, options: RelaxOptions, predictor: Predictor | None = None) -> None:
        self.options = options
        self.predictor = predictor or options.predictor()
        if options.max_error is not None and self.predictor.calibration is None:
            raise ModelError(
                f"max_error needs calibrated errors, which {self.predictor.model_name} has not, or not with so many "
                "recycles and members. Set max_uncertainty instead."
            )
        self.seconds = Counter[str]()
        self._calculator: Calculator | None = None
        if options.finish != "none":
            self._make_calculator()  # a wrong name shows before the work

    def __call__(self, table: pa.Table) -> pa.Table:
        """A table of :data:`~deeprelax_ase.screening.rows.OUTPUT`: a row for each of ``table``, in order.

        A crystal that cannot be relaxed is a row that says why; nothing is raised for it.
        """
        self.seconds = Counter()
        given = list(zip(crystals_of(table), table.column("error").to_pylist(), strict=True))
        made = self.predictor.predict_many(
            [crystal for crystal, error in given if crystal is not None and not error],
            relax_cell=self.options.relax_cell,
            atoms_per_batch=self.options.atoms_per_batch,
            bonds=False,
        )
        rows = table.select(["index", "id", "source"]).to_pylist()
        for row, (crystal, error) in zip(rows, given, strict=True):
            if error or crystal is None:
                result = RelaxationResult.failed(error or "the row holds no structure", crystal)
            else:
                result = self._result(crystal, next(made))
            row |= result.columns()
        return pa.Table.from_pylist(rows, schema=OUTPUT)

    def _result(self, crystal: Crystal, made: Prediction | DeepRelaxError) -> RelaxationResult:
        if isinstance(made, DeepRelaxError):
            return RelaxationResult.failed(made, crystal, model=self.predictor.model_name)
        self.seconds.update(made.timings)
        result = RelaxationResult.of(made, doubt(made, self.options.limits()))
        if result.status != UNCERTAIN or self.options.finish == "none":
            return result
        try:
            return self._finished(made)
        except Exception as error:  # whatever calculators raise
            self._calculator = None  # in whatever state it is
            why = str(error) if isinstance(error, DeepRelaxError) else f"{type(error).__name__}: {error}"
            failed = f"{self.options.finish} failed, so it stays as predicted: {why}"
            return replace(result, reason=" ".join(failed.split()))

    def _finished(self, prediction: Prediction) -> RelaxationResult:
        """What the calculator makes of an uncertain prediction, the jump included."""
        options = self.options
        result, _ = finish_atoms(
            prediction.initial.to_atoms(),
            self.predictor,
            self._make_calculator(),
            prediction=prediction,
            fmax=options.fmax,
            steps=options.steps,
            relax_cell=options.relax_cell,
        )
        return replace(result, calculator=options.finish, reason=f"{result.steps} steps")

    def _make_calculator(self) -> Calculator:
        from deeprelax_ase.calculators.registry import get_calculator

        if self._calculator is None:
            self._calculator = get_calculator(self.options.finish, device=self.options.device)
        return self._calculator
