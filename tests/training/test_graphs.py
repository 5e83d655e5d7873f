from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.graph.crystal_graph import CrystalGraph, edge_vectors
from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.training import AugmentationSettings, TrainingSettings
from deeprelax_ase.training.augment import augment
from deeprelax_ase.training.graphs import KeptGraphs, kept_graphs, kept_planes

PairsOf = Callable[..., RelaxationPairs]
NARROW, WIDE = GraphSettings(cutoff=4.0, max_neighbors=8, max_in_cell=0), GraphSettings(cutoff=6.0, max_neighbors=20)
STILL = AugmentationSettings(interpolated=0, relaxed=0, strained=0, rattled=0, rewrapped=0)
CPU = torch.device("cpu")


def assert_same(actual: CrystalGraph, expected: CrystalGraph) -> None:
    for f in fields(CrystalGraph):
        one, other = getattr(actual, f.name), getattr(expected, f.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), f.name
            assert one.dtype == other.dtype, f.name
        else:
            assert one == other, f.name


def test_edges_join_atoms_within_the_cutoff_and_in_their_own_crystal(pairs_of: PairsOf) -> None:
    pairs = pairs_of(6)
    graph = pair_graph(pairs, WIDE)
    vectors = edge_vectors(graph, graph.positions, graph.cell)
    assert vectors.norm(dim=1)[~graph.in_cell].max() <= WIDE.cutoff
    source, destination = graph.edge_index
    assert torch.equal(graph.batch[source], graph.batch[destination])
    initial = torch.einsum("nk,nkx->nx", pairs.fractional_initial, pairs.cell_initial[pairs.batch])
    torch.testing.assert_close(graph.positions, initial, rtol=0, atol=1e-12)


@given(crystals=st.lists(st.integers(0, 9), min_size=1, max_size=12), wide=st.booleans())
@settings(max_examples=12)
def test_kept_graphs_are_those_that_would_be_built(pairs_of: PairsOf, crystals: list[int], wide: bool) -> None:
    pairs, chosen, graph = pairs_of(10, seed=3), torch.tensor(crystals), WIDE if wide else NARROW
    taken = pairs.take(chosen)
    assert_same(KeptGraphs.of(pairs, graph).take(chosen, taken), pair_graph(taken, graph))


@pytest.mark.parametrize("atoms", [1, 7, 1000])
def test_many_are_built_in_pieces(pairs_of: PairsOf, atoms: int) -> None:
    pairs = pairs_of(9)
    kept = KeptGraphs.of(pairs, NARROW, atoms_at_once=atoms)
    assert_same(kept.whole, pair_graph(pairs, NARROW))
    assert kept.edges.sum() == kept.whole.edge_index.shape[1]


def test_graphs_are_kept_where_nothing_changes_them(pairs_of: PairsOf) -> None:
    pairs = pairs_of(4)
    still = TrainingSettings(augmentation=STILL)
    assert kept_graphs(pairs, NARROW, still, CPU) is not None
    assert kept_graphs(pairs, NARROW, replace(still, keep_graphs=False), CPU) is None
    assert kept_graphs(pairs, NARROW, replace(still, augmentation=replace(STILL, perturbed=0.1)), CPU) is None
    assert kept_graphs(pairs, NARROW, still, torch.device("meta")) is None  # the pairs lie elsewhere


def test_augmentation_does_the_same_with_planes_that_are_kept(pairs_of: PairsOf) -> None:
    pairs = pairs_of(60)
    layers = torch.arange(60) % 3 == 0
    tall = torch.where(layers, 20.0, 1.0)[:, None]
    cell = torch.cat([pairs.cell_initial[:, :2], pairs.cell_initial[:, 2:] * tall[:, None]], dim=1)
    flat = pairs.fractional_initial / torch.cat([torch.ones(60, 2), tall], dim=1)[pairs.batch]
    pairs = replace(pairs, cell_initial=cell, cell_relaxed=cell, fractional_initial=flat, fractional_relaxed=flat)
    settings = TrainingSettings(atoms_per_batch=40, augmentation=AugmentationSettings(strained=1.0))
    planes = kept_planes(pairs, settings)
    assert planes is not None
    assert torch.equal(planes.diagonal(dim1=1, dim2=2).sum(dim=1).round() == 2, layers)

    chosen = torch.tensor([7, 3, 59, 0, 30, 3])
    found, kept = (
        augment(pairs.take(chosen), settings.augmentation, torch.Generator().manual_seed(1), planes=given)
        for given in (None, planes[chosen])
    )
    assert torch.equal(kept.cell_initial, found.cell_initial)
    assert not torch.equal(kept.cell_initial, cell[chosen])


def test_planes_are_kept_where_augmentation_leaves_them(pairs_of: PairsOf) -> None:
    pairs = pairs_of(6)
    assert kept_planes(pairs, TrainingSettings(augmentation=STILL)) is None
    assert kept_planes(pairs, TrainingSettings(augmentation=replace(STILL, sheared=0.1))) is None
    assert kept_planes(pairs, TrainingSettings(augmentation=replace(STILL, strained=0.1))) is not None
