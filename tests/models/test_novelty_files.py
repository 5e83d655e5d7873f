"""What tells novelty, beside the card that speaks of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deeprelax_ase.errors import ModelError
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model, save_novelty, sha256
from deeprelax_ase.prediction.predictor import Predictor
from tests.models.small_models import assert_equal, edit

TENSORS = {"weight": torch.randn(8, 4), "limit": torch.tensor(1.5)}


@pytest.fixture
def told(saved_levels: list[Path]) -> Path:
    """The card of a small model that tells novelty."""
    save_novelty(saved_levels[0], TENSORS, crystals=12)
    return saved_levels[0]


def test_tensors_come_back_with_the_model_of_that_card_alone(told: Path, saved_levels: list[Path]):
    model = load_model(told)
    assert model.novelty is not None
    assert_equal(TENSORS, dict(model.novelty))
    assert model.card.novelty == {
        "file": "to-PBE-novelty.safetensors",
        "sha256": sha256(told.with_name("to-PBE-novelty.safetensors")),
        "crystals": 12,
    }
    assert load_model(saved_levels[1]).novelty is None


def test_the_rest_of_the_card_stays(saved: Path):
    before = vars(ModelCard.read(saved))
    after = vars(save_novelty(saved, TENSORS))
    assert {**after, "novelty": {}} == before


def test_absent_file(told: Path):
    told.with_name("to-PBE-novelty.safetensors").unlink()
    with pytest.raises(ModelError, match=r"to-PBE: the statistics of novelty .*novelty\.safetensors are missing"):
        load_model(told)


def test_damaged_file(told: Path):
    told.with_name("to-PBE-novelty.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"novelty\.safetensors is damaged or not the file"):
        load_model(told)


def test_file_of_something_else(told: Path):
    file = told.with_name("to-PBE-novelty.safetensors")
    file.write_bytes(b"nothing")
    edit(told, novelty={"file": file.name, "sha256": sha256(file)})
    with pytest.raises(ModelError, match="holds no statistics of novelty"):
        load_model(told)


@pytest.mark.parametrize("novelty", [{"sha256": "0"}, {"file": "../other", "sha256": "0"}, {"file": 5, "sha256": "0"}])
def test_card_of_another_version(told: Path, novelty):
    edit(told, novelty=novelty)
    with pytest.raises(ModelError, match="what the card says of novelty is not of this version"):
        load_model(told)


def test_tensors_of_another_version(told: Path):
    with pytest.raises(ModelError, match=r"to-PBE: its statistics of novelty are not of this version"):
        Predictor(told, device="cpu")
