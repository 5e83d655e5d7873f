"""A predictor without a network: it knows that crystals shrink by 3 %, and that helium is beyond it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from types import SimpleNamespace

import numpy as np
from ase import Atoms

from deeprelax_ase.crystal import Crystal, check_elements
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.prediction.built_graph import BuiltGraph
from deeprelax_ase.prediction.record import Prediction, Uncertainty
from deeprelax_ase.uncertainty.calibration import CalibratedError

SHRINKAGE = 0.97
ELEMENTS = tuple(number for number in range(1, 95) if number != 2)


class StandInPredictor:
    """Predicts in batches of two, as the real one does in larger ones: it reads ahead of what it yields."""

    model_name = "stand-in"
    model = SimpleNamespace(card=SimpleNamespace(sha256="none", elements=ELEMENTS))

    def __init__(self, *, solver_converged: bool = True, error: CalibratedError | None = None) -> None:
        self.solver_converged = solver_converged
        self.error = self.calibration = error

    def predict(
        self, structure: Crystal | Atoms, *, relax_cell: bool | None = None, graph: BuiltGraph | None = None
    ) -> Prediction:
        initial = Crystal.of(structure)
        check_elements(initial, ELEMENTS, self.model_name)
        cell = initial.cell * SHRINKAGE if relax_cell is not False else initial.cell
        return Prediction(
            initial=initial,
            relaxed=initial.with_geometry(initial.fractional_positions @ cell, cell),
            uncertainty=Uncertainty(
                0.01 * len(initial), 0.0, 0.0, np.zeros(len(initial)), np.zeros(0), np.zeros((0, 5))
            ),
            model=self.model_name,
            solver_converged=self.solver_converged,
            solver_steps=1,
            error=self.error,
        )

    def predict_columns(
        self, crystals: Iterable[Crystal], *, relax_cell: bool | None = None, **options: object
    ) -> Iterator[list[Prediction | DeepRelaxError]]:
        yield list(self.predict_many(crystals, relax_cell=relax_cell))

    def predict_many(
        self, structures: Iterable[Crystal | Atoms], *, relax_cell: bool | None = None, **options: object
    ) -> Iterator[Prediction | DeepRelaxError]:
        structures = iter(structures)
        while batch := list(islice(structures, 2)):
            for structure in batch:
                try:
                    yield self.predict(structure, relax_cell=relax_cell)
                except DeepRelaxError as error:
                    yield error
