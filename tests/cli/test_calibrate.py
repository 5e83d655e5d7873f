"""``deeprelax calibrate``: from files of pairs to the card, with a small untrained network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from deeprelax_ase import cli
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.evaluation.cached_predictions import predict
from deeprelax_ase.evaluation.metrics import crystal_errors
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import save_model
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.uncertainty.calibration import Calibration

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
def command() -> Callable[..., Result]:
    """Runs ``deeprelax calibrate``, which must end with the code."""
    pytest.importorskip("crepes")

    def run(model: Path, data: Path, *arguments: object, code: int = 0) -> Result:
        given = ["calibrate", model, "--data", data, "--device", "cpu", *arguments]
        result = CliRunner().invoke(cli.app, [str(argument) for argument in given])
        assert result.exit_code == code, result.output
        return result

    return run


def test_files_that_nothing_can_be_fitted_to_are_told(command, card: Path, pairs_of, tmp_path: Path) -> None:
    pairs = pairs_of(6)
    unsplit = write_pairs(replace(pairs, split=torch.zeros_like(pairs.split)), tmp_path / "unsplit.npz")
    assert "no pairs in the split 'validation'" in command(card, unsplit, code=2).output
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(unsplit.read_bytes()[:-100])
    assert "is no npz file, or damaged" in command(card, damaged, code=2).output.replace("\n", " ")


def test_calibration_is_written_into_the_card(command, card: Path, file: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("deeprelax_ase.uncertainty.novelty._STEPS", 20)
    before = ModelCard.read(card)
    command(card, file, "--write", "--json", tmp_path / "coverage.json")
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


def test_card_stays_unless_asked(command, card: Path, file: Path):
    before = card.read_bytes()
    shown = command(card, file).stdout
    assert card.read_bytes() == before
    assert "errors below their 90% bounds" in shown
    assert {"coordinates, Å", "volume", "cscl", "within"} <= set(re.split(r"\s{2,}|\n", shown))
    assert max(len(line) for line in shown.splitlines() if not line.startswith("no odds: ")) <= 80  # which wraps itself


def test_options_reach_the_predictions(command, card: Path, file: Path, tmp_path: Path):
    few = ("--recycles", 1, "--thin", 2, "--novelty", 0)
    command(card, file, "--write", *few, "--json", tmp_path / "coverage.json")
    assert set(ModelCard.read(card).calibration) == {"1"}
    assert Predictor(card, device="cpu").calibration is None  # the card's two recycles have none
    assert json.loads((tmp_path / "coverage.json").read_text())["test"]["all"]["crystals"] == SIZE // 6


def test_numbers_of_recycles_are_calibrated_side_by_side(command, card: Path, file: Path, tmp_path: Path):
    command(
        card, file, "--write", "--recycles", 1, "--recycles", 2, "--novelty", 0, "--json", tmp_path / "coverage.json"
    )
    one, two = (Predictor(card, device="cpu", recycles=recycles).calibration for recycles in (1, 2))
    assert one is not None
    assert two is not None
    assert one.coordinates != two.coordinates
    assert Predictor(card, device="cpu").calibration == two
    assert Predictor(card, device="cpu", one_shot="fast").calibration is None  # one network of two
    told = json.loads((tmp_path / "coverage.json").read_text())  # of the card's own number
    command(card, file, "--json", tmp_path / "alone.json")
    assert told == json.loads((tmp_path / "alone.json").read_text())


def test_m3gnet_is_calibrated_on_its_own_minima(command, card: Path, file: Path, tmp_path: Path):
    m3gnet = card.with_name("to-M3GNet.json")
    command(m3gnet, file, "--write", "--novelty", 0, "--json", tmp_path / "coverage.json")
    row = json.loads((tmp_path / "coverage.json").read_text())["validation"]["all"]
    pairs = load_pairs(file, labels="m3gnet").in_split("validation")
    predicted = predict(Predictor(m3gnet, device="cpu"), crystals_of(pairs, "initial"))  # which leaves some as they are
    assert row["crystals"] == len(pairs)
    assert row["volume error"] == pytest.approx(crystal_errors(pairs, predicted.crystals)["relative_volume"].mean())


def test_predictions_are_kept(command, card: Path, file: Path, tmp_path: Path, monkeypatch):
    command(card, file, "--cache", tmp_path / "cache", "--json", tmp_path / "first.json")
    assert [f.name.rpartition("-")[0] for f in (tmp_path / "cache").iterdir()] == ["to-PBE"]  # one file for both splits
    monkeypatch.setattr(Predictor, "predict_many", lambda *_, **__: pytest.fail("predicted again"))
    command(card, file, "--cache", tmp_path / "cache", "--json", tmp_path / "second.json")
    assert (tmp_path / "first.json").read_text() == (tmp_path / "second.json").read_text()


def test_too_few_pairs_are_refused(command, card: Path, pairs_of, tmp_path: Path):
    few = write_pairs(replace(pairs_of(12), split=torch.arange(12) % 3), tmp_path / "few.npz")
    assert "4 pairs for validation are too few" in command(card, few, "--write", code=2).stderr
    assert ModelCard.read(card).calibration == {}


def test_too_few_to_test_on_are_left_out(command, card: Path, pairs_of, tmp_path: Path):
    few = write_pairs(replace(pairs_of(40), split=torch.tensor([1] * 34 + [2] * 6)), tmp_path / "few.npz")
    shown = command(card, few, "--write").stdout
    assert "validation, 2 recycles: errors below" in shown
    assert "test, 2 recycles: errors below" not in shown
    assert ModelCard.read(card).calibration


def test_novelty_is_left_out_without_training_pairs(command, card: Path, pairs_of, tmp_path: Path):
    file = write_pairs(replace(pairs_of(60), split=torch.arange(60) % 2 + 1), tmp_path / "untaught.npz")
    assert "novelty is not told" in command(card, file, "--write").stderr
    assert ModelCard.read(card).novelty == {}


def test_wildcards_stand_for_files(command, card: Path, file: Path, tmp_path: Path):
    (tmp_path / "more.npz").write_bytes(file.read_bytes())
    command(card, tmp_path / "*.npz", "--json", tmp_path / "coverage.json")
    report = json.loads((tmp_path / "coverage.json").read_text())["validation"]
    assert report["all"]["crystals"] == 2 * report["cscl"]["crystals"] == 2 * report["more"]["crystals"]


def test_what_cannot_be_read_is_an_error(command, card: Path, file: Path, tmp_path: Path):
    assert "nowhere.npz cannot be read" in command(card, tmp_path / "nowhere.npz", code=1).stderr.replace("\n", "")
    assert "no model card" in command(tmp_path / "none.json", file, code=2).stderr
    (tmp_path / "POSCAR").write_text("MgO")
    assert "POSCAR is no npz file" in command(card, tmp_path / "POSCAR", code=2).stderr


@pytest.mark.slow
def test_odds_are_fitted_to_further_pairs_too(command, card: Path, file: Path, tmp_path: Path):
    """The pairs end nearer, all of them; what is at rest already can only end further off."""
    pairs = load_pairs(file)
    still = replace(pairs, fractional_relaxed=pairs.fractional_initial, cell_relaxed=pairs.cell_initial)
    assert "no odds: all predictions end nearer" in command(card, file).output
    command(card, file, "--odds", write_pairs(still, tmp_path / "still.npz"), "--write")
    worsening = Calibration.of_card(ModelCard.read(card).calibration, 2).worsening
    assert worsening is not None
    assert max(worsening.steps) <= 0
    prediction = Predictor(card, device="cpu").predict(crystals_of(load_pairs(file), "initial")[0])
    assert 0 <= prediction.error.odds_worse <= 1
