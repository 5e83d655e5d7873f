from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene
from ase.constraints import FixAtoms

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.record import Prediction, Uncertainty
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import INFO_KEYS
from deeprelax_ase.uncertainty.calibration import CalibratedError

SAID = {"deeprelax_status": "accepted", "deeprelax_model": "a model", "deeprelax_uncertainty": 0.05}


def predicted(initial: Crystal, positions: np.ndarray, cell: np.ndarray) -> Prediction:
    n = len(initial)
    uncertainty = Uncertainty(0.05, 0.04, 0.03, np.full(n, 0.05), np.zeros(0), np.zeros((0, 5), dtype=np.int64))
    return Prediction(initial, initial.with_geometry(positions, cell), uncertainty, "a model", True, 10)


@pytest.fixture
def template() -> Atoms:
    """Atoms outside of their cell, with everything on them that a user may have put there."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.positions[0] += atoms.cell.array[0] * 3
    atoms.set_tags(range(8))
    atoms.set_initial_magnetic_moments(np.linspace(-1, 1, 8))
    atoms.set_velocities(np.ones((8, 3)))
    atoms.set_array("site", np.arange(8))
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.info["id"] = "mp-1"
    return atoms


@pytest.fixture
def prediction(template: Atoms, rng) -> Prediction:
    initial = Crystal.of(template)
    cell = initial.cell @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3)))
    return predicted(initial, initial.fractional_positions @ cell + 0.1 * rng.normal(size=(8, 3)), cell)


@pytest.mark.parametrize(("factor", "change"), [(1.0, 0.0), (1.1, 0.331), (0.9, -0.271)])
def test_volume_change(sample_crystals, factor: float, change: float):
    for crystal in sample_crystals.values():
        fractional = predicted(crystal, crystal.positions * factor, crystal.cell * factor)
        assert fractional.volume_change == pytest.approx(change, abs=1e-12)


def test_displacements_leave_out_what_the_cell_does(sample_crystals, rng):
    for crystal in sample_crystals.values():
        cell = crystal.cell @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3)))
        moves = rng.normal(size=crystal.positions.shape)
        moved = predicted(crystal, crystal.fractional_positions @ cell + moves, cell)
        np.testing.assert_allclose(moved.displacements, moves, rtol=0, atol=1e-11)


def test_bare_atoms(prediction: Prediction):
    atoms = prediction.to_atoms()
    np.testing.assert_array_equal(atoms.numbers, prediction.initial.numbers)
    np.testing.assert_array_equal(atoms.positions, prediction.relaxed.positions)  # images and all
    np.testing.assert_array_equal(atoms.cell.array, prediction.relaxed.cell)
    assert atoms.pbc.all()
    assert atoms.info == SAID


def test_template_keeps_what_it_carries(prediction: Prediction, template: Atoms):
    before = template.copy()
    atoms = prediction.to_atoms(template)
    np.testing.assert_array_equal(atoms.positions, prediction.relaxed.positions)  # of fixed atoms too
    np.testing.assert_array_equal(atoms.cell.array, prediction.relaxed.cell)
    assert set(atoms.arrays) == set(template.arrays) >= {"tags", "initial_magmoms", "momenta", "site"}
    for name in set(atoms.arrays) - {"positions"}:
        np.testing.assert_array_equal(atoms.arrays[name], template.arrays[name])
    assert [c.todict() for c in atoms.constraints] == [c.todict() for c in template.constraints]
    assert atoms.info == {"id": "mp-1", **SAID}
    assert atoms.calc is None
    assert template == before
    assert template.info == {"id": "mp-1"}


ERROR = CalibratedError(coordinates=0.03, coordinates_bound=0.08, volume=0.02, volume_bound=0.05, ood=True)


def test_calibrated_errors_go_with_the_atoms(prediction: Prediction, template: Atoms):
    known = replace(prediction, error=ERROR)
    expected = {
        **SAID,
        "deeprelax_status": "uncertain",
        "deeprelax_reason": "the crystal is unlike those that the model knows",
        "deeprelax_error": 0.03,
        "deeprelax_volume_error": 0.02,
        "deeprelax_ood": True,
    }
    assert known.info == known.to_atoms().info == expected
    assert known.to_atoms(template).info == {"id": "mp-1", **expected}


def test_keys_of_an_earlier_run_leave(prediction: Prediction, template: Atoms):
    template.info.update(dict.fromkeys(INFO_KEYS, "earlier"))
    atoms = prediction.to_atoms(template)
    assert atoms.info == {"id": "mp-1", **SAID}
    assert template.info["deeprelax_error"] == "earlier"


@pytest.mark.parametrize("third", [(0.0, 0.0, 0.0), (0.3, 0.0, 2.0), (0.3, 0.0, 20.0)])
@pytest.mark.parametrize("templated", [False, True])
def test_layers_keep_what_is_out_of_their_plane(third: tuple[float, ...], templated: bool):
    """Whatever vacuum the model saw; the atoms are where they are predicted."""
    layer = graphene(a=2.5)
    layer.cell[2] = third
    layer.set_pbc((True, True, False))
    initial = Crystal.of(layer)
    prediction = predicted(initial, initial.positions * 0.98, initial.cell * 0.98)
    atoms = prediction.to_atoms(layer if templated else None)
    assert atoms.pbc.tolist() == [True, True, False]
    np.testing.assert_array_equal(atoms.cell.array, [*0.98 * layer.cell.array[:2], third])
    np.testing.assert_array_equal(atoms.positions, 0.98 * layer.positions)
    result = RelaxationResult.of(prediction)
    assert result.to_atoms() == atoms
    assert RelaxationResult.from_columns(result.columns()).to_atoms() == atoms
