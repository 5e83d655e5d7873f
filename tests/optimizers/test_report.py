"""What an optimizer writes into ``atoms.info`` about the errors of its jump."""

from __future__ import annotations

import pytest
from ase.io import read

from deeprelax_ase.calibration import CalibratedError
from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.prediction import ERROR_KEYS, INFO_KEYS

ERROR = CalibratedError(coordinates=0.03, coordinates_bound=0.08, volume=0.02, volume_bound=0.05, outside=False)
WRITTEN = dict(zip(ERROR_KEYS, (0.03, 0.02, False), strict=True))


@pytest.fixture
def calibrated(stand_in, near):
    """A predictor that knows its error."""
    return stand_in(near, error=ERROR)


@pytest.mark.parametrize("calc", [True, False])
def test_errors_of_the_jump(make_atoms, calibrated, calc: bool):
    atoms = make_atoms(calc=calc)
    atoms.info["id"] = 7
    DeepRelaxOptimizer(atoms, logfile=None, predictor=calibrated).run(fmax=1e-6, steps=1)
    assert atoms.info == {
        "id": 7,
        "deeprelax_model": "stand-in",
        "deeprelax_uncertainty": 0.02,
        "deeprelax_status": "predicted",
        **WRITTEN,
    }


def test_they_leave_with_the_first_step_of_the_finish(make_atoms, calibrated, tmp_path):
    """They tell how far the prediction is off, and the atoms are elsewhere now."""
    atoms = make_atoms()
    with DeepRelaxOptimizer(atoms, logfile=None, predictor=calibrated, trajectory=tmp_path / "relax.traj") as optimizer:
        optimizer.run(fmax=1e-6, steps=3)
    frames = read(tmp_path / "relax.traj", index=":")
    assert [set(frame.info) & set(ERROR_KEYS) for frame in frames] == [set(), set(ERROR_KEYS), set(), set()]
    assert set(atoms.info) == {"deeprelax_model", "deeprelax_uncertainty", "deeprelax_status"}


@pytest.mark.parametrize("calc", [True, False])
def test_keys_of_an_earlier_run_leave(make_atoms, predictor, calc: bool):
    atoms = make_atoms(calc=calc)
    atoms.info.update(dict.fromkeys(INFO_KEYS, "earlier"), id=7)
    DeepRelaxOptimizer(atoms, logfile=None, predictor=predictor).run(fmax=1e-6, steps=1)
    assert atoms.info == {
        "id": 7,
        "deeprelax_model": "stand-in",
        "deeprelax_uncertainty": 0.02,
        "deeprelax_status": "predicted",
    }
