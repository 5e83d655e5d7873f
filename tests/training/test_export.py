"""Trained members gathered into a model, with what belongs beside its card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model, save_energy, save_model, save_novelty
from deeprelax_ase.nn.energy_head import EnergyHead
from deeprelax_ase.training.export import OF_WEIGHTS, export, write_member
from tests.models.small_models import SMALL_E3, WORDS, assert_equal, edit, networks

TENSORS = {"weight": torch.ones(8, 2), "limit": torch.tensor(3.0)}


@pytest.fixture
def members() -> list:
    return networks(2, SMALL_E3)


@pytest.fixture
def files(members: list, tmp_path: Path) -> list[Path]:
    made = [tmp_path / f"member{m}.safetensors" for m in range(2)]
    for seed, (network, file) in enumerate(zip(members, made, strict=True)):
        write_member(network, file, seed=seed)
    return made


@pytest.fixture
def card(members: list, tmp_path: Path) -> Path:
    """The card of a model of both members that tells all that holds for these weights."""
    save_model(
        members, tmp_path / "before", "small", level="PBE", calibration={"1": {}}, metrics={"test": 1.0}, **WORDS
    )
    file = tmp_path / "before" / "small.json"
    save_novelty(file, TENSORS, crystals=12)
    save_energy(file, EnergyHead(SMALL_E3.channels, SMALL_E3.num_blocks, elements=12), potential="some potential")
    return file


def fields(card: ModelCard) -> dict:
    return {name: getattr(card, name) for name in OF_WEIGHTS}


def test_the_same_members_keep_the_card_and_what_lies_beside_it(members: list, files: list[Path], card: Path, tmp_path):
    told = ModelCard.read(card)
    assert fields(export(files, card, tmp_path / "after")) == fields(told)
    model = load_model(tmp_path / "after" / "small.json")
    assert model.card == told
    assert_equal(TENSORS, dict(model.novelty))
    assert_equal(model.energy.state_dict(), load_model(card).energy.state_dict())
    for exported, network in zip(model.networks, members, strict=True):
        assert_equal({k: t.half().float() for k, t in network.state_dict().items()}, exported.state_dict())
    assert fields(export(files, card, card.parent)) == fields(told)  # beside itself
    assert_equal(TENSORS, dict(load_model(card).novelty))


@pytest.mark.parametrize("others", ["fewer", "another order", "weights of another card"])
def test_what_was_fitted_to_other_weights_is_left_out(files: list[Path], card: Path, tmp_path: Path, others: str):
    given = {"fewer": files[:1], "another order": files[::-1]}.get(others, files)
    if others == "weights of another card":
        edit(card, sha256="0" * 64)
    with pytest.warns(
        UserWarning, match="left out, as .* other weights than these: calibration, novelty, energy, metrics"
    ):
        written = export(given, card, tmp_path / "after")
    assert fields(written) == {key: {} for key in OF_WEIGHTS}
    model = load_model(tmp_path / "after" / "small.json")
    assert (fields(model.card), model.novelty, model.energy) == (fields(written), None, None)


def test_a_card_by_hand_has_nothing_that_was_fitted(files: list[Path], tmp_path: Path, recwarn):
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"name": "joined", "level": "PBE", **WORDS}))
    assert export(files, card, tmp_path / "after").name == "joined"
    assert not recwarn
