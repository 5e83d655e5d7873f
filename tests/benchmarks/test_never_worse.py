"""What benchmarks/never_worse.py counts as further off, unchanged and accepted."""

from __future__ import annotations

from pathlib import Path

import never_worse
import numpy as np
import pytest

from deeprelax_ase.evaluation.calibrate import predict_split, uncalibrated
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.uncertainty.calibration import Calibration
from tests.pairs import make_pairs, write_pairs


@pytest.mark.usefixtures("shipped")
def test_crystals_that_are_left_are_told_as_predictions_leave_them(tmp_path: Path) -> None:
    file = write_pairs(tmp_path / "pairs_universal.npz", make_pairs(8), split=np.full(8, 2), dft=np.ones(8, dtype=bool))
    model = load_model("DeepRelax-PBE")
    raw, predictor = Predictor(uncalibrated(model), device="cpu"), Predictor(model, device="cpu")
    split = predict_split(raw, [file], "test")
    calibration = Calibration.of_card(model.card.calibration, model.card.recycles)
    assert calibration is not None
    found = never_worse.measure(split, calibration)
    starts = never_worse.crystals_of(split.pairs, "initial")
    left = [bool(made.unchanged) for made in predictor.predict_many(starts)]
    assert found["left"].tolist() == left
    row = never_worse.row(found)
    assert row["crystals"] == len(split.pairs)
    assert row["unchanged"] == np.mean(left)
    assert row["worse"] == np.mean(found["after"] > found["before"] + never_worse.ZERO)
