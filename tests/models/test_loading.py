"""Models read from files and written to them."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deeprelax_ase.errors import ModelError
from deeprelax_ase.models.loading import load_model, save_model, sha256
from deeprelax_ase.models.registry import DEFAULT_MODEL, WEIGHTS
from deeprelax_ase.nn import DeepRelaxConfig
from tests.models.small_models import SMALL, SMALL_E3, WEIGHTS_OF_BOTH, WORDS, assert_equal, edit, networks


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
        ("[" * 10**5, "recursion"),
    ],
)
def test_no_card_at_all(saved: Path, text: str, reason: str):
    saved.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=f"not a model card of this version.*{reason}"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": 5}, "name is a int, not a str"),
        ({"members": "1"}, "members is a str, not a int"),
        ({"members": True}, "members is a bool, not a int"),
        ({"config": None}, "config is a NoneType, not a dict"),
        ({"elements": ["Cu"]}, "elements are not atomic numbers"),
        ({"elements": [0, 29]}, "elements are not atomic numbers"),
        ({"weights": "../elsewhere.safetensors"}, "do not lie beside the card"),
        ({"weights": "/etc/passwd"}, "do not lie beside the card"),
    ],
)
def test_cards_hold_what_cards_hold(saved: Path, change: dict, reason: str):
    edit(saved, **change)
    with pytest.raises(ModelError, match=f"not a model card of this version of deeprelax_ase: .*{reason}"):
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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"channels": 10**9}, "channels must be at most"),
        ({"num_layers": 10**9}, "num_layers must be at most"),
        ({"num_layers": 4000, "channels": 4000}, "the card speaks of 4000 x 4000 channels"),
        ({"num_elements": 4000}, "has the shape"),
    ],
)
def test_no_memory_is_taken_for_networks_that_the_weights_are_not_of(saved: Path, change: dict, reason: str):
    edit(saved, config=SMALL.to_dict() | change)
    with pytest.raises(ModelError, match=f"does not fit its card.*{reason}"):
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
