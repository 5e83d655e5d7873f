from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph import CrystalGraph, affine_positions, edge_vectors
from deeprelax_ase.graph.torch_builder import build_graph
from deeprelax_ase.nn.heads import SCALE_RANGE
from deeprelax_ase.training.loss import (
    RelaxedGeometry,
    absolute_loss,
    deeprelax_loss,
    laplace_loss,
    relaxed_geometry,
)


@pytest.fixture
def graph(sample_crystals) -> CrystalGraph:
    return build_graph([sample_crystals["triclinic"], sample_crystals["one atom"], sample_crystals["thin"]])


@pytest.fixture
def relaxed(graph: CrystalGraph, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Relaxed positions and cells."""
    cell = graph.cell @ torch.diag(torch.tensor([0.97, 1.02, 0.95], dtype=torch.float64))
    return affine_positions(graph, cell) + torch.from_numpy(rng.normal(size=graph.positions.shape)) * 0.1, cell


def at_truth(truth: RelaxedGeometry, graph: CrystalGraph, scale: float) -> RelaxationQuantities:
    return RelaxationQuantities(
        distances=truth.distances,
        distance_scales=torch.full_like(truth.distances, scale),
        displacements=truth.displacements,
        displacement_scales=torch.full_like(truth.displacements, scale),
        cell=truth.cell,
        anchors=graph.positions,
    )


def test_laplace_loss_is_the_negative_log_likelihood(rng: np.random.Generator) -> None:
    predicted, target = torch.from_numpy(rng.normal(size=(2, 40)))
    scale = torch.from_numpy(rng.uniform(0.01, 3.0, size=40))
    expected = -torch.distributions.Laplace(predicted, scale).log_prob(target).mean()
    torch.testing.assert_close(laplace_loss(predicted, target, scale), expected, rtol=1e-14, atol=0)


def test_laplace_loss_is_least_where_the_scale_is_the_error() -> None:
    error = torch.tensor([0.3], dtype=torch.float64)
    losses = [laplace_loss(error, torch.zeros_like(error), torch.full_like(error, b)).item() for b in (0.29, 0.3, 0.31)]
    assert min(losses) == losses[1]
    assert losses[1] == pytest.approx(np.log(0.6) + 1)


@pytest.mark.parametrize("scale", SCALE_RANGE)
@pytest.mark.parametrize("error", [0.0, 1e-12, 30.0])
def test_gradients_are_finite_at_the_bounds_of_the_scale(scale: float, error: float) -> None:
    inputs = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (3.0 + error, scale)]
    laplace_loss(inputs[0], torch.tensor([3.0], dtype=torch.float64), inputs[1]).backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in inputs)


def test_nothing_costs_nothing() -> None:
    # A batch of crystals with one atom each has no pairs; Tensor.mean would make every weight nan.
    nothing = torch.zeros(0, requires_grad=True)
    for loss in (laplace_loss(nothing, nothing, nothing), absolute_loss(nothing, nothing)):
        assert loss.item() == 0
        loss.backward()


def test_loss_of_crystals_without_pairs_is_finite(sample_crystals) -> None:
    graph = build_graph([sample_crystals["one atom"]])
    truth = relaxed_geometry(graph, graph.positions, graph.cell, graph.positions)
    assert truth.displacements.shape == (0,)
    for uncertainty in (False, True):
        losses = deeprelax_loss(at_truth(truth, graph, 0.1), truth, uncertainty=uncertainty)
        assert all(loss.isfinite() for loss in losses.values())
        assert losses["displacement"] == 0


def test_relaxed_geometry_against_loops(graph: CrystalGraph, relaxed: tuple[Tensor, Tensor]) -> None:
    positions, cell = relaxed
    anchors = graph.positions
    truth = relaxed_geometry(graph, positions, cell, anchors)
    distances, displacements = [], []
    for e in range(graph.num_edges):
        j, i = graph.edge_index[:, e].tolist()
        k = graph.cell_offsets[e].tolist()
        image = positions[j] + sum(k[axis] * cell[graph.batch[i], axis] for axis in range(3))
        distances.append(float((image - positions[i]).norm()))
        if graph.in_cell[e]:
            displacements.append(float((positions[j] - anchors[i]).norm()))
    assert truth.distances.tolist() == pytest.approx(distances, abs=1e-12)
    assert truth.displacements.tolist() == pytest.approx(displacements, abs=1e-12)
    assert truth.cell is cell


def test_an_unrelaxed_crystal_is_its_own_truth(graph: CrystalGraph) -> None:
    truth = relaxed_geometry(graph, graph.positions, graph.cell, graph.positions)
    lengths = edge_vectors(graph).norm(dim=1)
    torch.testing.assert_close(truth.distances, lengths, rtol=0, atol=1e-13)
    torch.testing.assert_close(truth.displacements, lengths[graph.in_cell], rtol=0, atol=1e-13)


def test_without_uncertainty_the_loss_is_the_mean_absolute_error(
    graph: CrystalGraph, relaxed: tuple[Tensor, Tensor]
) -> None:
    truth = relaxed_geometry(graph, *relaxed, graph.positions)
    quantities = at_truth(truth, graph, 0.0)  # no scales: log(2 b) must not be asked for
    assert all(loss == 0 for loss in deeprelax_loss(quantities, truth, uncertainty=False).values())
    wrong = replace(
        quantities,
        distances=truth.distances + 0.25,
        displacements=(truth.displacements - 0.5).requires_grad_(),
        cell=truth.cell + 0.125,
    )
    losses = deeprelax_loss(wrong, truth, lattice_weight=10.0, uncertainty=False)
    values = {name: loss.item() for name, loss in losses.items()}
    assert values == pytest.approx({"loss": 2.0, "distance": 0.25, "displacement": 0.5, "lattice": 0.125}, abs=1e-12)
    losses["loss"].backward()
    assert wrong.displacements.grad is not None
    assert wrong.displacements.grad.isfinite().all()


def test_loss_is_the_sum_of_its_parts(graph: CrystalGraph, relaxed: tuple[Tensor, Tensor]) -> None:
    truth = relaxed_geometry(graph, *relaxed, graph.positions)
    quantities = at_truth(truth, graph, 0.2)
    wrong = replace(quantities, distances=truth.distances + 0.1, cell=truth.cell - 0.3)
    losses = deeprelax_loss(wrong, truth, lattice_weight=3.0)
    assert losses["distance"].item() == pytest.approx(np.log(0.4) + 0.5)
    assert losses["displacement"].item() == pytest.approx(np.log(0.4))
    assert losses["lattice"].item() == pytest.approx(0.3)
    assert losses["loss"].item() == pytest.approx(2 * np.log(0.4) + 0.5 + 0.9)
    assert deeprelax_loss(wrong, truth)["loss"].item() == pytest.approx(2 * np.log(0.4) + 0.5 + 0.3)
