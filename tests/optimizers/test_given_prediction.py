"""A prediction that was made before is jumped to as it is, and only by the atoms that it was made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.emt import EMT

from deeprelax_ase.optimizers import finish_atoms
from tests.optimizers.helpers import assert_at, quiet


@pytest.mark.parametrize("calc", [True, False])
def test_nothing_is_predicted_again(make_atoms, predictor, near, calc):
    atoms = make_atoms(calc=calc)
    prediction = predictor.predict(atoms)
    optimizer = quiet(atoms, predictor, prediction=prediction)
    optimizer.run(fmax=0.05, steps=1)
    assert_at(atoms, near)
    assert optimizer.prediction is prediction
    assert len(predictor.asked) == 1


def test_the_relaxation_is_the_same(make_atoms, predictor):
    given, asked = make_atoms(), make_atoms()
    quiet(given, predictor, prediction=predictor.predict(given)).run(fmax=0.01)
    quiet(asked, predictor).run(fmax=0.01)
    assert_at(given, asked)
    assert given.info == asked.info


def test_a_crystal_of_a_batch_is_finished_from_it(make_atoms, predictor):
    atoms = make_atoms(calc=False)
    result, _ = finish_atoms(atoms, predictor, EMT(), prediction=predictor.predict(atoms), fmax=0.05)
    assert result.ok
    assert len(predictor.asked) == 1
    assert_at(atoms, make_atoms(calc=False))


@pytest.mark.parametrize("change", ["positions", "cell", "numbers"])
def test_of_another_crystal_it_is_refused(make_atoms, predictor, change):
    atoms = make_atoms()
    prediction = predictor.predict(atoms)
    if change == "positions":
        atoms.positions[1] += 1e-3
    elif change == "cell":
        atoms.set_cell(1.001 * atoms.cell.array)
    else:
        atoms.symbols[1] = "Ag"
    before = atoms.copy()
    with pytest.raises(ValueError, match="of another crystal"):
        quiet(atoms, predictor, prediction=prediction).run(fmax=0.05)
    assert atoms == before


def test_of_another_model_it_is_refused(make_atoms, predictor):
    prediction = replace(predictor.predict(make_atoms()), model="another")
    with pytest.raises(ValueError, match=r"made by another, and the jump is stand-in's: pass predictor="):
        quiet(make_atoms(), predictor, prediction=prediction).run(fmax=0.05)


def test_of_a_cell_that_moves_it_is_refused_where_the_cell_is_kept(make_atoms, predictor):
    prediction = predictor.predict(make_atoms())
    with pytest.raises(ValueError, match="relax_cell=False"):
        quiet(make_atoms(), predictor, prediction=prediction, relax_cell=False).run(fmax=0.05)
    kept = predictor.predict(make_atoms(), relax_cell=False)
    atoms = make_atoms()
    assert quiet(atoms, predictor, prediction=kept, relax_cell=False).run(fmax=0.05)
    np.testing.assert_array_equal(atoms.cell.array, make_atoms().cell.array)
