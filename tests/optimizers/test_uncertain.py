"""What comes of a prediction that is not to be trusted, with and without a calculator."""

from __future__ import annotations

import io
import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read

from deeprelax_ase.errors import CalculatorError, ModelError, UncertainPredictionError
from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions
from deeprelax_ase.prediction.status import ERROR_KEYS
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.optimizers.helpers import assert_at, quiet
from tests.stand_in import StandInPredictor

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
    optimizer = cls(atoms, logfile=log, predictor=unsure, trajectory=tmp_path / "relax.traj", on_uncertain="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert optimizer.run() is False
    assert_at(atoms, before)
    assert optimizer.decision.outcome == atoms.info["deeprelax_jump"] == "skipped"
    assert optimizer.judgement.status == atoms.info["deeprelax_status"] == "uncertain"
    reason = "the crystal is unlike those that the model knows, novelty 1.70"
    assert optimizer.judgement.reason == optimizer.decision.reason == reason
    assert atoms.info["deeprelax_reason"] == atoms.info["deeprelax_jump_reason"] == reason
    assert [atoms.info[key] for key in ERROR_KEYS if key in atoms.info] == [0.31, 0.08, True, 1.7]
    assert optimizer.prediction.error is ERROR  # to be looked at all the same
    assert f"jump of stand-in skipped: {reason}; expected error 0.310 Å, volume 8.0 %" in log.getvalue()
    assert not optimizer.converged()
    assert optimizer.run() is False  # and it is not asked again
    assert len(unsure.asked) == 1
    assert read(tmp_path / "relax.traj").info["deeprelax_status"] == "uncertain"


@pytest.mark.parametrize("chosen", [{}, {"on_uncertain": "keep"}, {"on_uncertain": "warn"}])
def test_they_are_moved(make_atoms, unsure, near, chosen):
    atoms, log = make_atoms(calc=False), io.StringIO()
    optimizer = DeepRelaxOptimizer(atoms, logfile=log, predictor=unsure, **chosen)
    said = r"the prediction is uncertain: .*unlike.*expected error 0\.310 Å, volume 8\.0 %.*Finish it"
    with nullcontext() if "keep" in chosen.values() else pytest.warns(UserWarning, match=said):
        assert optimizer.run() is False
    assert_at(atoms, near)
    assert optimizer.decision.kept
    assert atoms.info["deeprelax_status"] == "uncertain"
    assert "uncertain: the crystal is unlike" in log.getvalue()


def test_it_may_be_an_error(make_atoms, unsure):
    atoms = make_atoms(calc=False)
    optimizer = quiet(atoms, unsure, on_uncertain="raise")
    with pytest.raises(UncertainPredictionError, match="the prediction is uncertain"):
        optimizer.run()
    assert_at(atoms, make_atoms())
    assert optimizer.nsteps == 0


def test_a_finish_needs_a_calculator(make_atoms, unsure, near):
    atoms = make_atoms(calc=False)
    with pytest.raises(CalculatorError, match=r"on_uncertain='finish' .* set atoms\.calc"):
        quiet(atoms, unsure, on_uncertain="finish").run()
    assert_at(atoms, make_atoms())
    assert unsure.asked == []
    assert quiet(make_atoms(), unsure, on_uncertain="finish").run(fmax=0.05)


@pytest.mark.parametrize(
    ("ood", "limits", "trusted"),
    [
        (True, {}, False),
        (True, {"max_error": math.inf}, False),
        (False, {}, True),
        (False, {"max_error": 0.31}, True),
        (False, {"max_error": 0.30}, False),
        (False, {"max_error": 0.0}, False),
        (False, {"max_volume_error": 0.08}, True),
        (False, {"max_error": 0.31, "max_volume_error": 0.07}, False),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_the_limits_may_be_set(make_atoms, near, stand_in, ood, limits, trusted, stored):
    atoms = make_atoms(calc=False)
    if stored:
        atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    predictor = stand_in(near, error=replace(ERROR, ood=ood))
    optimizer = quiet(atoms, predictor, on_uncertain="skip", **limits)
    assert optimizer.run() is trusted
    assert_at(atoms, near if trusted else make_atoms())
    assert optimizer.judgement.status == ("accepted" if trusted else "uncertain")
    assert optimizer.decision.outcome == ("kept" if trusted else "skipped")
    assert trusted or ood or "above max_" in optimizer.decision.reason


def test_an_error_that_is_no_number_is_above_any_limit(make_atoms, near, stand_in):
    predictor = stand_in(near, error=replace(ERROR, coordinates=math.nan))
    assert quiet(make_atoms(calc=False), predictor, max_error=9.0, on_uncertain="skip").run() is False


def test_a_calculator_tells_better(make_atoms, unsure, near):
    atoms = make_atoms()
    optimizer = quiet(atoms, unsure, max_error=0.01)
    optimizer.run(fmax=1e-6, steps=1)
    assert_at(atoms, near)
    assert optimizer.decision.kept
    assert atoms.info["deeprelax_status"] == "uncertain"  # forces are not small yet


def test_a_calculator_may_come_afterwards(make_atoms, unsure):
    atoms = make_atoms(calc=False)
    optimizer = quiet(atoms, unsure, relax_cell=False, on_uncertain="skip")
    optimizer.run()
    atoms.calc = EMT()
    assert optimizer.run(fmax=0.05)
    assert atoms.info["deeprelax_status"] == "converged"
    assert len(unsure.asked) == 1


def test_errors_that_are_not_calibrated_have_no_limit(make_atoms, predictor, near):
    atoms = make_atoms(calc=False)
    with pytest.raises(ModelError, match=r"stand-in has no calibrated errors .*max_error.* leave it out"):
        quiet(atoms, predictor, max_error=0.1).run()
    assert_at(atoms, make_atoms())
    assert quiet(atoms, predictor).run() is True


@pytest.mark.parametrize("word", ["ignore", "", None])
def test_other_words_are_refused(make_atoms, predictor, word):
    with pytest.raises(ValueError, match=r"must be one of \('keep', 'warn', 'skip', 'finish', 'raise'\)"):
        quiet(make_atoms(), predictor, on_uncertain=word)


@dataclass
class Leaving:
    """Predicts what another predictor does of a crystal that is left as it is."""

    predictor: object
    model, model_name = StandInPredictor.model, StandInPredictor.model_name

    def predict(self, structure, **options):
        made = self.predictor.predict(structure, **options)
        return replace(made, relaxed=made.initial, unchanged="it would not come nearer")


@pytest.mark.parametrize("calc", [True, False])
def test_where_nothing_moves_there_is_no_jump(make_atoms, stand_in, minimum, calc):
    atoms = make_atoms(calc=calc)
    before = atoms.copy()
    optimizer = quiet(atoms, Leaving(stand_in(minimum)))
    optimizer.run(fmax=1e-9, steps=1)
    assert atoms.info["deeprelax_jump"] == "skipped"
    assert atoms.info["deeprelax_jump_reason"] == "it would not come nearer"
    assert atoms.positions.tobytes() == before.positions.tobytes()
    assert atoms.info["deeprelax_status"] == "unchanged"
    if calc:  # the finish goes on from there
        assert optimizer.run(fmax=0.05, steps=200)
        assert atoms.info["deeprelax_jump"] == "skipped"
