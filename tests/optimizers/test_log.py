"""What an optimizer writes into ``atoms.info`` about its jump, the errors of it, and how things stand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ase.io import read, write

from deeprelax_ase.errors import ModelError
from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.prediction.judgement import TrustLimits
from deeprelax_ase.prediction.status import ERROR_KEYS, INFO_KEYS
from deeprelax_ase.uncertainty.calibration import CalibratedError

KEPT_UNDER_EMT = "energy -0.1305 eV/atom, fmax 2.722 -> 0.475 eV/Å"
ERROR = CalibratedError(
    coordinates=0.03,
    coordinates_bound=0.08,
    volume=0.02,
    volume_bound=0.05,
    ood=False,
    novelty=0.4,
    odds_worse=0.02,
)
WRITTEN = dict(zip(ERROR_KEYS, (0.03, 0.02, False, 0.4, 0.02, 0.02), strict=True))


def of_the_jump(*, calc: bool) -> dict:
    """All but the errors."""
    return {
        "deeprelax_model": "stand-in",
        "deeprelax_uncertainty": 0.02,
        "deeprelax_status": "accepted",
        "deeprelax_jump": "kept",
        "deeprelax_jump_reason": KEPT_UNDER_EMT if calc else "no calculator to check it, no finish",
        **({"deeprelax_calculator": "emt"} if calc else {}),
    }


@pytest.fixture
def calibrated(stand_in, near):
    """A predictor that knows its error."""
    return stand_in(near, error=ERROR)


@pytest.mark.parametrize("calc", [True, False])
def test_errors_of_the_jump(make_atoms, calibrated, calc: bool):
    atoms = make_atoms(calc=calc)
    atoms.info["id"] = 7
    DeepRelaxOptimizer(atoms, logfile=None, predictor=calibrated).run(fmax=1e-6, steps=1)
    assert atoms.info == {"id": 7, **of_the_jump(calc=calc), **WRITTEN}


def test_they_leave_with_the_first_step_of_the_finish(make_atoms, calibrated, tmp_path):
    """They tell how far the prediction is off, and the atoms are elsewhere now."""
    atoms = make_atoms()
    with DeepRelaxOptimizer(atoms, logfile=None, predictor=calibrated, trajectory=tmp_path / "relax.traj") as optimizer:
        optimizer.run(fmax=1e-6, steps=3)
    frames = read(tmp_path / "relax.traj", index=":")
    assert [set(frame.info) & set(ERROR_KEYS) for frame in frames] == [set(), set(ERROR_KEYS), set(), set()]
    assert set(atoms.info) == set(of_the_jump(calc=True))


@pytest.mark.parametrize("calc", [True, False])
def test_keys_of_an_earlier_run_leave(make_atoms, predictor, calc: bool):
    atoms = make_atoms(calc=calc)
    atoms.info.update(dict.fromkeys(INFO_KEYS, "earlier"), id=7)
    DeepRelaxOptimizer(atoms, logfile=None, predictor=predictor).run(fmax=1e-6, steps=1)
    assert atoms.info == {"id": 7, **of_the_jump(calc=calc)}


def test_they_leave_where_the_jump_converges(make_atoms, calibrated):
    """What a calculator has converged is not the model's word any more."""
    atoms = make_atoms()
    assert DeepRelaxOptimizer(atoms, logfile=None, predictor=calibrated).run(fmax=1.0, steps=1)
    assert atoms.info == {**of_the_jump(calc=True), "deeprelax_status": "converged"}


def test_a_prediction_is_judged_once_by_what_the_optimizer_was_told(make_atoms, predictor):
    """Its own limits do not matter: these ones cannot even be held against it."""
    atoms = make_atoms(calc=False)
    prediction = replace(predictor.predict(atoms), limits=TrustLimits(max_error=0.1))
    with pytest.raises(ModelError):
        prediction.judgement  # noqa: B018
    assert DeepRelaxOptimizer(atoms, logfile=None, predictor=predictor, prediction=prediction).run()
    assert atoms.info == of_the_jump(calc=False)


@pytest.mark.parametrize("relax_cell", [True, False])
def test_info_survives_files(make_atoms, calibrated, tmp_path, relax_cell: bool):
    atoms = make_atoms(calc=False)
    DeepRelaxOptimizer(atoms, logfile=None, predictor=calibrated, relax_cell=relax_cell).run()
    write(tmp_path / "relaxed.extxyz", atoms)
    assert read(tmp_path / "relaxed.extxyz").info == atoms.info
