"""Trained members gathered into a model, with what belongs beside its card."""

from __future__ import annotations

from pathlib import Path

import torch

from deeprelax_ase.models.loading import load_model, save_energy, save_model, save_novelty
from deeprelax_ase.nn.energy_head import EnergyHead
from deeprelax_ase.training.export import export, write_member
from tests.models.small_models import SMALL_E3, WORDS, assert_equal, networks


def test_members_card_and_what_lies_beside_it(tmp_path: Path):
    members = networks(2, SMALL_E3)
    files = [tmp_path / f"member{m}.safetensors" for m in range(2)]
    for seed, (network, file) in enumerate(zip(members, files, strict=True)):
        write_member(network, file, seed=seed)
    save_model(members[:1], tmp_path / "before", "small", level="PBE", **WORDS)
    card = tmp_path / "before" / "small.json"
    tensors = {"weight": torch.ones(8, 2), "limit": torch.tensor(3.0)}
    told = save_novelty(card, tensors, crystals=12)
    save_energy(card, EnergyHead(SMALL_E3.channels, SMALL_E3.num_blocks, elements=12), potential="some potential")
    written = export(files, card, tmp_path / "after")
    assert written.members == 2
    assert written.novelty == told.novelty
    model = load_model(tmp_path / "after" / "small.json")
    assert_equal(tensors, dict(model.novelty))
    assert_equal(model.energy.state_dict(), load_model(card).energy.state_dict())
    for exported, network in zip(model.networks, members, strict=True):
        assert_equal({k: t.half().float() for k, t in network.state_dict().items()}, exported.state_dict())
    assert export(files, card, card.parent).novelty == told.novelty  # beside itself
    assert_equal(tensors, dict(load_model(card).novelty))
