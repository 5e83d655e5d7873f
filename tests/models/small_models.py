"""Small models of two members, on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch

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


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(b[name], tensor), name


def edit(card: Path, **values) -> None:
    card.write_text(json.dumps(json.loads(card.read_text()) | values))
