"""M3GNet's batches of a few sizes: what fills them up changes nothing, on a CPU computed, on a GPU recorded."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from deeprelax_ase.calculators import load_m3gnet
from deeprelax_ase.calculators.kept_edges import KeptEdges
from deeprelax_ase.calculators.m3gnet_potential import GraphedM3GNet, M3GNetPotential
from tests.calculators.batches import tensors_of
from tests.calculators.units import M3GNET, distorted_salt, needs_weights

pytestmark = needs_weights

CRYSTALS = [distorted_salt(), bulk("Cu", "fcc", a=2.6), bulk("GaN", "wurtzite", a=3.2, c=5.2)]


def assert_alike(graphed: GraphedM3GNet, crystals: list[Atoms]) -> None:
    network = load_m3gnet(M3GNET).double()
    numbers, positions, cells, batch = (tensor.to(network.embedding.device) for tensor in tensors_of(crystals))
    edges = KeptEdges(5.0, 0.6)(positions, cells, batch)
    size = graphed.size(len(numbers), len(cells), len(edges[1]))
    assert size is not None
    found = graphed(size, numbers, positions, cells, batch, *edges)
    expected = M3GNetPotential(network, device="cpu").compute(numbers, positions, cells, batch)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_what_fills_up_a_batch_changes_nothing() -> None:
    graphed = GraphedM3GNet(load_m3gnet(M3GNET).double())
    assert_alike(graphed, CRYSTALS)
    assert_alike(graphed, CRYSTALS[1:])
    assert_alike(graphed, CRYSTALS)


def test_what_fills_up_a_batch_is_spread_as_sums_into_one_place_would_wait_for_each_other() -> None:
    network, given = load_m3gnet(M3GNET), []
    graphed = GraphedM3GNet(network)
    network.register_forward_pre_hook(lambda module, arguments: given.append(arguments))
    numbers, positions, cells, batch = tensors_of(CRYSTALS)
    edges = KeptEdges(5.0, 0.6)(positions, cells, batch)
    graphed(4096, numbers, positions, cells, batch, *edges)
    _, _, _, crystals, (_, destination), _ = given[0]
    of_atoms = destination.bincount()
    assert of_atoms[len(numbers) :].max() <= 2 * of_atoms[: len(numbers)].max()
    assert crystals.bincount()[len(cells) :].max() <= 4
    assert bool((destination.diff() >= 0).all())
    assert bool((crystals.diff() >= 0).all())


def test_sizes_grow_with_what_is_given_and_end() -> None:
    graphed = GraphedM3GNet(load_m3gnet(M3GNET))
    sizes = [graphed.size(atoms, 1, 40 * atoms) for atoms in (1, 50, 200, 400, 2000)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert graphed.size(1, 1, 10**9) is None
    for atoms, crystals in ((1000, 1), (1, 1000)):  # few edges: there must be room for the others, and for a dummy
        assert graphed.size(atoms, crystals, 10) > sizes[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_replays_the_same() -> None:
    on_cpu, on_gpu = (M3GNetPotential(load_m3gnet(M3GNET).double(), device=device) for device in ("cpu", "cuda"))
    for crystals in (CRYSTALS, CRYSTALS[:1], CRYSTALS):
        given = tensors_of(crystals)
        for one, other in zip(on_gpu.compute(*(t.cuda() for t in given)), on_cpu.compute(*given), strict=True):
            torch.testing.assert_close(one.cpu(), other, atol=1e-8, rtol=0)
