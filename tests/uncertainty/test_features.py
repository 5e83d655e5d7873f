"""What the ensemble's relaxations tell of distances, and of their own error."""

from __future__ import annotations

import pytest
import torch

from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph import CrystalGraph, build_graph, edge_vectors
from deeprelax_ase.nn.deeprelax_e3 import network_input
from deeprelax_ase.nn.records import Relaxation
from deeprelax_ase.uncertainty.features import crystal_kinds, error_features, implied_distances, step_sizes
from deeprelax_ase.uncertainty.kinds import BULK, DEFECT, LAYER, OXIDE, SLAB
from tests.crystals import CRYSTALS


@pytest.fixture(scope="module")
def graph() -> CrystalGraph:
    return build_graph(list(CRYSTALS.values()))


# Distances and their scales


def members_of(graph: CrystalGraph, count: int = 1, **scales: float) -> Relaxation:
    """Random relaxations of ``graph`` with the scales that are given, otherwise none."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    strain = 0.05 * normal(count, graph.num_crystals, 3, 3)
    crystals = torch.zeros(count, graph.num_crystals, dtype=torch.float64)
    return Relaxation(
        displacements=0.1 * normal(count, graph.num_atoms, 3),
        strain=(strain + strain.mT) / 2,
        displacement_scales=torch.full((count, graph.num_atoms), scales.get("displacement", 0.0), dtype=torch.float64),
        volume_scales=crystals + scales.get("volume", 0.0),
        shape_scales=crystals + scales.get("shape", 0.0),
    )


def implied(graph: CrystalGraph, members: Relaxation) -> RelaxationQuantities:
    return implied_distances(members, graph, network_input(graph, 0))


def test_implied_distances_are_bonds_of_the_relaxed_crystal(graph: CrystalGraph):
    members = members_of(graph)
    stretch = torch.linalg.matrix_exp(members.strain[0])
    cell = graph.cell @ stretch
    positions = torch.einsum("nx,nxy->ny", graph.positions, stretch[graph.batch]) + members.displacements[0]
    bonds = torch.linalg.vector_norm(edge_vectors(graph, positions, cell), dim=1)
    torch.testing.assert_close(implied(graph, members).distances[0], bonds, rtol=0, atol=1e-9)


def test_every_scale_lengthens_those_of_distances(graph: CrystalGraph):
    none = implied(graph, members_of(graph))
    assert not none.distance_scales.any()
    scales: dict[str, float] = {}
    before = none.distance_scales
    for name in ("displacement", "volume", "shape"):
        scales[name] = 0.01
        after = implied(graph, members_of(graph, **scales)).distance_scales
        assert (after > before + 1e-5).all(), name
        before = after


def test_scales_of_distances(graph: CrystalGraph):
    """Against errors drawn at random: a displacement's component, a strain's on the bond."""
    displaced = implied(graph, members_of(graph, displacement=0.03)).distance_scales
    torch.testing.assert_close(displaced, torch.full_like(displaced, 0.03 * (2 / 3) ** 0.5), rtol=1e-12, atol=0)
    swollen = implied(graph, members_of(graph, volume=0.03))
    torch.testing.assert_close(swollen.distance_scales, 0.01 * swollen.distances, rtol=1e-12, atol=0)
    generator = torch.Generator().manual_seed(5)
    strain = torch.randn(200_000, 3, 3, generator=generator, dtype=torch.float64)
    strain = (strain + strain.mT) / 2
    strain = strain - torch.diag_embed((torch.diagonal(strain, dim1=1, dim2=2).mean(dim=1))[:, None].expand(-1, 3))
    strain = strain / torch.linalg.matrix_norm(strain)[:, None, None]
    sheared = implied(graph, members_of(graph, shape=0.03))
    on_the_bond = strain[:, 0, 0].square().mean().sqrt()
    expected = 0.03 * on_the_bond * sheared.distances
    torch.testing.assert_close(sheared.distance_scales, expected, rtol=0.01, atol=0)


# Error features


def test_error_features(graph: CrystalGraph):
    members = members_of(graph, 3, displacement=0.02, volume=0.03, shape=0.04)
    first = members_of(graph, 3, displacement=0.05, volume=0.06)
    features = error_features(members, first, graph, torch.arange(len(CRYSTALS)))
    assert features.kinds().tolist() == list(range(len(CRYSTALS)))
    scales = {"displacement_scale": 0.02, "volume_scale": 0.03, "shape_scale": 0.04}
    for name, value in (scales | {"first_displacement_scale": 0.05, "first_volume_scale": 0.06}).items():
        torch.testing.assert_close(getattr(features, name), torch.full((len(CRYSTALS),), value, dtype=torch.float64))
    moves, strain = members.displacements, members.strain
    for g in range(len(CRYSTALS)):
        own = moves[:, graph.batch == g]
        scatter = (own - own.mean(dim=0)).norm(dim=2).square().mean().sqrt()
        assert features.displacement_spread[g] == pytest.approx(float(scatter))
        assert features.last_displacement[g] == pytest.approx(float(own.mean(dim=0).norm(dim=1).square().mean().sqrt()))
        off = torch.linalg.matrix_norm(strain[:, g] - strain[:, g].mean(dim=0))
        assert features.strain_spread[g] == pytest.approx(float(off.square().mean().sqrt()))
        assert features.last_strain[g] == pytest.approx(float(torch.linalg.matrix_norm(strain[:, g].mean(dim=0))))


def test_kinds_are_told_by_the_crystals(graph: CrystalGraph):
    oxides = [8 in crystal.numbers for crystal in CRYSTALS.values()]
    none, all_ = torch.zeros(len(oxides), dtype=torch.bool), torch.ones(len(oxides), dtype=torch.bool)
    assert any(oxides)
    assert not all(oxides)
    assert crystal_kinds(graph, none, none).tolist() == [OXIDE if oxide else BULK for oxide in oxides]
    assert set(crystal_kinds(graph, all_, none).tolist()) == {LAYER}
    assert set(crystal_kinds(graph, all_, all_).tolist()) == {SLAB}
    assert set(crystal_kinds(graph, none, all_).tolist()) == {DEFECT}


# Steps


def test_steps_leave_cell_and_drift_apart():
    """The first crystal swells and is shifted as a whole; in the second, whose cell is kept, atoms part by 0.3 Å."""
    start = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]] * 2, dtype=torch.float64)
    end = start + torch.tensor([[0.1, 0, 0], [0.1, 0, 0], [0, 0, 0], [0.075, 0, 0]], dtype=torch.float64)
    cell = torch.stack([4.4 * torch.eye(3, dtype=torch.float64), 4 * torch.eye(3, dtype=torch.float64)])
    steps = step_sizes(start, end, cell, torch.tensor([0, 0, 1, 1]))
    assert steps == pytest.approx([0, 0.05], abs=1e-12)
