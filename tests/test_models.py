from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprelax_ase.errors import ModelError
from deeprelax_ase.graph import build_graph
from deeprelax_ase.models import DEFAULT_MODEL, WEIGHTS, ModelCard, available_models, load_model, save_model, sha256
from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig

SMALL = DeepRelaxConfig(channels=8, num_layers=1, num_basis=8)
WORDS = {
    "description": "two small networks",
    "level_of_theory": "none",
    "training_data": "none",
    "split": "none",
    "elements": [1, 8, 12],
}


def networks(count: int = 2, config: DeepRelaxConfig = SMALL) -> list[DeepRelax]:
    """Networks whose every parameter matters, unlike those freshly made: their last layers are zero."""
    torch.manual_seed(7)
    made = [DeepRelax(config).eval() for _ in range(count)]
    for network in made:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return made


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The card of a small model."""
    save_model(networks(), tmp_path, "small", **WORDS)
    return tmp_path / "small.json"


def edit(card: Path, **values) -> None:
    card.write_text(json.dumps(json.loads(card.read_text()) | values))


def accept_weights(card: Path) -> None:
    """Make the card speak of the weights as they are now, so that only their content can be refused."""
    edit(card, sha256=sha256(card.with_suffix(".safetensors")))


# The models that ship with the package


def test_the_default_model_ships():
    assert DEFAULT_MODEL in [card.name for card in available_models()]


@pytest.mark.parametrize("card", available_models(), ids=lambda card: card.name)
class TestShippedCards:
    def test_files_are_called_after_the_model(self, card: ModelCard):
        assert ModelCard.read(WEIGHTS / f"{card.name}.json") == card

    def test_weights_are_those_described(self, card: ModelCard):
        assert sha256(WEIGHTS / f"{card.name}.safetensors") == card.sha256

    def test_counts(self, card: ModelCard):
        model = load_model(card.name)
        assert len(model.networks) == card.members >= 3  # fewer could hardly disagree
        assert {sum(p.numel() for p in network.parameters()) for network in model.networks} == {card.parameters}

    def test_weights_are_finite_and_frozen(self, card: ModelCard):
        model = load_model(card.name)
        assert not model.networks.training
        for parameter in model.networks.parameters():
            assert torch.isfinite(parameter).all()
            assert not parameter.requires_grad

    def test_members_differ(self, card: ModelCard):
        states = [torch.cat([p.flatten() for p in network.parameters()]) for network in load_model(card.name).networks]
        distances = torch.stack([torch.stack([(a - b).abs().mean() for b in states]) for a in states])
        assert (distances > 0).sum() == len(states) * (len(states) - 1)

    def test_elements_are_sorted_atomic_numbers(self, card: ModelCard):
        assert card.elements == sorted(set(card.elements))
        assert card.elements[0] >= 1
        assert card.elements[-1] <= DeepRelaxConfig.from_dict(card.config).num_elements

    def test_says_what_it_relaxes_to(self, card: ModelCard):
        for text in (card.description, card.level_of_theory, card.training_data, card.split, card.licence):
            assert text.strip()
        assert card.limits

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
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 25e6


# Loading


def test_by_name_card_and_weights(saved: Path):
    by_name = load_model(DEFAULT_MODEL)
    assert by_name.card.name == DEFAULT_MODEL
    assert load_model().card == load_model(str(WEIGHTS / f"{DEFAULT_MODEL}.json")).card == by_name.card
    for path in (saved, str(saved), saved.with_suffix(".safetensors")):
        assert load_model(path).card.name == "small"


@pytest.mark.parametrize("name", ["DeepRelax", "", "folder/" + DEFAULT_MODEL, "../weights/" + DEFAULT_MODEL])
def test_unknown_name_tells_the_choices(name: str):
    with pytest.raises(ModelError, match=rf"Unknown model '{name}', must be one of: .*{DEFAULT_MODEL}.*\.json"):
        load_model(name)


def test_absent_card(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no model card .*absent\.json: No such file"):
        load_model(tmp_path / "absent.json")


def test_absent_weights(saved: Path):
    saved.with_suffix(".safetensors").unlink()
    with pytest.raises(ModelError, match=r"small: the weights .*small\.safetensors are missing.*beside the card"):
        load_model(saved)


def test_one_flipped_bit(saved: Path):
    weights = saved.with_suffix(".safetensors")
    content = bytearray(weights.read_bytes())
    content[-20] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged or not the file that the card describes.*Install .* again"):
        load_model(saved)


def test_truncated_weights(saved: Path):
    weights = saved.with_suffix(".safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        load_model(saved)
    accept_weights(saved)
    with pytest.raises(ModelError, match=r"small\.safetensors does not fit its card"):
        load_model(saved)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("write", [torch.save, lambda value, file: Path(file).write_bytes(pickle.dumps(value))])
def test_nothing_is_unpickled(saved: Path, write):
    sprung = saved.parent / "sprung"
    write({"member0": Trap(sprung)}, saved.with_suffix(".safetensors"))
    accept_weights(saved)
    with pytest.raises(ModelError, match="does not fit its card"):
        load_model(saved)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "small"', "delimiter"),
        ("", "Expecting value"),
        ("[]", "argument"),
        ("null", "not iterable"),
        ('{"name": "small"}', "missing .* required"),
        ("\udcff", "decode"),
    ],
)
def test_no_card_at_all(saved: Path, text: str, reason: str):
    saved.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=f"not a model card of this version.*{reason}"):
        load_model(saved)


def test_card_of_another_version(saved: Path):
    edit(saved, flavour="up")
    with pytest.raises(ModelError, match=r"not a model card of this version .*unknown fields \['flavour'\]"):
        load_model(saved)


def test_network_of_another_version(saved: Path):
    edit(saved, config=SMALL.to_dict() | {"spin": 2})
    with pytest.raises(ModelError, match=r"Unknown network settings \['spin'\]"):
        load_model(saved)


@pytest.mark.parametrize(
    "config", [replace(SMALL, channels=16), replace(SMALL, num_layers=2), replace(SMALL, lattice_head="residual")]
)
def test_weights_of_another_network(saved: Path, config: DeepRelaxConfig):
    edit(saved, config=config.to_dict())
    with pytest.raises(ModelError, match="does not fit its card"):
        load_model(saved)


@pytest.mark.parametrize("members", [0, 1, 3])
def test_another_number_of_members(saved: Path, members: int):
    edit(saved, members=members)
    with pytest.raises(ModelError, match=f"member0.*member1.*speaks of {members} members"):
        load_model(saved)


def test_files_can_move(saved: Path, tmp_path: Path):
    folder = tmp_path / "a folder of v1.2"
    folder.mkdir()
    for suffix in (".json", ".safetensors"):
        shutil.move(saved.with_suffix(suffix), folder / f"my.model{suffix}")
    assert load_model(folder / "my.model.json").card.name == "small"
    assert load_model(folder / "my.model.safetensors").card.name == "small"


# Saving


def test_round_trip_loses_but_the_second_half_of_each_number(tmp_path: Path, sample_crystals):
    made = networks()
    save_model(made, tmp_path, "small", **WORDS)
    loaded = load_model(tmp_path / "small.json")
    graph = build_graph([sample_crystals["triclinic"], sample_crystals["hcp"]], backend="torch")
    exact = [network.double()(graph) for network in made]
    for network in made:
        for parameter in network.parameters():
            parameter.data = parameter.half().double()
    loaded.networks.double()
    got = loaded.quantities(graph)
    for m, network in enumerate(made):
        expected = network(graph)
        for name in vars(expected):
            torch.testing.assert_close(getattr(got, name)[m], getattr(expected, name), rtol=0, atol=0)
        assert not torch.equal(got.distances[m], exact[m].distances)
        torch.testing.assert_close(got.distances[m], exact[m].distances, rtol=5e-3, atol=5e-3)


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


def test_cards_round_trip(tmp_path: Path):
    card = replace(
        available_models()[0], metrics={"universal": {"volume": 1.25}}, solver={"bound_scale": 0.1}, description="Å"
    )
    card.write(tmp_path / "card.json")
    assert ModelCard.read(tmp_path / "card.json") == card
    assert "Å" in (tmp_path / "card.json").read_text(encoding="utf-8")


def test_quantities_keep_the_cell_where_asked(saved: Path, sample_crystals):
    graph = build_graph([sample_crystals["triclinic"]], backend="torch", dtype=torch.float32)
    model = load_model(saved)
    kept, free = model.quantities(graph, keep_cell=True), model.quantities(graph)
    np.testing.assert_array_equal(kept.cell.numpy(), graph.cell.expand(2, 1, 3, 3).numpy())
    assert (free.cell - graph.cell).abs().max() > 1e-3
