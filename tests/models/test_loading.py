"""Models read from files and written to them."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deeprelax_ase.errors import ModelError
from deeprelax_ase.graph import build_graph
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model, save_model, sha256
from deeprelax_ase.models.registry import DEFAULT_MODEL, WEIGHTS, available_models
from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config

SMALL = DeepRelaxConfig(channels=8, num_layers=1, num_basis=8)
SMALL_E3 = DeepRelaxE3Config(channels=8, num_blocks=1, layers_per_block=1, num_basis=8, levels=("PBE", "M3GNet"))
WEIGHTS_OF_BOTH = "both.safetensors"

WORDS = {
    "description": "two small networks",
    "level_of_theory": "none",
    "training_data": "none",
    "split": "none",
    "elements": [1, 8, 12],
}


def networks(count: int = 2, config: DeepRelaxConfig | DeepRelaxE3Config = SMALL) -> list:
    """Networks whose every parameter matters, unlike those freshly made: their last layers are zero."""
    torch.manual_seed(7)
    make = DeepRelax if isinstance(config, DeepRelaxConfig) else DeepRelaxE3
    made = [make(config).eval() for _ in range(count)]
    for network in made:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return made


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The card of a small model."""
    save_model(networks(), tmp_path, "small", **WORDS)
    return tmp_path / "small.json"


@pytest.fixture
def saved_levels(tmp_path: Path) -> list[Path]:
    """The cards of two levels of theory that one small end-to-end ensemble knows."""
    for level in SMALL_E3.levels:
        save_model(networks(config=SMALL_E3), tmp_path, f"to-{level}", level=level, weights=WEIGHTS_OF_BOTH, **WORDS)
    return [tmp_path / f"to-{level}.json" for level in SMALL_E3.levels]


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(b[name], tensor), name


def edit(card: Path, **values) -> None:
    card.write_text(json.dumps(json.loads(card.read_text()) | values))


def accept_weights(card: Path) -> None:
    """Make the card speak of the weights as they are now, so that only their content can be refused."""
    edit(card, sha256=sha256(card.with_suffix(".safetensors")))


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


@pytest.mark.parametrize("members", [0, 3])
def test_another_number_of_members(saved: Path, members: int):
    edit(saved, members=members)
    with pytest.raises(ModelError, match=f"member0.*member1.*speaks of {members} members"):
        load_model(saved)


def test_the_file_may_hold_more_members_than_the_card_speaks_of(saved: Path):
    both = load_model(saved)
    edit(saved, members=1)
    (alone,) = load_model(saved).networks
    assert_equal(alone.state_dict(), both.networks[0].state_dict())


def test_a_member_that_is_missing_is_not_made_up_for_by_a_later_one(saved: Path):
    weights = saved.with_suffix(".safetensors")
    tensors = {name.replace("member1.", "member7."): tensor for name, tensor in load_file(weights).items()}
    save_file(tensors, weights)
    accept_weights(saved)
    with pytest.raises(ModelError, match=r"holds \['member0', 'member7'\], the card speaks of 2 members"):
        load_model(saved)


def test_files_can_move(saved: Path, tmp_path: Path):
    folder = tmp_path / "a folder of v1.2"
    folder.mkdir()
    for suffix in (".json", ".safetensors"):
        shutil.move(saved.with_suffix(suffix), folder / f"my.model{suffix}")
    assert load_model(folder / "my.model.json").card.name == "small"
    assert load_model(folder / "my.model.safetensors").card.name == "small"


# Saving


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


# Levels of theory


def test_cards_of_two_levels_share_their_weights(saved_levels: list[Path]):
    assert {file.name for file in saved_levels[0].parent.iterdir()} == {
        *(f.name for f in saved_levels),
        WEIGHTS_OF_BOTH,
    }
    pbe, m3gnet = map(load_model, saved_levels)
    assert (pbe.level, m3gnet.level) == (0, 1)
    assert pbe.card.sha256 == m3gnet.card.sha256
    for a, b in zip(pbe.networks.parameters(), m3gnet.networks.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_that_another_card_names_are_missed(saved_levels: list[Path]):
    saved_levels[0].with_name(WEIGHTS_OF_BOTH).unlink()
    with pytest.raises(ModelError, match=r"to-PBE: the weights .*both\.safetensors are missing"):
        load_model(saved_levels[0])


def test_unknown_level(saved_levels: list[Path]):
    edit(saved_levels[0], level="CCSD")
    with pytest.raises(ModelError, match=r"the card's level 'CCSD' is none of the network's \('PBE', 'M3GNet'\)"):
        load_model(saved_levels[0])


def test_level_of_a_network_that_knows_none(saved: Path):
    edit(saved, level="PBE")
    with pytest.raises(ModelError, match="PBE"):
        load_model(saved)


def test_cards_of_two_sizes_share_their_weights(tmp_path: Path):
    made = networks(3, SMALL_E3)
    for level, members in {"PBE": 3, "M3GNet": 2}.items():
        save_model(made, tmp_path, level, level=level, weights=WEIGHTS_OF_BOTH, members=members, **WORDS)
    pbe, m3gnet = load_model(tmp_path / "PBE.json"), load_model(tmp_path / "M3GNet.json")  # the last writer's file
    assert (len(pbe.networks), len(m3gnet.networks)) == (3, 2)
    assert pbe.card.sha256 == m3gnet.card.sha256
    for few, many in zip(m3gnet.networks, pbe.networks, strict=False):
        assert_equal(few.state_dict(), many.state_dict())


# Forces


def test_a_network_that_reads_forces_may_correct(tmp_path: Path):
    config = replace(SMALL_E3, reads_forces=True)
    for reads_forces in (True, False):
        save_model(networks(1, config), tmp_path, "reader", level="M3GNet", reads_forces=reads_forces, **WORDS)
        loaded = load_model(tmp_path / "reader.json")
        assert loaded.card.reads_forces == reads_forces
        assert loaded.config == config


@pytest.mark.parametrize("config", [SMALL, SMALL_E3], ids=["DeepRelax", "DeepRelaxE3"])
def test_a_network_that_reads_no_forces_cannot_correct(tmp_path: Path, config):
    save_model(networks(1, config), tmp_path, "blind", **WORDS)
    load_model(tmp_path / "blind.json")
    edit(tmp_path / "blind.json", reads_forces=True)
    with pytest.raises(ModelError, match=r"blind\.safetensors does not fit its card: .*reads forces, which it cannot"):
        load_model(tmp_path / "blind.json")


def test_unknown_architecture(saved: Path):
    edit(saved, architecture="DeepRelaxE4")
    with pytest.raises(ModelError, match=r"Unknown architecture 'DeepRelaxE4', must be one of \('DeepRelax', 'Deep"):
        load_model(saved)


def test_architecture_of_other_weights(saved: Path):
    edit(saved, architecture="DeepRelaxE3", config=SMALL_E3.to_dict())
    with pytest.raises(ModelError, match="does not fit its card"):
        load_model(saved)
