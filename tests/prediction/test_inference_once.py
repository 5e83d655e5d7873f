"""Checks, graphs, vacuum and edges are computed once in a prediction, and once in a jump."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter

from deeprelax_ase import DeepRelaxOptimizer
from deeprelax_ase.crystal import validate
from deeprelax_ase.geometry import vacuum_of
from deeprelax_ase.graph import build_graph, edge_vectors
from deeprelax_ase.models.model import Model
from deeprelax_ase.nn.deeprelax_e3 import network_input
from tests.crystals import CRYSTALS
from tests.prediction.small_networks import make_model, predictor

pytestmark = pytest.mark.shapes


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


ONCE = {"validate": 1, "build_graph": 1, "vacuum_of": 1}


@pytest.fixture
def calls(monkeypatch) -> Counter[str]:
    """How often what should be done once is done."""
    calls: Counter[str] = Counter()

    def count(function):
        def call(*args, **kwargs):
            calls[function.__name__] += 1
            return function(*args, **kwargs)

        for name, module in list(sys.modules.items()):  # wherever it was imported to
            if name.startswith("deeprelax_ase") and vars(module).get(function.__name__) is function:
                monkeypatch.setattr(module, function.__name__, call)

    for function in (validate, build_graph, vacuum_of, edge_vectors, network_input):
        count(function)
    return calls


def test_each_recycle_computes_edge_vectors_once(calls: Counter[str], model: Model):
    predictor(model, recycles=3).predict(CRYSTALS["triclinic"].to_atoms())
    assert calls == {**ONCE, "edge_vectors": 3, "network_input": 3}


@pytest.mark.parametrize("relax_cell", [None, pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize("calculator", [None, EMT()])
@pytest.mark.parametrize("wrap", [lambda atoms: atoms, FrechetCellFilter])
def test_a_jump_looks_at_the_atoms_once(calls: Counter[str], model: Model, calculator, relax_cell, wrap):
    """What may move is told by the same look as whether there is vacuum, and the prediction goes on from it."""
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True)
    atoms.positions[0, 0] += 0.1
    atoms.calc = calculator
    optimizer = DeepRelaxOptimizer(
        wrap(atoms), predictor=predictor(model, recycles=2), logfile=None, relax_cell=relax_cell
    )
    optimizer.run(steps=1)
    assert optimizer.prediction is not None
    once = {**ONCE, "edge_vectors": 2, "network_input": 2}
    assert calls == once
    optimizer.run(steps=1)
    assert calls == once


@pytest.mark.parametrize("calculator", [None, EMT()])
def test_a_jump_from_elsewhere_looks_again(calls: Counter[str], model: Model, calculator):
    atoms, asked = bulk("Cu", "fcc", a=3.8, cubic=True), predictor(model)
    atoms.calc = calculator
    optimizer = DeepRelaxOptimizer(atoms, predictor=asked, logfile=None, finish=None)
    atoms.set_cell(atoms.cell.array * [[1.02], [1.0], [1.0]], scale_atoms=True)
    atoms.positions[0] += 0.1
    moved = atoms.copy()
    optimizer.run(steps=1)
    assert (calls["validate"], calls["build_graph"], calls["vacuum_of"]) == (2, 2, 2)
    expected = asked.predict(moved).relaxed
    np.testing.assert_array_equal(optimizer.prediction.relaxed.positions, expected.positions)
    np.testing.assert_array_equal(optimizer.prediction.relaxed.cell, expected.cell)
