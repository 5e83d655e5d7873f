from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry import distance_bounds
from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.geometry.terms import PullEvaluator, distance_terms, select_atoms
from deeprelax_ase.graph import CrystalGraph, build_graph, edge_vectors


def rounded_loss(graph: CrystalGraph, quantities: RelaxationQuantities, positions: Tensor, softness: float) -> Tensor:
    """Equation (20) with each kink replaced by a parabola of the given width, written for autograd."""
    source, destination = graph.edge_index[:, graph.in_cell]
    lengths = [
        torch.linalg.vector_norm(edge_vectors(graph, positions, quantities.cell), dim=1),
        torch.linalg.vector_norm(positions[source] - quantities.anchors[destination], dim=1),
    ]
    bounds = [
        distance_bounds(quantities.distances, quantities.distance_scales),
        distance_bounds(quantities.displacements, quantities.displacement_scales),
    ]
    total = positions.new_zeros(())
    for length, (lower, upper) in zip(lengths, bounds, strict=True):
        outside = torch.relu(length - upper) + torch.relu(lower - length)
        total = total + torch.where(outside < softness, outside**2 / (2 * softness), outside - softness / 2).sum()
    return total


@pytest.mark.parametrize("softness", [1e-3, 0.05])
def test_the_pull_is_the_gradient_of_the_rounded_loss(sample_problem, softness: float):
    noisy = sample_problem.with_noise(0.1, seed=1)
    positions = noisy.relaxed.clone().requires_grad_()
    rounded_loss(noisy.graph, noisy.quantities, positions, softness).backward()
    pull = PullEvaluator(distance_terms(noisy.graph, noisy.quantities))(noisy.relaxed.T.contiguous(), softness)
    torch.testing.assert_close(pull.T, positions.grad, rtol=0, atol=1e-10)
    assert positions.grad.abs().max() > 1


def test_pulls_inside_the_bounds_are_exactly_zero(sample_problem):
    wide = sample_problem.with_noise(0.05, seed=2, bounds=100.0)
    pull = PullEvaluator(distance_terms(wide.graph, wide.quantities))(wide.relaxed.T.contiguous(), 1e-3)
    assert not pull.any()


def test_coincident_points_do_not_pull(sample_problem):
    nowhere = torch.zeros_like(sample_problem.relaxed).T.contiguous()
    quantities = sample_problem.quantities
    pull = PullEvaluator(distance_terms(sample_problem.graph, quantities))(nowhere, 1e-3)
    assert pull.isfinite().all()


def test_an_atom_and_its_images_are_no_term(sample_crystals: dict[str, Crystal]):
    crystal = sample_crystals["one atom"]
    graph = build_graph([crystal])
    lengths = torch.ones(graph.num_edges, dtype=torch.float64)
    none = lengths.new_zeros(0)
    terms = distance_terms(graph, RelaxationQuantities(lengths, lengths, none, none, graph.cell, graph.positions))
    assert len(terms.source) == 0
    assert not PullEvaluator(terms)(graph.positions.T.contiguous(), 1e-3).any()


def test_selected_crystals_pull_as_they_did_among_the_others(sample_problem):
    noisy = sample_problem.with_noise(0.1, seed=3)
    terms = distance_terms(noisy.graph, noisy.quantities)
    positions = noisy.relaxed.T.contiguous()
    kept = noisy.graph.batch % 2 == 1
    everything = PullEvaluator(terms)(positions, 1e-2)
    selected = PullEvaluator(select_atoms(terms, kept))(positions[:, kept].contiguous(), 1e-2)
    torch.testing.assert_close(selected, everything[:, kept], rtol=0, atol=1e-13)
    assert torch.equal(select_atoms(terms, kept).batch, noisy.graph.batch[kept])
