from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph import CrystalGraph, edge_vectors
from deeprelax_ase.graph.torch_builder import build_graph
from deeprelax_ase.nn import DeepRelaxConfig
from deeprelax_ase.nn.basis import GaussianBasis
from deeprelax_ase.nn.paegnn import NORM_EPSILON, MessagePhase, PaEGNN, UpdatePhase, smooth_norm

F, BASIS, MEAN = 16, 12, 30
Shuffle = Callable[[nn.Module], nn.Module]
#: Every neighbour within the cutoff, so that no choice among neighbours depends on the cell.
ALL_NEIGHBORS = DeepRelaxConfig(max_neighbors=300, max_in_cell=20)


@pytest.fixture
def backbone(shuffled: Shuffle) -> PaEGNN:
    return shuffled(PaEGNN(F, 2, BASIS, 100, MEAN))  # type: ignore[return-value]


def run(backbone: PaEGNN, graph: CrystalGraph) -> tuple[Tensor, Tensor]:
    vectors = edge_vectors(graph)
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    features = GaussianBasis(BASIS, 12.0).double()(lengths)
    return backbone(graph.numbers, graph.edge_index, features, vectors / lengths[:, None])


def moved(crystal: Crystal, isometry: Tensor) -> Crystal:
    q = isometry.numpy()
    return Crystal(crystal.numbers, crystal.positions @ q, crystal.cell @ q)


def random_features(atoms: int, edges: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    directions = normal(edges, 3)
    return {
        "x": normal(atoms, F),
        "v": normal(atoms, 3, F),
        "edge_index": torch.randint(atoms, (2, edges), generator=generator),
        "edge_features": normal(edges, BASIS),
        "directions": directions / directions.norm(dim=1, keepdim=True),
    }


def test_message_phase_is_equations_4_and_5(shuffled: Shuffle) -> None:
    phase = shuffled(MessagePhase(F, BASIS, MEAN))
    given = random_features(5, 23)
    m, m_vec = phase(**given)
    w = phase.scalars(phase.norm(given["x"]))
    w_h, w_u, w_v = w[:, :F], w[:, F : 2 * F], w[:, 2 * F :]
    expected, expected_vec = torch.zeros(5, F).double(), torch.zeros(5, 3, F).double()
    for e, (j, i) in enumerate(given["edge_index"].T.tolist()):
        gamma = phase.filters.weight @ given["edge_features"][e] + phase.filters.bias
        gamma_h, gamma_u, gamma_v = gamma[:F], gamma[F : 2 * F], gamma[2 * F :]
        expected[i] += w_h[j] * gamma_h
        for axis in range(3):
            expected_vec[i, axis] += w_u[j] * gamma_u * given["v"][j, axis]
            expected_vec[i, axis] += w_v[j] * gamma_v * given["directions"][e, axis]
    torch.testing.assert_close(m, expected / MEAN**0.5, rtol=0, atol=1e-13)
    torch.testing.assert_close(m_vec, expected_vec / MEAN**0.5, rtol=0, atol=1e-13)


def test_update_phase_is_equations_6_and_7(shuffled: Shuffle) -> None:
    phase = shuffled(UpdatePhase(F))
    given = random_features(4, 1)
    dx, dv = phase(given["x"], given["v"])
    big_u, big_v = phase.mix.weight[:F], phase.mix.weight[F:]
    normalised = phase.norm(given["x"])
    for i in range(4):
        u_m = [big_u @ given["v"][i, axis] for axis in range(3)]
        v_m = [big_v @ given["v"][i, axis] for axis in range(3)]
        norm = torch.sqrt(sum(part**2 for part in u_m) + NORM_EPSILON) - NORM_EPSILON**0.5
        s1, s2, w_v = phase.weights(torch.cat([normalised[i], norm])).split(F)
        inner = sum(a * b for a, b in zip(v_m, u_m, strict=True)) / F**0.5
        torch.testing.assert_close(dx[i], s1 + s2 * inner, rtol=0, atol=1e-13)
        for axis in range(3):
            torch.testing.assert_close(dv[i, axis], w_v * v_m[axis], rtol=0, atol=1e-13)


def test_layers_are_messages_then_updates_with_skip_connections(backbone: PaEGNN, sample_crystals) -> None:
    graph = build_graph([sample_crystals["triclinic"]])
    vectors = edge_vectors(graph)
    lengths = vectors.norm(dim=1)
    edges = (graph.edge_index, GaussianBasis(BASIS, 12.0).double()(lengths), vectors / lengths[:, None])
    x = backbone.embedding.weight[graph.numbers]
    v = torch.zeros(4, 3, F).double()
    for message, update in zip(backbone.messages, backbone.updates, strict=True):
        m, m_vec = message(x, v, *edges)
        dx, dv = update(x + m, v + m_vec)
        x, v = x + m + dx, v + m_vec + dv
    actual_x, actual_v = backbone(graph.numbers, *edges)
    torch.testing.assert_close(actual_x, backbone.norm(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(actual_v, v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["rocksalt", "triclinic", "skewed", "thin", "one atom"])
def test_scalars_stay_and_vectors_turn(backbone: PaEGNN, sample_crystals, isometry: Tensor, name: str) -> None:
    x, v = run(backbone, build_graph([sample_crystals[name]]))
    turned_x, turned_v = run(backbone, build_graph([moved(sample_crystals[name], isometry)]))
    torch.testing.assert_close(turned_x, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned_v, torch.einsum("nxf,xy->nyf", v, isometry), rtol=0, atol=1e-10)


def test_the_vectors_are_not_all_zero(backbone: PaEGNN, sample_crystals) -> None:
    _, v = run(backbone, build_graph([sample_crystals["triclinic"]]))
    assert v.norm(dim=1).min() > 1e-3


def test_features_move_with_the_atoms(backbone: PaEGNN, sample_crystals) -> None:
    crystal, order = sample_crystals["triclinic"], [2, 0, 3, 1]
    x, v = run(backbone, build_graph([crystal]))
    permuted = Crystal(crystal.numbers[order], crystal.positions[order], crystal.cell)
    permuted_x, permuted_v = run(backbone, build_graph([permuted]))
    torch.testing.assert_close(permuted_x, x[order], rtol=0, atol=1e-11)
    torch.testing.assert_close(permuted_v, v[order], rtol=0, atol=1e-11)


def test_replicas_in_a_supercell_have_the_features_of_the_cell(backbone: PaEGNN, rng: np.random.Generator) -> None:
    cell = np.eye(3) * 3.3 + rng.normal(size=(3, 3)) * 0.1
    crystal = Crystal([55, 17], np.array([[0.0, 0, 0], [1.65, 1.6, 1.7]]), cell)
    double = Crystal(
        np.tile(crystal.numbers, 2),
        np.concatenate([crystal.positions, crystal.positions + cell[0]]),
        np.diag([2.0, 1, 1]) @ cell,
    )
    one, two = (build_graph([c], settings=ALL_NEIGHBORS.graph) for c in (crystal, double))
    assert two.num_edges == 2 * one.num_edges  # the same neighbours: no pair inside the cell is beyond the cutoff
    (x, v), (double_x, double_v) = run(backbone, one), run(backbone, two)
    torch.testing.assert_close(double_x, x.repeat(2, 1), rtol=0, atol=1e-11)
    torch.testing.assert_close(double_v, v.repeat(2, 1, 1), rtol=0, atol=1e-11)


def test_an_isolated_pair_of_graphs_does_not_mix(backbone: PaEGNN, sample_crystals) -> None:
    crystals = [sample_crystals[name] for name in ("triclinic", "hcp", "one atom")]
    x, v = run(backbone, build_graph(crystals))
    alone = [run(backbone, build_graph([crystal])) for crystal in crystals]
    torch.testing.assert_close(x, torch.cat([a[0] for a in alone]), rtol=0, atol=1e-12)
    torch.testing.assert_close(v, torch.cat([a[1] for a in alone]), rtol=0, atol=1e-12)


def test_symmetry_makes_vectors_zero_and_their_gradient_stays_finite(backbone: PaEGNN, sample_crystals) -> None:
    graph = build_graph([sample_crystals["rocksalt"]])
    x, v = run(backbone, graph)
    assert v.abs().max() < 1e-12  # every atom is a centre of inversion
    (x.square().sum() + v.square().sum()).backward()
    gradients = [p.grad for p in backbone.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_the_norm_is_smooth_at_zero_and_a_norm_far_from_it() -> None:
    zero = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    smooth_norm(zero).sum().backward()
    assert zero.grad is not None
    assert torch.equal(zero.grad, torch.zeros_like(zero))
    assert torch.equal(smooth_norm(zero.detach()), torch.zeros(2, 4).double())
    # A plain norm written the same way would not do.
    plain = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    plain.square().sum(dim=1).sqrt().sum().backward()
    assert plain.grad is not None
    assert plain.grad.isnan().all()
    vectors = torch.tensor([[[300.0], [400.0], [0.0]]], dtype=torch.float64)
    assert smooth_norm(vectors).item() == pytest.approx(500.0 - NORM_EPSILON**0.5, abs=1e-4)
    assert torch.autograd.gradcheck(smooth_norm, torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True))
