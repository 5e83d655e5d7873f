"""A crystal whose minimum under EMT is known, and a stand-in predictor that jumps close to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.built_graph import BuiltGraph
from deeprelax_ase.prediction.record import Prediction, Uncertainty
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.optimizers.force_reader import ForceReader, M3GNetCalculator
from tests.stand_in import StandInPredictor


@dataclass
class StandIn:
    """A predictor that knows one answer."""

    relaxed: Crystal
    solver_converged: bool = True
    error: CalibratedError | None = None
    asked: list[bool] = field(default_factory=list)
    crystals: list[Crystal] = field(default_factory=list)
    graphs: list[BuiltGraph | None] = field(default_factory=list)
    model_name: str = "stand-in"
    model: ClassVar = StandInPredictor.model

    def predict(self, structure, *, relax_cell: bool = True, graph: BuiltGraph | None = None) -> Prediction:
        initial = Crystal.of(structure)
        self.asked.append(relax_cell)
        self.crystals.append(initial)
        self.graphs.append(graph)
        fractional = self.relaxed.fractional_positions
        return Prediction(
            initial=initial,
            relaxed=self.relaxed if relax_cell else initial.with_geometry(fractional @ initial.cell, initial.cell),
            uncertainty=Uncertainty(0.02, 0.01, 0.017, np.zeros(len(initial)), np.zeros(0), np.zeros((0, 5), int)),
            model=self.model_name,
            solver_converged=self.solver_converged,
            solver_steps=7,
            timings={"network": 0.1},
            error=self.error,
        )


def cu3au() -> Atoms:
    """Cu3Au in the L1_2 structure; its sites are centres of inversion, so that they rest in any strained cell."""
    atoms = bulk("Cu", cubic=True, a=3.75)
    atoms.symbols[0] = "Au"
    return atoms


@pytest.fixture(scope="session")
def minimum() -> Crystal:
    """Cu3Au at the minimum of EMT."""
    atoms = cu3au()
    atoms.calc = EMT()
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-6, steps=200)
    return Crystal.from_atoms(atoms)


@pytest.fixture
def make_atoms() -> Callable[..., Atoms]:
    """Makes the unrelaxed crystal: strained by several per cent, rattled by 0.1 Å; ``calc=False`` leaves out EMT."""

    def make(*, calc: bool = True) -> Atoms:
        rng = np.random.default_rng(3)
        atoms = cu3au()
        strain = 0.02 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
        if calc:
            atoms.calc = EMT()
        return atoms

    return make


@pytest.fixture
def near(minimum: Crystal) -> Crystal:
    """A good prediction: 0.02 Å and 0.4 % off the minimum."""
    rng = np.random.default_rng(4)
    cell = 1.004 * minimum.cell
    return minimum.with_geometry(minimum.fractional_positions @ cell + 0.02 * rng.normal(size=(4, 3)), cell)


@pytest.fixture
def predictor(near: Crystal) -> StandIn:
    return StandIn(near)


@pytest.fixture
def stand_in() -> type[StandIn]:
    return StandIn


@pytest.fixture
def force_reader(predictor: StandIn, minimum: Crystal) -> ForceReader:
    """A model that has learnt to read forces."""
    return ForceReader(predictor, minimum)


@pytest.fixture
def under_m3gnet(make_atoms: Callable[..., Atoms]) -> Atoms:
    """The unrelaxed crystal under the calculator whose forces it reads."""
    made = make_atoms(calc=False)
    made.calc = M3GNetCalculator()
    return made
