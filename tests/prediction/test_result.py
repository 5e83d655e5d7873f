"""The record of a result, and what is derived from it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from ase.build import bulk

from deeprelax_ase import Crystal, Prediction, __version__
from deeprelax_ase.errors import StructureError
from deeprelax_ase.prediction.judgement import Judgement
from deeprelax_ase.prediction.record import OF_ENERGY, OF_ERROR
from deeprelax_ase.prediction.result import COLUMNS, RelaxationResult, schema
from deeprelax_ase.prediction.status import ERROR_KEYS, INFO_KEYS, JumpDecision
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.stand_in import StandInPredictor

pa = pytest.importorskip("pyarrow")

ERROR = CalibratedError(
    coordinates=0.03,
    coordinates_bound=0.08,
    volume=0.02,
    volume_bound=0.05,
    ood=True,
    novelty=1.5,
    odds_worse=0.2,
    odds_margin=3.0,
)


@pytest.fixture
def prediction() -> Prediction:
    made = StandInPredictor(error=ERROR).predict(bulk("NaCl", "rocksalt", a=5.6, cubic=True))
    return replace(made, timings={"graph": 0.25, "network": 0.5})


@pytest.fixture
def finished(prediction) -> RelaxationResult:
    relaxed = prediction.initial.with_geometry(prediction.initial.positions * 0.98, prediction.initial.cell * 0.98)
    return RelaxationResult.finished(
        prediction.initial,
        relaxed,
        converged=True,
        prediction=prediction,
        decision=JumpDecision("kept", "energy falls"),
        energy=-27.0,
        steps=12,
        force_calls=13,
        calculator="m3gnet",
    )


def assert_same(one: RelaxationResult, other: RelaxationResult) -> None:
    rows = one.columns(), other.columns()
    assert list(rows[0]) == list(rows[1]) == list(COLUMNS)
    for name in COLUMNS:
        np.testing.assert_array_equal(rows[0][name], rows[1][name], err_msg=name)


def test_a_prediction(prediction):
    result = RelaxationResult.of(prediction)
    doubt = "the crystal is unlike those that the model knows, novelty 1.50"
    assert (result.status, result.reason, result.ok) == ("uncertain", doubt, False)
    assert (result.error, result.error_bound, result.ood) == (0.03, 0.08, True)
    assert (result.volume_error, result.volume_error_bound) == (0.02, 0.05)
    assert (result.novelty, result.odds_worse, result.odds_judged) == (1.5, 0.2, pytest.approx(0.6 / 1.4))
    assert (result.model, result.version, result.seconds) == ("stand-in", __version__, 0.75)
    assert result.volume_change == prediction.volume_change
    assert result.relaxed is prediction.relaxed
    assert result.initial is prediction.initial
    assert result.energy is result.jump is result.decision is None
    assert result.info == prediction.info
    assert result.unchanged is False
    with pytest.raises(FrozenInstanceError):
        result.status = "converged"


def test_a_prediction_that_is_trusted(prediction):
    result = RelaxationResult.of(prediction, Judgement("accepted"))
    assert (result.status, result.reason, result.ok) == ("accepted", None, True)
    left = replace(prediction, relaxed=prediction.initial, unchanged="it would move by little")
    result = RelaxationResult.of(left, Judgement("unchanged", left.unchanged))
    assert (result.status, result.reason, result.ok) == ("unchanged", left.unchanged, True)
    assert (result.unchanged, result.volume_change) == (True, 0.0)


def test_an_uncertain_prediction_may_be_skipped(prediction):
    result = RelaxationResult.of(prediction, skip=True)
    assert (result.status, result.unchanged, result.volume_change) == ("uncertain", True, 0.0)
    assert result.relaxed is prediction.initial
    assert result.error == 0.03
    kept = RelaxationResult.of(prediction, Judgement("accepted"), skip=True)
    assert kept.relaxed is prediction.relaxed


@pytest.mark.parametrize("outcome", ["kept", "rejected"])
@pytest.mark.parametrize("converged", [True, False])
def test_a_jump_that_was_all(prediction, outcome, converged):
    result = RelaxationResult.finished(
        prediction.initial,
        prediction.relaxed if outcome == "kept" else prediction.initial,
        converged=converged,
        prediction=prediction,
        judgement=prediction.judgement,
        decision=JumpDecision(outcome, "energy decides"),
        alone=True,
    )
    if converged:
        assert result.status == "converged"
    elif outcome == "kept":
        assert (result.status, result.reason, result.error) == ("uncertain", prediction.judgement.reason, 0.03)
    else:
        assert (result.status, result.reason, result.error) == ("jump rejected", "energy decides", None)


def test_what_belongs_to_a_prediction_leaves_with_it(finished, prediction):
    assert finished.status == "converged"
    assert finished.decision == JumpDecision("kept", "energy falls")
    assert all(getattr(finished, name) is None for name in ("unchanged", *OF_ERROR, *OF_ENERGY))
    assert not set(ERROR_KEYS) & set(finished.info)
    assert finished.uncertainty == prediction.uncertainty.total  # of the jump, which was made
    assert finished.volume_change == pytest.approx(0.98**3 - 1)
    assert finished.info["deeprelax_jump_reason"] == "energy falls"


def test_a_start_that_had_converged_already(prediction):
    initial = prediction.initial
    result = RelaxationResult.finished(initial, initial, converged=False, model="a model", steps=0)
    assert (result.status, result.ok, result.volume_change, result.uncertainty) == ("not converged", False, 0.0, None)


def test_a_failure(prediction):
    result = RelaxationResult.unrelaxed("two\n lines", prediction.initial, model="a model")
    assert (result.status, result.reason, result.ok) == ("failed", "two lines", False)
    assert result.relaxed is prediction.initial
    assert result.volume_change is None
    assert result.info == {
        "deeprelax_status": "failed",
        "deeprelax_reason": "two lines",
        "deeprelax_model": "a model",
    }
    refused = RelaxationResult.unrelaxed(StructureError("odd"), prediction.initial)
    assert (refused.status, refused.reason, refused.ok) == ("refused", "odd", False)
    unread = RelaxationResult.unrelaxed("no such file")
    assert unread.columns()["positions"] is None
    with pytest.raises(ValueError, match="no crystal: no such file"):
        unread.to_atoms()


def test_columns_of_a_table(finished, prediction):
    results = [finished, RelaxationResult.of(prediction), RelaxationResult.unrelaxed("no such file")]
    table = pa.Table.from_pylist([result.columns() for result in results], schema=schema())
    assert table.column_names == list(COLUMNS)
    assert table.schema.field("numbers").type == pa.list_(pa.uint8())
    assert table.schema.field("ood").type == pa.bool_()
    assert table.schema.field("force_calls").type == pa.int64()
    for result, row in zip(results, table.to_pylist(), strict=True):
        assert_same(RelaxationResult.from_columns({"index": 0, **row}), result)
    assert all(column.meaning for column in COLUMNS.values())


def test_columns_that_a_table_lacks():
    read = RelaxationResult.from_columns({"status": "failed"})
    assert (read.status, read.relaxed, read.model, read.version) == ("failed", None, None, None)


def test_atoms(prediction, finished):
    for result in (RelaxationResult.of(prediction), finished, RelaxationResult.unrelaxed("odd", prediction.initial)):
        template = prediction.initial.to_atoms()
        template.info.update(dict.fromkeys(INFO_KEYS, "earlier"), id="mp-1")
        atoms = result.to_atoms(template)
        assert atoms.info == {"id": "mp-1", **result.info}
        np.testing.assert_array_equal(atoms.positions, result.relaxed.positions)
        read = RelaxationResult.from_atoms(atoms, initial=result.initial)
        assert read.info == result.info
        assert read.volume_change == pytest.approx(result.volume_change) or read.status == "failed"
        np.testing.assert_array_equal(read.relaxed.positions, atoms.positions)


def test_atoms_that_do_not_tell():
    atoms = bulk("Cu")
    assert RelaxationResult.from_atoms(atoms).status == "unknown"
    atoms.info["deeprelax_model"] = "a model"
    assert RelaxationResult.from_atoms(atoms).status == "unknown"
    atoms.cell[:] = 0
    assert RelaxationResult.from_atoms(atoms, initial=Crystal.of(bulk("Cu"))).volume_change is None
