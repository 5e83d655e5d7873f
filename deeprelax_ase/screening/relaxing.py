"""A table of crystals relaxed: what every engine of a screening calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from deeprelax_ase import __version__
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError, ModelError
from deeprelax_ase.optimizers.batch import finish_atoms
from deeprelax_ase.prediction.judgement import doubt
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.status import FAILED, PREDICTED
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT, UNCERTAIN, crystals_of

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
                "passes and members. Set max_uncertainty instead."
            )
        self.seconds: dict[str, float] = {}
        self._calculator: Calculator | None = None
        if options.finish != "none":
            self._make_calculator()  # a wrong name shows before the work

    def __call__(self, table: pa.Table) -> pa.Table:
        """A table of :data:`~deeprelax_ase.screening.rows.OUTPUT`: a row for each of ``table``, in order.

        A crystal that cannot be relaxed is a row that says why; nothing is raised for it.
        """
        self.seconds = {}
        given = crystals_of(table)
        errors = table.column("error").to_pylist()
        sound = [c for c, error in zip(given, errors, strict=True) if c is not None and not error]
        results = self._predictions(sound)
        rows: list[dict[str, Any]] = []
        for crystal, error in zip(given, errors, strict=True):
            if error or crystal is None:
                rows.append({"status": FAILED, "reason": error or "the row holds no structure", **_geometry(crystal)})
            else:
                rows.append(self._row(*next(results)))
        for name in ("index", "id", "source"):
            for row, value in zip(rows, table.column(name).to_pylist(), strict=True):
                row[name] = value
        return pa.Table.from_pylist([{**row, "version": __version__} for row in rows], schema=OUTPUT)

    def _predictions(self, crystals: list[Crystal]) -> Iterator[tuple[Crystal, Prediction | DeepRelaxError]]:
        options = self.options
        results = self.predictor.predict_many(
            crystals, relax_cell=options.relax_cell, atoms_per_batch=options.atoms_per_batch, bonds=False
        )
        return zip(crystals, results, strict=True)

    def _row(self, crystal: Crystal, result: Prediction | DeepRelaxError) -> dict[str, Any]:
        row: dict[str, Any] = {"model": self.predictor.model_name}
        if isinstance(result, DeepRelaxError):
            return {**row, "status": FAILED, "reason": " ".join(str(result).split()), **_geometry(crystal)}
        for stage, seconds in result.timings.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        row |= {
            "uncertainty": result.uncertainty.total,
            "within_error": result.within_error,
            "volume_change": result.volume_change,
            "seconds": sum(result.timings.values()),
            **_geometry(result.relaxed),
        }
        if (error := result.error) is not None:
            row |= {"error": error.coordinates, "error_bound": error.coordinates_bound, "ood": error.ood}
            row |= {"volume_error": error.volume, "volume_error_bound": error.volume_bound}
        reason = doubt(result, self.options.limits())
        row |= {"status": UNCERTAIN if reason else PREDICTED, "reason": reason or None}
        return {**row, **self._finished(crystal, result)} if reason and self.options.finish != "none" else row

    def _finished(self, crystal: Crystal, prediction: Prediction) -> dict[str, Any]:
        """What the calculator makes of an uncertain crystal, jump and all."""
        try:
            result, _ = finish_atoms(
                crystal.to_atoms(),
                self.predictor,
                self._make_calculator(),
                prediction=prediction,
                fmax=self.options.fmax,
                steps=self.options.steps,
                relax_cell=self.options.relax_cell,
            )
        except Exception as error:  # whatever calculators raise
            self._calculator = None  # in whatever state it is
            text = str(error) if isinstance(error, DeepRelaxError) else f"{type(error).__name__}: {error}"
            return {"reason": f"{self.options.finish} failed, so it stays as predicted: {' '.join(text.split())}"}
        return {**result.columns(), "reason": f"{result.steps} steps"}

    def _make_calculator(self) -> Calculator:
        from deeprelax_ase.calculators.registry import get_calculator

        if self._calculator is None:
            self._calculator = get_calculator(self.options.finish, device=self.options.device)
        return self._calculator


def _geometry(crystal: Crystal | None) -> dict[str, np.ndarray]:
    if crystal is None:
        return {}
    return {"numbers": crystal.numbers, "positions": crystal.positions.ravel(), "cell": crystal.cell.ravel()}
