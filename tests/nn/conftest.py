"""Small networks with random weights everywhere, and graphs to run them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph import CrystalGraph
from deeprelax_ase.graph.torch_builder import build_graph
from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config

SMALL = {"channels": 16, "num_layers": 2, "num_basis": 12, "encoding_channels": 8}


def shuffle_weights(module: nn.Module, *, spread: float = 1.0) -> None:
    """Random weights everywhere, the output layers that start at zero among them."""
    for parameter in module.parameters():
        fan_in = parameter.shape[-1] if parameter.ndim > 1 else len(parameter)
        nn.init.normal_(parameter, std=spread / fan_in**0.5)


def make_network(config: DeepRelaxConfig | None = None, *, seed: int = 7, shuffled: bool = True, **switches: object):
    torch.manual_seed(seed)
    network = DeepRelax(replace(config or DeepRelaxConfig(), **{**SMALL, **switches})).double()
    if shuffled:
        shuffle_weights(network)
    return network


@pytest.fixture(scope="session")
def network() -> Callable[..., DeepRelax]:
    """``network(config, cutoff=5.0)``: a small float64 network with random weights."""
    return make_network


def make_e3_network(*, seed: int = 7, shuffled: bool = True, **switches: object) -> DeepRelaxE3:
    torch.manual_seed(seed)
    small = {"channels": 8, "num_blocks": 2, "layers_per_block": 2, "num_basis": 10, "levels": ("PBE", "M3GNet")}
    network = DeepRelaxE3(DeepRelaxE3Config(**{**small, **switches})).double()
    if shuffled:
        shuffle_weights(network, spread=1.5)
        for block in network.blocks:  # so that crystals strain by some per cent, and atoms move by some 0.1 Å
            shuffle_weights(block.refinement.gates[-1], spread=0.5)
    return network


@pytest.fixture(scope="session")
def e3_network() -> Callable[..., DeepRelaxE3]:
    """``e3_network(num_blocks=3)``: a small float64 end-to-end network with random weights."""
    return make_e3_network


@pytest.fixture(scope="session")
def shuffled() -> Callable[[nn.Module], nn.Module]:
    """``shuffled(head)``: the module in float64 with random weights everywhere."""

    def shuffle(module: nn.Module, *, seed: int = 7, spread: float = 1.0) -> nn.Module:
        torch.manual_seed(seed)
        module.double()
        shuffle_weights(module, spread=spread)
        return module

    return shuffle


@pytest.fixture(scope="session")
def graph_of() -> Callable[..., CrystalGraph]:
    """``graph_of(crystals, config)``: the float64 graph that a network of that configuration expects."""

    def build(crystals: Crystal | Sequence[Crystal], config: DeepRelaxConfig | DeepRelaxE3Config) -> CrystalGraph:
        return build_graph([crystals] if isinstance(crystals, Crystal) else crystals, settings=config.graph)

    return build


@pytest.fixture
def rotation(rng: np.random.Generator) -> Tensor:
    """A random proper rotation, to be applied to row vectors from the right."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return torch.from_numpy(q * np.sign(np.linalg.det(q)))


@pytest.fixture(params=[pytest.param("rotation", marks=pytest.mark.slow), "reflection"])
def isometry(request: pytest.FixtureRequest, rotation: Tensor) -> Tensor:
    return rotation if request.param == "rotation" else rotation @ torch.diag(torch.tensor([1.0, 1.0, -1.0])).double()
