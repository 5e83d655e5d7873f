"""The models that ship with the package."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from safetensors import safe_open

from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model, sha256
from deeprelax_ase.models.registry import DEFAULT_MODEL, M3GNET_RELAX_MODEL, WEIGHTS, available_models
from deeprelax_ase.nn import ARCHITECTURES
from deeprelax_ase.uncertainty.calibration import Calibration

#: Fewest members of an ensemble: the paper's network knows its error by their scatter alone, the end-to-end one by its
#: own scales.
LEAST_MEMBERS = {"DeepRelax": 3, "DeepRelaxE3": 1}

#: Each is read once.
loaded = cache(load_model)


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(b[name], tensor), name


def test_the_default_model_ships():
    assert DEFAULT_MODEL in [card.name for card in available_models()]


@pytest.mark.parametrize("card", available_models(), ids=lambda card: card.name)
class TestShippedCards:
    def test_files_are_called_after_the_model(self, card: ModelCard):
        assert ModelCard.read(WEIGHTS / f"{card.name}.json") == card

    def test_weights_are_those_described(self, card: ModelCard):
        assert sha256(WEIGHTS / (card.weights or f"{card.name}.safetensors")) == card.sha256

    def test_counts(self, card: ModelCard):
        model = loaded(card.name)
        assert len(model.networks) == card.members >= LEAST_MEMBERS[card.architecture]
        assert {sum(p.numel() for p in network.parameters()) for network in model.networks} == {card.parameters}

    def test_weights_are_finite_and_frozen(self, card: ModelCard):
        model = loaded(card.name)
        assert not model.networks.training
        for parameter in model.networks.parameters():
            assert torch.isfinite(parameter).all()
            assert not parameter.requires_grad

    def test_members_differ(self, card: ModelCard):
        states = [torch.cat([p.flatten() for p in network.parameters()]) for network in loaded(card.name).networks]
        distances = torch.stack([torch.stack([(a - b).abs().mean() for b in states]) for a in states])
        assert (distances > 0).sum() == len(states) * (len(states) - 1)

    def test_elements_are_sorted_atomic_numbers(self, card: ModelCard):
        assert card.elements == sorted(set(card.elements))
        assert card.elements[0] >= 1
        assert card.elements[-1] <= loaded(card.name).config.num_elements

    def test_network_and_level_are_those_described(self, card: ModelCard):
        model = loaded(card.name)
        network, config = ARCHITECTURES[card.architecture]
        assert {type(member) for member in model.networks} == {network}
        assert isinstance(model.config, config)
        if card.architecture == "DeepRelaxE3":
            assert model.config.levels[model.level] == card.level
            assert card.name == f"DeepRelax-{card.level}"
            assert {"1", str(card.recycles)} <= set(card.calibration)
            for recycles in map(int, card.calibration):  # of the preset "fast" too
                assert Calibration.of_card(card.calibration, recycles).worsening is not None

    def test_says_what_it_relaxes_to(self, card: ModelCard):
        for text in (card.description, card.level_of_theory, card.training_data, card.split, card.licence):
            assert text.strip()
        assert card.limits
        assert card.metrics

    def test_holds_no_path_of_the_machine_it_was_made_on(self, card: ModelCard):
        def strings(value):
            if isinstance(value, dict):
                value = [*value, *value.values()]
            if isinstance(value, list):
                return [text for part in value for text in strings(part)]
            return [value] if isinstance(value, str) else []

        words = " ".join(strings(json.loads((WEIGHTS / f"{card.name}.json").read_text()))).split()
        assert len(words) > 50
        assert [word for word in words if word[0] in "/~" and len(word) > 1] == []


def test_all_weights_are_small_enough_to_ship():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 45e6


def test_no_weights_ship_that_no_card_uses():
    cards = available_models()
    told = {beside.get("file") for card in cards for beside in (card.novelty, card.energy)}
    for file in (file for file in WEIGHTS.glob("*.safetensors") if file.name not in told):
        used = [card.members for card in cards if (card.weights or f"{card.name}.safetensors") == file.name]
        with safe_open(file, "pt") as opened:
            held = {name.partition(".")[0] for name in opened.keys()}  # noqa: SIM118  it is no mapping
        assert held == {f"member{m}" for m in range(max(used))}, file.name


def test_the_model_of_m3gnet_corrects_with_the_network_of_the_default_one():
    default, m3gnet = load_model(DEFAULT_MODEL), load_model(M3GNET_RELAX_MODEL)
    assert default.card.weights == m3gnet.card.weights
    assert m3gnet.card.reads_forces
    assert m3gnet.level != default.level
    for one, other in zip(m3gnet.networks, default.networks, strict=True):
        assert_equal(one.state_dict(), other.state_dict())
