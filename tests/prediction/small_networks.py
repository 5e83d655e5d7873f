"""End-to-end networks that are small, of random weights, and move atoms all the same."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.model import Model
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.nn.energy_head import EnergyHead
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.uncertainty.kinds import KINDS

CONFIG = DeepRelaxE3Config(channels=8, num_blocks=2, layers_per_block=1, num_basis=10, levels=("PBE", "M3GNet"))


def random_network(seed: int, config: DeepRelaxE3Config = CONFIG) -> DeepRelaxE3:
    """Its crystals strain by some per cent, its atoms move by some 0.01 Å."""
    torch.manual_seed(seed)
    network = DeepRelaxE3(config).double().eval().requires_grad_(False)

    def shuffle(module: nn.Module, spread: float) -> None:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=spread / parameter.shape[-1] ** 0.5)

    shuffle(network, 1.5)
    for block in network.blocks:
        shuffle(block.refinement.gates[-1], 0.12)
    return network


def make_model(members: int = 2, *, level: str = "PBE", config: DeepRelaxE3Config = CONFIG) -> Model:
    words = dict.fromkeys(("description", "level_of_theory", "training_data", "split", "sha256"), "")
    card = ModelCard(
        name="small",
        elements=list(range(1, 95)),
        members=members,
        parameters=0,
        config=config.to_dict(),
        architecture="DeepRelaxE3",
        level=level,
        **words,
    )
    return Model(card, nn.ModuleList(random_network(seed, config) for seed in range(members)))


def with_head(model: Model) -> Model:
    """The ``model`` with a head for energies of random weights."""
    torch.manual_seed(5)
    head = EnergyHead(CONFIG.channels, CONFIG.num_blocks, CONFIG.num_elements, hidden=12, pooled=6)
    nn.init.normal_(head.elements)
    told = {"potential": "some potential", "factors": dict.fromkeys(KINDS, 2.5)}
    return replace(model, card=replace(model.card, energy=told), energy=head.eval())


def predictor(model: Model, **options) -> Predictor:
    return Predictor(model, device="cpu", dtype="float64", keep_symmetry=False, **options)
