"""The shipped weights against the accuracy that the README states, on crystals that they have not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeprelax_ase.data import Pairs, crystals_of, load_pairs
from deeprelax_ase.metrics import coordinate_mae, volume_error
from deeprelax_ase.prediction import Prediction
from deeprelax_ase.predictor import Predictor


def ratios(pairs: Pairs) -> tuple[float, float]:
    """Mean volume and coordinate errors of the predictions, as shares of the unrelaxed crystals' errors."""
    predictions = list(Predictor(device="cpu").predict_many(crystals_of(pairs, "initial")))
    assert all(isinstance(p, Prediction) for p in predictions)
    cell = torch.from_numpy(np.stack([p.relaxed.cell for p in predictions]))
    scaled = torch.from_numpy(np.concatenate([p.relaxed.scaled_positions for p in predictions]))

    def coordinates(scaled: torch.Tensor) -> torch.Tensor:
        return coordinate_mae(scaled, pairs.scaled_relaxed, pairs.cell_relaxed, pairs.batch)

    volume = volume_error(cell, pairs.cell_relaxed).mean() / volume_error(pairs.cell_initial, pairs.cell_relaxed).mean()
    return float(volume), float(coordinates(scaled).mean() / coordinates(pairs.scaled_initial).mean())


def read(shared, name: str) -> Pairs:
    file = shared / "data" / f"pairs_{name}.npz"
    if not file.exists():
        pytest.skip(f"{file} is absent")
    return load_pairs(file)


def test_unseen_chemistry(shared):
    volume, coordinates = ratios(read(shared, "universal").in_split("test", dft_only=True))
    assert volume < 0.26  # 0.23 measured; 0.35 is the aim
    assert coordinates < 0.70  # 0.65 measured; 0.80 is the aim


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("universal", (0.31, 0.85)), ("xmno", (0.22, 0.80))])
def test_all_labels(shared, name, most):
    volume, coordinates = ratios(read(shared, name).in_split("test"))
    assert volume < most[0]
    assert coordinates < most[1]


def test_seen_formulas(shared):
    volume, coordinates = ratios(read(shared, "xmno").in_split("test", dft_only=True))
    assert volume < 0.17  # 0.13 measured
    assert coordinates < 0.55  # 0.49 measured
