"""What benchmarks/accuracy.py reports, against the package's own evaluation."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import accuracy
import numpy as np
import pytest

from deeprelax_ase.evaluation.assessment import assess
from deeprelax_ase.evaluation.cached_predictions import Predicted
from deeprelax_ase.uncertainty.calibration import ErrorFeatures
from tests.pairs import make_pairs, write_pairs


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that leaves crystals as they are."""

    def predict(predictor, crystals, cache=None, **_) -> Predicted:
        count = len(crystals)
        features, energies = np.zeros((count, len(fields(ErrorFeatures)))), np.full((count, 2), np.nan)
        return Predicted(list(crystals), np.arange(count, dtype=float), features, energies)

    monkeypatch.setattr(accuracy, "predict", predict)


@pytest.mark.usefixtures("still", "shipped")
@pytest.mark.parametrize("labelled", [0, 4])
def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labelled: int) -> None:
    pairs, out = make_pairs(6), tmp_path / "out.json"
    file = write_pairs(tmp_path / "some.npz", pairs, dft=np.arange(6) < labelled, split=np.full(6, 2))
    monkeypatch.setattr("sys.argv", ["accuracy.py", str(file), "--no-match", "--json", str(out)])
    accuracy.main()
    results = json.loads(out.read_text(encoding="utf-8"))["results"]
    found = assess(pairs, pairs.fractional_initial, pairs.cell_initial, uncertainty=np.arange(6.0), match=False)
    parts = {"some, all": np.arange(6)} | ({"some, DFT-labelled": np.arange(labelled)} if labelled else {})
    assert results.keys() == parts.keys()
    for name, chosen in parts.items():
        summary = found.take(chosen).summary()
        for metric in accuracy.METRICS:
            row = results[name][metric]
            assert row["predicted"] == pytest.approx(summary[metric]["unrelaxed"], rel=1e-9)
            assert row["ratio"] == pytest.approx(1)
        rank = results[name]["uncertainty_rank_correlation"]["predicted"]
        assert rank == pytest.approx(summary["uncertainty_rank_correlation"]["predicted"])
        assert results[name]["crystals"]["predicted"] == len(chosen)
        assert sum(row["crystals"] for row in results[name]["by_largest_displacement"]) == len(chosen)
        assert results[name]["already_relaxed_moves"]["predicted"] == pytest.approx(0, abs=1e-12)
