from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deeprelax_ase.graph import build_graph
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model, save_model, sha256
from deeprelax_ase.models.registry import available_models
from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig
from tests.models.small_models import SMALL, SMALL_E3, WORDS, assert_equal, networks


@pytest.mark.parametrize("config", [SMALL, SMALL_E3], ids=["DeepRelax", "DeepRelaxE3"])
def test_round_trip_loses_but_the_second_half_of_each_number(tmp_path: Path, sample_crystals, config):
    made = networks(config=config)
    save_model(made, tmp_path, "small", **WORDS)
    loaded = load_model(tmp_path / "small.json")
    assert loaded.card.architecture == type(made[0]).__name__
    graph = build_graph(
        [sample_crystals["triclinic"], sample_crystals["hcp"]], backend="torch", settings=loaded.config.graph
    )

    def output(network) -> dict[str, torch.Tensor]:
        result = network.double()(graph)
        return vars(result[-1] if isinstance(result, list) else result)

    exact = [output(network) for network in made]
    for network in made:
        for parameter in network.parameters():
            parameter.data = parameter.half().double()
    for got, before, network in zip(map(output, loaded.networks), exact, made, strict=True):
        for name, expected in output(network).items():
            torch.testing.assert_close(got[name], expected, rtol=0, atol=1e-15)
        first = next(iter(got))
        assert not torch.equal(got[first], before[first])
        torch.testing.assert_close(got[first], before[first], rtol=5e-3, atol=5e-3)


def test_saving_leaves_the_networks_alone(tmp_path: Path):
    made = networks(1)
    before = {key: tensor.clone() for key, tensor in made[0].state_dict().items()}
    save_model(made, tmp_path / "new folder", "small", **WORDS)
    for key, tensor in made[0].state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[key])


def test_card_of_the_saved(saved: Path):
    card = ModelCard.read(saved)
    assert (card.name, card.members, card.elements) == ("small", 2, [1, 8, 12])
    assert card.parameters == sum(p.numel() for p in DeepRelax(SMALL).parameters())
    assert DeepRelaxConfig.from_dict(card.config) == SMALL
    assert card.sha256 == sha256(saved.with_suffix(".safetensors"))


def test_an_ensemble_is_of_one_configuration(tmp_path: Path):
    for made in ([], networks(1) + networks(1, replace(SMALL, channels=16))):
        with pytest.raises(ValueError, match="at least one network, all of one configuration"):
            save_model(made, tmp_path, "mixed", **WORDS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("members", [1, 2, 3])
def test_a_model_may_use_the_first_members_of_the_file_alone(tmp_path: Path, members: int):
    made = networks(3)
    whole = save_model(made, tmp_path, "whole", **WORDS)
    part = save_model(made, tmp_path, "part", members=members, **WORDS)
    assert (whole.members, part.members) == (3, members)
    assert replace(part, name="whole", members=3) == whole  # the file holds all, byte for byte
    held = load_file(tmp_path / "part.safetensors")
    assert {name.partition(".")[0] for name in held} == {"member0", "member1", "member2"}
    loaded = load_model(tmp_path / "part.json")
    assert loaded.card == part
    assert len(loaded.networks) == members
    for network, given in zip(loaded.networks, made, strict=False):
        assert_equal(network.state_dict(), {name: t.half().float() for name, t in given.state_dict().items()})


@pytest.mark.parametrize("members", [0, -1, 3])
def test_no_more_members_than_there_are_and_not_none(tmp_path: Path, members: int):
    with pytest.raises(ValueError, match=f"^members={members} of 2 networks$"):
        save_model(networks(), tmp_path / "folder", "small", members=members, **WORDS)
    assert list(tmp_path.iterdir()) == []


def test_cards_round_trip(tmp_path: Path):
    card = replace(
        available_models()[0], metrics={"universal": {"volume": 1.25}}, solver={"bound_scale": 0.1}, description="Å"
    )
    card.write(tmp_path / "card.json")
    assert ModelCard.read(tmp_path / "card.json") == card
    assert "Å" in (tmp_path / "card.json").read_text(encoding="utf-8")
