"""Predictions that benchmarks share: a cache is read where it holds these predictions, and nowhere else."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.cached_predictions import Predicted, predict
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.model import Model
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.uncertainty.calibration import FEATURES, Calibration, ErrorFeatures, ErrorModel
from deeprelax_ase.uncertainty.kinds import KINDS
from tests.stand_in import StandInPredictor

CONFIG = DeepRelaxE3Config(channels=4, num_blocks=1, layers_per_block=1, num_basis=6, levels=("PBE", "M3GNet"))


class Counting(Predictor):
    """Counts the crystals that it is asked for."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.counts: list[int] = []

    @property
    def asked(self) -> int:
        return sum(self.counts)

    def predict_many(self, structures, **options):
        self.counts.append(len(structures))
        return super().predict_many(structures, **options)


def make_predictor(*, sha256: str = "abc", level: str = "PBE", **options) -> Counting:
    torch.manual_seed(3)
    networks = torch.nn.ModuleList(DeepRelaxE3(CONFIG) for _ in range(2))
    for parameter in networks.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    words = dict.fromkeys(("description", "level_of_theory", "training_data", "split"), "")
    card = ModelCard(
        name="small",
        elements=list(range(1, 95)),
        members=2,
        parameters=0,
        config=CONFIG.to_dict(),
        architecture="DeepRelaxE3",
        sha256=sha256,
        level=level,
        **words,
    )
    return Counting(Model(card, networks), device="cpu", **options)


@pytest.fixture
def crystals() -> list[Crystal]:
    return [Crystal.of(bulk("NaCl", "rocksalt", a=5.5)), Crystal.of(bulk("Cu")), Crystal.of(bulk("Mg"))]


@pytest.fixture
def cache(tmp_path: Path, crystals: list[Crystal]) -> Path:
    """Predictions by the default predictor of this file."""
    predict(make_predictor(), crystals, tmp_path / "a folder" / "kept")
    return tmp_path / "a folder" / "kept"


def assert_equal(a: Predicted, b: Predicted) -> None:
    """But for the rounding of other batches."""
    for one, other in zip(a.crystals, b.crystals, strict=True):
        np.testing.assert_array_equal(one.numbers, other.numbers)
        np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.cell, other.cell, rtol=0, atol=1e-6)
    np.testing.assert_allclose(a.uncertainty, b.uncertainty, rtol=1e-6)
    np.testing.assert_allclose(a.features, b.features, rtol=1e-5, atol=1e-6)


def test_what_is_kept_of_a_prediction(crystals):
    predictor = make_predictor()
    predicted = predict(predictor, crystals, atoms_per_batch=1)
    names = [f.name for f in fields(ErrorFeatures)]
    for g, crystal in enumerate(crystals):
        alone = predictor.predict(crystal)
        np.testing.assert_allclose(predicted.crystals[g].positions, alone.relaxed.positions, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(predicted.crystals[g].cell, alone.relaxed.cell)
        assert predicted.uncertainty[g] == alone.uncertainty.total
        assert predicted.features[g].tolist() == [getattr(alone.features, name) for name in names]
    chosen = predicted.error_features(np.array([True, False, True]))
    for k, name in enumerate(names):
        np.testing.assert_array_equal(getattr(chosen, name), predicted.features[[0, 2], k])


def test_cache_is_read(cache: Path, crystals):
    predictor = make_predictor()
    kept = predict(predictor, crystals, cache)
    assert predictor.asked == 0
    assert_equal(kept, predict(predictor, crystals))
    assert predictor.asked == 3


@pytest.mark.parametrize(
    "options",
    [
        {"sha256": "abd"},
        {"level": "M3GNet"},
        {"recycles": 2},
        {"keep_symmetry": False},
        {"members": 1},
        {"dtype": "float64"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_another_predictor_does_not_read_it(cache: Path, crystals, options: dict):
    predictor = make_predictor(**options)
    found = predict(predictor, crystals, cache)
    assert predictor.asked == 3
    assert_equal(found, predict(make_predictor(**options), crystals))
    predict(predictor, crystals, cache)  # the cache holds the new ones now
    assert predictor.asked == 3


@pytest.mark.parametrize("change", ["positions", "cell", "numbers", "kept"])
def test_it_is_not_read_for_other_crystals(cache: Path, crystals, change: str):
    first, *others = crystals
    if change == "positions":
        crystals = [first.with_geometry(first.positions + 1e-5, first.cell), *others]
    elif change == "cell":
        crystals = [first.with_geometry(first.positions, first.cell * 1.01), *others]
    elif change == "numbers":
        crystals = [Crystal(first.numbers + 1, first.positions, first.cell), *others]
    kept = np.array([change == "kept", False, False])
    predictor = make_predictor()
    found = predict(predictor, crystals, cache, cell_kept=kept)
    assert predictor.asked == 1  # for the others it is read
    assert_equal(found, predict(predictor, crystals, cell_kept=kept))


def test_it_is_read_for_fewer_crystals_in_another_order(cache: Path, crystals):
    predictor = make_predictor()
    found = predict(predictor, crystals[:0:-1], cache)
    assert predictor.asked == 0
    assert_equal(found, predict(predictor, crystals[:0:-1]))


def test_crystals_that_the_model_leaves_alone_stay(cache: Path, crystals):
    """As the predictor leaves them, whoever made the file."""
    ones = ((1.0,),) * len(KINDS)
    law = ErrorModel(0.0, (0.0,) * len(FEATURES), 1.0, ones, ones)  # of an error of 1 Å, and of the volume
    predictor = make_predictor()
    predictor.calibration = Calibration(1, law, law, (np.inf,) * len(FEATURES))
    made = list(predictor.predict_many(crystals))
    left = [bool(one.unchanged) for one in made]
    assert any(left)
    found = predict(predictor, crystals, cache)
    for one, crystal in zip(made, found.crystals, strict=True):
        np.testing.assert_allclose(crystal.positions, one.relaxed.positions, rtol=0, atol=1e-6)
    assert [c is end for c, end in zip(crystals, found.crystals, strict=True)] == left
    assert predictor.asked == len(crystals)  # by predict_many above


def test_a_crystal_that_fails_is_named(crystals, tmp_path: Path):
    helium = Crystal(np.full(len(crystals[1]), 118), crystals[1].positions, crystals[1].cell)
    with pytest.raises(RuntimeError, match=r"crystal 1 failed: .*not trained on Og"):
        predict(make_predictor(), [crystals[0], helium], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_model_without_features_of_error(crystals):
    class WithoutFeatures(StandInPredictor):
        def predict_many(self, structures, *, atoms_per_batch=None, bonds=True):
            return super().predict_many(structures)

    stand_in = WithoutFeatures()
    stand_in.model = make_predictor().model
    stand_in.settings, stand_in.leave_within_error = None, False
    stand_in.keep_symmetry = True
    stand_in.dtype = torch.float32
    predicted = predict(stand_in, crystals)
    assert np.isnan(predicted.features).all()
    assert predicted.features.shape == (3, len(fields(ErrorFeatures)))


def test_cells_that_are_kept(crystals, tmp_path):
    """Each as asked, and a cache of moving cells is not read for them."""
    kept = np.array([True, False, True])
    predicted = predict(make_predictor(), crystals, tmp_path / "kept", cell_kept=kept)
    for start, end, cell_kept in zip(crystals, predicted.crystals, kept, strict=True):
        assert np.array_equal(start.cell, end.cell) == cell_kept
    moving = predict(make_predictor(), crystals, tmp_path / "kept")
    assert not any(np.array_equal(s.cell, e.cell) for s, e in zip(crystals, moving.crystals, strict=True))


def test_refused_crystals_stay_where_that_is_allowed(crystals, tmp_path: Path):
    apart = Crystal(crystals[0].numbers, crystals[0].positions, np.diag([30.0, 30.0, 30.0]))
    with pytest.raises(RuntimeError, match="crystal 1 failed"):
        predict(make_predictor(), [crystals[0], apart])
    predicted = predict(make_predictor(), [crystals[0], apart], tmp_path, allow_refused=True)
    np.testing.assert_array_equal(predicted.crystals[1].positions, apart.positions)
    assert np.isnan(predicted.features[1]).all()
    assert np.isfinite(predicted.features[0]).all()
    with pytest.raises(RuntimeError, match="crystal 1 failed"):
        predict(make_predictor(), [crystals[0], apart], tmp_path)
