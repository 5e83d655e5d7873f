"""Calibration from files of pairs to the card, with a small untrained network."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.evaluation import calibrate
from deeprelax_ase.evaluation.calibrate import coverage, labels_for, thinned
from deeprelax_ase.evaluation.metrics import crystal_errors
from deeprelax_ase.evaluation.novelty import makers_for
from deeprelax_ase.evaluation.predicting import Predicted, predict
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import save_model
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.uncertainty.calibration import BULK, FEATURES, KINDS, Calibration, ErrorModel

SIZE = 120  # pairs, a third in each split
CONFIG = DeepRelaxE3Config(channels=4, num_blocks=1, layers_per_block=1, num_basis=6, levels=("PBE", "M3GNet"))


def write_pairs(pairs: RelaxationPairs, file: Path) -> Path:
    """``pairs`` as the data files hold them; M3GNet's minima are 2 % larger, and the first pair has none."""
    np.savez(
        file,
        numbers=pairs.numbers.numpy().astype(np.uint8),
        offsets=np.concatenate([[0], pairs.counts.cumsum(0).numpy()]).astype(np.int32),
        frac_initial=pairs.fractional_initial.numpy(),
        frac_relaxed=pairs.fractional_relaxed.numpy(),
        frac_m3gnet=pairs.fractional_relaxed.numpy(),
        cell_initial=pairs.cell_initial.numpy(),
        cell_relaxed=pairs.cell_relaxed.numpy(),
        cell_m3gnet=pairs.cell_relaxed.numpy() * 1.02,
        m3gnet_ok=np.arange(len(pairs)) > 0,
        dft=pairs.dft.numpy(),
        split=pairs.split.numpy().astype(np.uint8),
    )
    return file


@pytest.fixture
def file(pairs_of, tmp_path: Path) -> Path:
    pairs = pairs_of(SIZE)
    return write_pairs(replace(pairs, split=torch.arange(SIZE) // 2 % 3), tmp_path / "cscl.npz")


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """Card of a small model that was never calibrated."""
    torch.manual_seed(3)
    networks = [DeepRelaxE3(CONFIG).eval() for _ in range(2)]
    for network in networks:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    words = dict.fromkeys(("description", "level_of_theory", "training_data", "split"), "none")
    for level in CONFIG.levels:
        save_model(
            networks,
            tmp_path,
            f"to-{level}",
            level=level,
            elements=[17, 55],
            recycles=2,
            weights="both.safetensors",
            **words,
        )
    return tmp_path / "to-PBE.json"


@pytest.fixture
def command(monkeypatch):
    """Runs ``python -m deeprelax_ase.evaluation.calibrate``."""
    pytest.importorskip("crepes")

    def run(*arguments) -> None:
        monkeypatch.setattr(sys, "argv", ["calibrate", *map(str, arguments)])
        calibrate.main()

    return run


# Parts


def test_labels_are_those_of_the_level():
    assert [labels_for(level) for level in ("PBE", "OAM", "M3GNet", "")] == ["relaxed", "relaxed", "m3gnet", "relaxed"]


@pytest.mark.parametrize(("every", "kept"), [(1, range(12)), (5, [0, 3, 5, 10, 11]), (100, [0, 3, 11])])
def test_thinning_keeps_what_dft_relaxed(pairs_of, every: int, kept):
    pairs = pairs_of(12)
    pairs.dft[[3, 11]] = True
    assert torch.equal(thinned(pairs, every).cell_initial, pairs.cell_initial[list(kept)])


def relaxed_as(pairs: RelaxationPairs, *, scale: float = 1.0) -> Predicted:
    """Predictions of the relaxed crystals themselves, ``scale`` times as long; all features 0.01, of bulk."""
    crystals = [c.with_geometry(c.positions * scale, c.cell * scale) for c in crystals_of(pairs, "relaxed")]
    features = np.full((len(pairs), len(FEATURES) + 1), 0.01)
    features[:, -1] = BULK
    return Predicted(crystals, np.zeros(len(pairs)), features)


def test_coverage_of_all_and_of_groups(pairs_of):
    pairs = pairs_of(40)
    flat, factors = (0.0,) * len(FEATURES), (2.0,) * len(KINDS)
    always = ErrorModel(intercept=np.log(0.02), exponents=flat, ceiling=1e9, factors=factors)
    predicted = relaxed_as(pairs, scale=1.01)
    predicted = replace(predicted, crystals=[*predicted.crystals[:30], *relaxed_as(pairs, scale=1.03).crystals[30:]])
    last = np.arange(40) >= 30
    limits = (5.0,) * len(FEATURES)
    report = coverage(Calibration(1, always, always, limits), predicted, pairs, {"last": last, "few": last & False})
    assert set(report) == {"all", "last"}
    assert (report["all"]["crystals"], report["last"]["crystals"]) == (40, 10)
    assert report["all"]["volume coverage"] == 0.75  # 3 % are below 4 %, 9 % are not
    assert report["last"]["volume coverage"] == 0
    assert report["all"]["volume error"] == pytest.approx(0.75 * 0.030301 + 0.25 * 0.092727)
    assert report["last"]["volume expected"] == pytest.approx(0.02)
    assert report["all"]["coordinates coverage"] == 1
    assert report["all"]["ood"] == 0
    kept = replace(pairs, fixed_cell=torch.arange(40) < 25)  # whose volumes are not off
    report = coverage(Calibration(1, always, always, limits), predicted, kept, {"first": ~last & (np.arange(40) < 25)})
    assert report["all"]["volume coverage"] == pytest.approx(5 / 15)
    assert not [name for name in report["first"] if name.startswith("volume")]


# The command


def test_calibration_is_written_into_the_card(command, card: Path, file: Path, tmp_path: Path):
    before = ModelCard.read(card)
    command(file, "--model", card, "--write", "--json", tmp_path / "coverage.json")
    after = ModelCard.read(card)
    assert replace(after, calibration={}, novelty={}) == before
    assert set(after.calibration) == {"2"}
    calibration = Calibration.of_card(after.calibration, 2)
    report = json.loads((tmp_path / "coverage.json").read_text())
    assert set(report) == {"validation", "test"}
    assert {"all", "cscl", "kind: bulk"} <= set(report["test"])
    assert report["validation"]["all"]["crystals"] == SIZE // 3
    assert report["validation"]["all"]["volume coverage"] >= 0.9
    assert report["test"]["all"]["volume coverage"] > 0.7
    predictor = Predictor(card, device="cpu")
    assert predictor.calibration == calibration
    assert predictor.predict(crystals_of(load_pairs(file), "initial")[0]).error.novelty is not None
    assert after.novelty["crystals"] == SIZE // 3
    assert {"slab", "wire", "vacancy"} <= set(after.novelty["kinds"])


def test_card_stays_unless_asked(command, card: Path, file: Path, capsys):
    before = card.read_bytes()
    command(file, "--model", card)
    assert card.read_bytes() == before
    assert "errors below their 90% bounds" in capsys.readouterr().out


def test_options_reach_the_predictions(command, card: Path, file: Path, tmp_path: Path):
    command(file, "--model", card, "--write", "--recycles", 1, "--thin", 2, "--json", tmp_path / "coverage.json")
    assert set(ModelCard.read(card).calibration) == {"1"}
    assert Predictor(card, device="cpu").calibration is None  # the card's two recycles have none
    assert json.loads((tmp_path / "coverage.json").read_text())["test"]["all"]["crystals"] == SIZE // 6


def test_numbers_of_recycles_are_calibrated_side_by_side(command, card: Path, file: Path, tmp_path: Path):
    command(file, "--model", card, "--write", "--recycles", 1, 2, "--novelty", 0, "--json", tmp_path / "coverage.json")
    one, two = (Predictor(card, device="cpu", recycles=recycles).calibration for recycles in (1, 2))
    assert one is not None
    assert two is not None
    assert one.coordinates != two.coordinates
    assert Predictor(card, device="cpu").calibration == two
    assert Predictor(card, device="cpu", one_shot="fast").calibration is None  # one network of two
    told = json.loads((tmp_path / "coverage.json").read_text())  # of the card's own number
    command(file, "--model", card, "--json", tmp_path / "alone.json")
    assert told == json.loads((tmp_path / "alone.json").read_text())


def test_m3gnet_is_calibrated_on_its_own_minima(command, card: Path, file: Path, tmp_path: Path):
    m3gnet = card.with_name("to-M3GNet.json")
    command(file, "--model", m3gnet, "--write", "--json", tmp_path / "coverage.json")
    row = json.loads((tmp_path / "coverage.json").read_text())["validation"]["all"]
    pairs = load_pairs(file, labels="m3gnet").in_split("validation")
    predicted = predict(Predictor(m3gnet, device="cpu"), crystals_of(pairs, "initial"))  # which leaves some as they are
    assert row["crystals"] == len(pairs)
    assert row["volume error"] == pytest.approx(crystal_errors(pairs, predicted.crystals)["relative_volume"].mean())


def test_predictions_are_kept(command, card: Path, file: Path, tmp_path: Path, monkeypatch):
    command(file, "--model", card, "--cache", tmp_path / "cache", "--json", tmp_path / "first.json")
    assert {f.name for f in (tmp_path / "cache").iterdir()} == {
        "to-PBE-2-cscl-validation.npz",
        "to-PBE-2-cscl-test.npz",
    }
    monkeypatch.setattr(Predictor, "predict_many", lambda *_, **__: pytest.fail("predicted again"))
    command(file, "--model", card, "--cache", tmp_path / "cache", "--json", tmp_path / "second.json")
    assert (tmp_path / "first.json").read_text() == (tmp_path / "second.json").read_text()


def test_too_few_pairs_are_refused(command, card: Path, pairs_of, tmp_path: Path, capsys):
    few = write_pairs(replace(pairs_of(12), split=torch.arange(12) % 3), tmp_path / "few.npz")
    with pytest.raises(SystemExit):
        command(few, "--model", card, "--write")
    assert "4 pairs for validation are too few" in capsys.readouterr().err
    assert ModelCard.read(card).calibration == {}


def test_too_few_to_test_on_are_left_out(command, card: Path, pairs_of, tmp_path: Path, capsys):
    few = write_pairs(replace(pairs_of(40), split=torch.tensor([1] * 34 + [2] * 6)), tmp_path / "few.npz")
    command(few, "--model", card, "--write")
    shown = capsys.readouterr().out
    assert "validation, 2 recycles: errors below" in shown
    assert "test, 2 recycles: errors below" not in shown
    assert ModelCard.read(card).calibration


def test_novelty_is_left_out_without_training_pairs(command, card: Path, pairs_of, tmp_path: Path, capsys):
    file = write_pairs(replace(pairs_of(60), split=torch.arange(60) % 2 + 1), tmp_path / "untaught.npz")
    command(file, "--model", card, "--write")
    assert "novelty is not told" in capsys.readouterr().err
    assert ModelCard.read(card).novelty == {}


def test_kinds_that_were_taught_are_no_outliers(pairs_of):
    pairs = pairs_of(6)
    assert {"slab", "layer", "vacancy", "dopant"} <= set(makers_for(pairs, [3, 9]))
    pairs.kind[:] = torch.tensor([0, 7, 9, 0, 0, 4])
    left = set(makers_for(pairs, [3, 9]))
    assert "slab" in left
    assert not {"layer", "vacancy", "dopant"} & left


def test_odds_are_fitted_to_further_pairs_too(command, card: Path, file: Path, tmp_path: Path):
    """Those of cells that are kept count as such: of a model whose atoms hardly move it tells the odds."""
    command(file, "--model", card, "--odds", file, "--write")
    worsening = Calibration.of_card(ModelCard.read(card).calibration, 2).worsening
    assert worsening is not None
    assert worsening.step <= 0
    prediction = Predictor(card, device="cpu").predict(crystals_of(load_pairs(file), "initial")[0])
    assert 0 <= prediction.error.odds_worse <= 1
