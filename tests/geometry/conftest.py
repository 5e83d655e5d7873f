"""Crystals with known distances, on which the solver can be tested without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph import CrystalGraph, affine_positions, build_graph, edge_vectors


@dataclass(frozen=True, eq=False)
class Problem:
    """A batch of crystals, the quantities that a perfect network would predict, and the relaxed positions."""

    graph: CrystalGraph
    quantities: RelaxationQuantities
    relaxed: Tensor

    def with_noise(self, scale: float, *, seed: int, bounds: float = 1.0) -> Problem:
        """Gaussian errors, their size drawn per distance up to ``scale`` Å and told by the Laplace scales."""
        generator = torch.Generator().manual_seed(seed)

        def noisy(values: Tensor) -> tuple[Tensor, Tensor]:
            sizes = scale * torch.rand(values.shape, generator=generator, dtype=values.dtype)
            errors = sizes * torch.randn(values.shape, generator=generator, dtype=values.dtype)
            return (values + errors).abs(), bounds * sizes

        distances, distance_scales = noisy(self.quantities.distances)
        displacements, displacement_scales = noisy(self.quantities.displacements)
        predicted = replace(
            self.quantities,
            distances=distances,
            distance_scales=distance_scales,
            displacements=displacements,
            displacement_scales=displacement_scales,
        )
        return replace(self, quantities=predicted)


def exact_quantities(graph: CrystalGraph, positions: Tensor, cell: Tensor) -> RelaxationQuantities:
    """What a perfect network without uncertainty predicts for atoms that relax to ``positions`` in ``cell``."""
    anchors = affine_positions(graph, cell)
    source, destination = graph.edge_index[:, graph.in_cell]
    distances = torch.linalg.vector_norm(edge_vectors(graph, positions, cell), dim=1)
    displacements = torch.linalg.vector_norm(positions[source] - anchors[destination], dim=1)
    zeros = torch.zeros_like
    return RelaxationQuantities(distances, zeros(distances), displacements, zeros(displacements), cell, anchors)


def problem(initial: list[Crystal], relaxed: list[Crystal]) -> Problem:
    graph = build_graph(initial)
    positions = torch.from_numpy(np.concatenate([c.positions for c in relaxed]))
    cell = torch.from_numpy(np.stack([c.cell for c in relaxed]))
    return Problem(graph, exact_quantities(graph, positions, cell), positions)


@pytest.fixture(scope="session")
def real_problem(data_crystals: Callable[..., list[Crystal]], data_pairs: Callable) -> Callable[..., Problem]:
    """``real_problem(universal=20, xmno=10)``: so many crystals of the relaxation pairs, drawn at random."""

    def draw(seed: int = 0, **counts: int) -> Problem:
        rng = np.random.default_rng(seed)
        initial, relaxed = [], []
        for name, count in counts.items():
            chosen = rng.choice(len(data_pairs(name)["dft"]), count, replace=False)
            initial += data_crystals(name, chosen, which="initial")
            relaxed += data_crystals(name, chosen, which="relaxed")
        return problem(initial, relaxed)

    return draw


@pytest.fixture(scope="session")
def sample_problem(sample_crystals: dict[str, Crystal]) -> Problem:
    """The sample crystals, strained and rattled."""
    rng = np.random.default_rng(5)
    relaxed = []
    for crystal in sample_crystals.values():
        strain = np.eye(3) + rng.uniform(-0.04, 0.04, size=(3, 3))
        displacements = rng.normal(scale=0.1, size=crystal.positions.shape)
        displacements -= displacements.mean(axis=0)
        relaxed.append(crystal.with_geometry(crystal.positions @ strain + displacements, crystal.cell @ strain))
    return problem(list(sample_crystals.values()), relaxed)
