"""The head for energies beside the card that speaks of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deeprelax_ase.errors import ModelError
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model, save_energy, save_novelty, sha256
from deeprelax_ase.nn.energy_head import EnergyHead
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.uncertainty.kinds import KINDS
from tests.models.small_models import WEIGHTS_OF_BOTH, edit

TOLD = {"potential": "some potential", "factors": dict.fromkeys(KINDS, 2.0)}


@pytest.fixture
def told(saved_levels: list[Path]) -> Path:
    """The card of a small model that predicts energies."""
    torch.manual_seed(0)
    save_energy(saved_levels[0], EnergyHead(channels=8, blocks=1, elements=12), **TOLD)
    return saved_levels[0]


def test_the_head_comes_back_with_the_model_of_that_card_alone(told: Path, saved_levels: list[Path]):
    file = told.with_name("to-PBE-energy.safetensors")
    assert isinstance(load_model(told).energy, EnergyHead)
    assert load_model(told).card.energy == {
        "file": file.name,
        "sha256": sha256(file),
        "weights": sha256(told.with_name(WEIGHTS_OF_BOTH)),
        **TOLD,
    }
    assert load_model(saved_levels[1]).energy is None


def test_novelty_and_energies_stand_side_by_side(told: Path):
    save_novelty(told, {"limit": torch.tensor(1.0)})
    model = load_model(told)
    assert model.energy is not None
    assert model.novelty is not None


def test_absent_file(told: Path):
    told.with_name("to-PBE-energy.safetensors").unlink()
    with pytest.raises(ModelError, match=r"to-PBE: the head for energies .*energy\.safetensors are missing"):
        load_model(told)


def test_file_of_something_else(told: Path):
    save_novelty(told, {"limit": torch.tensor(1.0)})
    file = told.with_name("to-PBE-novelty.safetensors")
    edit(told, energy={**ModelCard.read(told).energy, "file": file.name, "sha256": sha256(file)})
    with pytest.raises(ModelError, match="its head for energies is not of this version"):
        load_model(told)


@pytest.mark.parametrize("weights", ["0" * 64, None])
def test_a_head_of_other_weights(told: Path, weights: str | None):
    edit(told, energy={**ModelCard.read(told).energy, "weights": weights})
    with pytest.raises(ModelError, match=r"trained on other weights than these, .*: take energy out of the card"):
        load_model(told)


def test_a_card_of_another_version(told: Path):
    energy = ModelCard.read(told).energy
    edit(told, energy={**energy, "factors": {"bulk": 2.0}})
    with pytest.raises(ModelError, match="what the card says of energy is not of this version"):
        Predictor(told, device="cpu")
