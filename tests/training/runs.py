"""Short runs on few pairs, and what they leave in their folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.nn import DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.training import AugmentationSettings, TrainingSettings, train

PairsOf = Callable[..., RelaxationPairs]
SMALL = {"channels": 16, "num_layers": 2, "num_basis": 12, "encoding_channels": 8}
CONFIG = DeepRelaxConfig(**SMALL)
E3 = DeepRelaxE3Config(channels=8, num_blocks=1, layers_per_block=1, num_basis=8, max_neighbors=14)
STILL = AugmentationSettings(interpolated=0, relaxed=0, strained=0, rattled=0, rewrapped=0)
#: Twelve pairs have 36 atoms: three batches an epoch.
QUICK = TrainingSettings(max_steps=7, atoms_per_batch=15, log_every=2, learning_rate=5e-3)
PARTS = ("backbone", "distance_head", "displacement_head", "lattice_head")


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def values(folder: Path, name: str) -> list:
    """``name`` of all records that have it."""
    return [record[name] for record in records(folder) if name in record]


def summary(folder: Path) -> dict:
    return json.loads((folder / "settings.json").read_text())


def trained(*arguments, **options) -> torch.nn.Module:
    network = train(*arguments, **options)
    assert network is not None
    return network


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, weight in a.state_dict().items():
        assert torch.equal(weight, b.state_dict()[name]), name


def at_rest(pairs: RelaxationPairs) -> RelaxationPairs:
    """Crystals that do not relax: an untrained network is right about them, a trained one is not."""
    return replace(pairs, cell_relaxed=pairs.cell_initial, fractional_relaxed=pairs.fractional_initial)
