"""Without a calculator, a prediction that does not trust itself is not made."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import replace

import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read

from deeprelax_ase.errors import ModelError, UncertainPredictionError
from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions
from deeprelax_ase.prediction.status import ERROR_KEYS
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.optimizers.helpers import assert_at, quiet

ERROR = CalibratedError(coordinates=0.31, coordinates_bound=0.6, volume=0.08, volume_bound=0.2, ood=True, novelty=1.7)


@pytest.fixture
def unsure(near, stand_in):
    """A predictor of a crystal unlike those that it knows."""
    return stand_in(near, error=ERROR)


@pytest.fixture
def sure(near, stand_in):
    return stand_in(near, error=replace(ERROR, ood=False))


@pytest.mark.parametrize("cls", [DeepRelaxOptimizer, DeepRelaxPositions])
def test_the_atoms_are_left_where_they_are(make_atoms, unsure, cls, tmp_path):
    atoms = make_atoms(calc=False)
    before = atoms.copy()
    log = io.StringIO()
    optimizer = cls(atoms, logfile=log, predictor=unsure, trajectory=tmp_path / "relax.traj")
    with pytest.warns(UserWarning, match=r"left as it is: .*unlike.*0\.310 Å.*8\.0 %.*Attach a calculator.*max_error"):
        assert optimizer.run() is False
    assert_at(atoms, before)
    assert optimizer.decision.outcome == atoms.info["deeprelax_jump"] == atoms.info["deeprelax_status"] == "refused"
    assert atoms.info["deeprelax_jump_reason"] == optimizer.decision.reason
    assert [atoms.info[key] for key in ERROR_KEYS if key in atoms.info] == [0.31, 0.08, True, 1.7]
    assert optimizer.prediction.error is ERROR  # to be looked at all the same
    assert "jump of stand-in refused: the crystal is unlike" in log.getvalue()
    assert not optimizer.converged()
    assert optimizer.run() is False  # and it is not asked again
    assert len(unsure.asked) == 1
    assert read(tmp_path / "relax.traj").info["deeprelax_status"] == "refused"


def test_it_may_be_kept_in_silence(make_atoms, unsure):
    atoms = make_atoms(calc=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quiet(atoms, unsure, on_uncertain="keep").run() is False
    assert_at(atoms, make_atoms())
    assert atoms.info["deeprelax_status"] == "refused"


def test_it_may_be_an_error(make_atoms, unsure):
    atoms = make_atoms(calc=False)
    optimizer = quiet(atoms, unsure, on_uncertain="raise")
    with pytest.raises(UncertainPredictionError, match="left as it is"):
        optimizer.run()
    assert_at(atoms, make_atoms())
    assert optimizer.nsteps == 0


@pytest.mark.parametrize(
    ("ood", "max_error", "kept"),
    [
        (True, None, False),
        (True, 0.32, True),
        (True, 0.31, True),
        (True, math.inf, True),
        (False, None, True),
        (False, 0.30, False),
        (False, 0.0, False),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_the_limit_may_be_set(make_atoms, near, stand_in, ood, max_error, kept, stored):
    atoms = make_atoms(calc=False)
    if stored:
        atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    predictor = stand_in(near, error=replace(ERROR, ood=ood))
    optimizer = quiet(atoms, predictor, max_error=max_error, on_uncertain="keep")
    assert optimizer.run() is kept
    assert_at(atoms, near if kept else make_atoms())
    assert optimizer.decision.outcome == ("kept" if kept else "refused")
    assert kept or max_error is None or f"0.310 Å is above max_error={max_error:g} Å" in optimizer.decision.reason


def test_an_error_that_is_no_number_is_above_any_limit(make_atoms, near, stand_in):
    predictor = stand_in(near, error=replace(ERROR, coordinates=math.nan))
    assert quiet(make_atoms(calc=False), predictor, max_error=9.0, on_uncertain="keep").run() is False


def test_a_calculator_tells_better(make_atoms, unsure, near):
    atoms = make_atoms()
    optimizer = quiet(atoms, unsure, max_error=0.01)
    optimizer.run(fmax=1e-6, steps=1)
    assert_at(atoms, near)
    assert optimizer.decision.kept


def test_a_calculator_may_come_after_a_refusal(make_atoms, unsure):
    atoms = make_atoms(calc=False)
    optimizer = quiet(atoms, unsure, relax_cell=False, on_uncertain="keep")
    optimizer.run()
    atoms.calc = EMT()
    assert optimizer.run(fmax=0.05)
    assert atoms.info["deeprelax_status"] == "converged"
    assert len(unsure.asked) == 1


def test_errors_that_are_not_calibrated_have_no_limit(make_atoms, predictor, near):
    atoms = make_atoms(calc=False)
    with pytest.raises(ModelError, match=r"stand-in has no calibrated errors .*max_error=0.1.* leave it out"):
        quiet(atoms, predictor, max_error=0.1).run()
    assert_at(atoms, make_atoms())
    assert quiet(atoms, predictor).run() is True


@pytest.mark.parametrize("word", ["ignore", "", None])
def test_other_words_are_refused(make_atoms, predictor, word):
    with pytest.raises(ValueError, match=r"must be one of \('keep', 'warn', 'raise'\)"):
        quiet(make_atoms(), predictor, on_uncertain=word)
