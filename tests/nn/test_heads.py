from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.strain import symmetric_exponential
from deeprelax_ase.graph import CrystalGraph
from deeprelax_ase.nn import DeepRelaxConfig
from deeprelax_ase.nn.heads import SCALE_RANGE, DistanceHead, LatticeHead, StrainHead, bounded_scale, start_at_zero

F, BASIS = 16, 12
Shuffle = Callable[[nn.Module], nn.Module]
#: Every neighbour within the cutoff, so that no choice among neighbours depends on the cell.
ALL_NEIGHBORS = DeepRelaxConfig(max_neighbors=400, max_in_cell=20)


def moved(crystal: Crystal, isometry: Tensor) -> Crystal:
    q = isometry.numpy()
    return Crystal(crystal.numbers, crystal.positions @ q, crystal.cell @ q)


def deformation(predicted: Tensor, graph: CrystalGraph) -> Tensor:
    """(G, 3, 3) Cartesian map from the cell of the graph to the predicted one."""
    return torch.linalg.solve(graph.cell, predicted)


# -- distances


def test_scales_stay_within_their_range_with_finite_gradients() -> None:
    raw = torch.tensor([-1e30, -1e4, -50.0, -1.0, 0.0, 1.0, 50.0, 1e4, 1e30], dtype=torch.float64, requires_grad=True)
    scale = bounded_scale(raw)
    low, high = SCALE_RANGE
    assert scale.min() >= low * (1 - 1e-12)
    assert scale.max() <= high * (1 + 1e-12)
    assert (scale.diff() >= 0).all()
    assert scale[4].item() == pytest.approx((low * high) ** 0.5)
    scale.log().sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert (raw.grad[3:6] > 0.1).all()


def distance_inputs(atoms: int = 4, edges: int = 9) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "x": normal(atoms, F),
        "v": normal(atoms, 3, F),
        "edge_index": torch.randint(atoms, (2, edges), generator=generator),
        "edge_features": normal(edges, BASIS),
        "directions": normal(edges, 3),
    }


@pytest.mark.parametrize("uncertainty", [False, True])
def test_distance_head_is_a_map_of_the_concatenation(shuffled: Shuffle, uncertainty: bool) -> None:
    head = shuffled(DistanceHead(F, BASIS, directional=False, uncertainty=uncertainty, residual=False))
    given = distance_inputs()
    distance, scale = head(**given)
    # Eqs. (8)-(9): one linear map of x_j, x_i and the edge side by side, then SiLU and the outputs.
    joint = torch.cat([head.source.weight, head.destination.weight, head.edge.weight], dim=1)
    bias = head.source.bias + head.destination.bias + head.edge.bias
    source, destination = given["edge_index"]
    side_by_side = torch.cat([given["x"][source], given["x"][destination], given["edge_features"]], dim=1)
    output = head.output(side_by_side @ joint.T + bias)
    torch.testing.assert_close(distance, output[:, 0], rtol=0, atol=1e-13)
    assert (scale is None) != uncertainty
    if uncertainty:
        torch.testing.assert_close(scale, bounded_scale(output[:, 1]), rtol=1e-13, atol=0)


def test_directional_head_sees_bonds_and_turns_with_them(shuffled: Shuffle, isometry: Tensor) -> None:
    head = shuffled(DistanceHead(F, BASIS, directional=True, uncertainty=True, residual=False))
    given = distance_inputs()
    distance, scale = head(**given)
    turned = {**given, "v": torch.einsum("nxf,xy->nyf", given["v"], isometry)}
    unlike, _ = head(**turned)
    assert (unlike - distance).abs().max() > 1e-2  # it reads the vectors ...
    turned["directions"] = given["directions"] @ isometry
    turned_distance, turned_scale = head(**turned)
    torch.testing.assert_close(turned_distance, distance, rtol=0, atol=1e-12)  # ... relative to the bonds alone
    torch.testing.assert_close(turned_scale, scale, rtol=1e-12, atol=0)


def test_residual_head_starts_at_zero_with_the_middle_scale() -> None:
    head = DistanceHead(F, BASIS, directional=True, uncertainty=True, residual=True).double()
    distance, scale = head(**distance_inputs())
    assert torch.equal(distance, torch.zeros_like(distance))
    torch.testing.assert_close(scale, torch.full_like(scale, (SCALE_RANGE[0] * SCALE_RANGE[1]) ** 0.5))
    (distance.sum() + scale.sum()).backward()
    assert head.output[-1].weight.grad.abs().max() > 0  # and yet it learns


def test_start_at_zero_clears_weights_and_bias() -> None:
    linear = nn.Linear(3, 2)
    assert start_at_zero(linear) is linear
    assert not linear.weight.any()
    assert not linear.bias.any()


# -- cell: strain


def test_strained_cell_turns_with_the_crystal(network, graph_of, sample_crystals, isometry: Tensor) -> None:
    net = network()
    for name in ("triclinic", "skewed", "hcp", "one atom", "left-handed"):
        cell, turned = (
            net(graph_of(crystal, net.config)).cell
            for crystal in (sample_crystals[name], moved(sample_crystals[name], isometry))
        )
        torch.testing.assert_close(
            turned, cell @ isometry, rtol=0, atol=1e-10 * np.abs(sample_crystals[name].cell).max()
        )
        assert (cell[0] - torch.tensor(sample_crystals[name].cell)).abs().max() > 1e-3  # it does strain the cell


def other_cells(crystal: Crystal) -> dict[str, Crystal]:
    """The same crystal in other cells; the atoms stay where they are."""
    numbers, positions, cell = crystal.numbers, crystal.positions, crystal.cell
    shear = np.array([[1.0, 0, 0], [1, 1, 0], [0, -1, 1]])
    return {
        "permuted": Crystal(numbers, positions, cell[[2, 0, 1]]),
        "inverted": Crystal(numbers, positions, -cell),
        "sheared": Crystal(numbers, positions, shear @ cell),
        "rewrapped": Crystal(numbers, positions + np.array([[0, 0, 0], [1, -1, 0]]) @ cell, cell),
        "doubled": Crystal(
            np.tile(numbers, 2), np.concatenate([positions, positions + cell[1]]), np.diag([1, 2, 1]) @ cell
        ),
    }


@pytest.mark.parametrize("name", ["permuted", "inverted", "sheared", "rewrapped", "doubled"])
def test_strain_does_not_depend_on_the_choice_of_the_cell(
    network, graph_of, rng: np.random.Generator, name: str
) -> None:
    crystal = Crystal([55, 17], [[0.0, 0, 0], [1.65, 1.6, 1.7]], np.eye(3) * 3.3 + rng.normal(size=(3, 3)) * 0.1)
    net = network(ALL_NEIGHBORS, cutoff=9.0)
    graph, other = (graph_of(c, net.config) for c in (crystal, other_cells(crystal)[name]))
    assert other.num_edges * graph.num_atoms == graph.num_edges * other.num_atoms  # the same neighbours
    expected, actual = deformation(net(graph).cell, graph), deformation(net(other).cell, other)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    assert (expected[0] - torch.eye(3)).abs().max() > 1e-3


def test_strain_has_no_rotation(network, graph_of, sample_crystals) -> None:
    net = network()
    graph = graph_of(list(sample_crystals.values()), net.config)
    stretch = deformation(net(graph).cell, graph)
    torch.testing.assert_close(stretch, stretch.mT, rtol=0, atol=1e-9)


def test_strain_keeps_the_symmetry_of_a_cubic_crystal(network, graph_of, sample_crystals) -> None:
    net = network()
    graph = graph_of(sample_crystals["rocksalt"], net.config)
    stretch = deformation(net(graph).cell, graph)[0]
    torch.testing.assert_close(stretch, torch.eye(3).double() * stretch[0, 0], rtol=0, atol=1e-12)
    assert abs(stretch[0, 0] - 1) > 1e-4


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_predicted_volume_is_positive_however_wild_the_network(
    network, graph_of, sample_crystals, shuffled, spread: float
) -> None:
    net = network()
    shuffled(net.lattice_head, spread=spread)
    graph = graph_of(list(sample_crystals.values()), net.config)
    stretch = deformation(net(graph).cell, graph)
    assert stretch.isfinite().all()
    assert (torch.linalg.eigvalsh(stretch) > 0).all()


def test_strain_head_is_the_mean_over_atoms_of_its_bonds(shuffled: Shuffle) -> None:
    head = shuffled(StrainHead(F, BASIS, 30.0), spread=0.3)  # type: ignore[call-arg]
    given = distance_inputs(atoms=5, edges=14)
    batch = torch.tensor([0, 0, 1, 1, 1])
    members = [torch.tensor([0, 1]), torch.tensor([2, 3, 4])]
    edge_index = torch.cat([members[0][given["edge_index"][:, :6] % 2], members[1][given["edge_index"][:, 6:] % 3]], 1)
    cell = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x, directions = given["x"], given["directions"]
    strain = torch.zeros(2, 3, 3).double()
    for i in range(5):
        strain[batch[i]] += head.isotropic(x[i]) * torch.eye(3)
    for e, (j, i) in enumerate(edge_index.T.tolist()):
        hidden = head.source(x[j]) + head.destination(x[i]) + head.edge(given["edge_features"][e])
        strain[batch[i]] += head.output(hidden) / 30**0.5 * torch.outer(directions[e], directions[e])
    strain = strain / torch.tensor([2.0, 3.0])[:, None, None]
    actual = head(x, cell, batch, edge_index, given["edge_features"], directions)
    torch.testing.assert_close(actual, cell @ symmetric_exponential(strain), rtol=0, atol=1e-12)


# -- cell: as in the paper


@pytest.mark.parametrize("residual", [False, True])
def test_lattice_head_is_equation_10(shuffled: Shuffle, residual: bool) -> None:
    head = shuffled(LatticeHead(F, residual=residual))
    generator = torch.Generator().manual_seed(4)
    x, cell = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, F), (2, 3, 3)))
    batch = torch.tensor([0, 0, 0, 1, 1])
    actual = head(x, cell, batch)
    for g, atoms in enumerate(([0, 1, 2], [3, 4])):
        pooled = sum(head.atoms(x[i]) for i in atoms)
        nine = torch.cat([cell[g, 0], cell[g, 1], cell[g, 2]])
        expected = head.output(torch.cat([head.lattice(nine), pooled])).reshape(3, 3)
        torch.testing.assert_close(actual[g], expected + residual * cell[g], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["absolute", "residual"])
def test_papers_lattice_head_is_not_equivariant_but_its_distances_are(
    network, graph_of, sample_crystals, rotation: Tensor, kind: str
) -> None:
    net = network(lattice_head=kind, distance_baseline="none", directional_heads=False)
    crystal = sample_crystals["triclinic"]
    quantities, turned = (net(graph_of(c, net.config)) for c in (crystal, moved(crystal, rotation)))
    disagreement = (turned.cell - quantities.cell @ rotation).abs().mean()
    assert disagreement > 0.1  # Å; an equivariant head would stay below 1e-10
    for name in ("distances", "distance_scales", "displacements", "displacement_scales"):
        torch.testing.assert_close(getattr(turned, name), getattr(quantities, name), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["absolute", "residual"])
def test_papers_lattice_head_depends_on_the_choice_of_the_cell(network, graph_of, sample_crystals, kind: str) -> None:
    net = network(lattice_head=kind)
    crystal = sample_crystals["triclinic"]
    permuted = Crystal(crystal.numbers, crystal.positions, crystal.cell[[2, 0, 1]])
    cell, other = (net(graph_of(c, net.config)).cell for c in (crystal, permuted))
    assert (other[:, [1, 2, 0]] - cell).abs().mean() > 0.1  # Å


def test_untrained_residual_head_returns_the_cell_and_absolute_head_nothing() -> None:
    x, cell, batch = torch.randn(3, F), torch.randn(1, 3, 3), torch.zeros(3, dtype=torch.int64)
    assert torch.equal(LatticeHead(F, residual=True)(x, cell, batch), cell)
    assert not LatticeHead(F, residual=False)(x, cell, batch).any()


def test_untrained_network_returns_the_crystal_to_full_precision_under_autocast(
    network, graph_of, sample_crystals
) -> None:
    net = network(shuffled=False).float()
    graph = replace(graph_of(list(sample_crystals.values()), net.config)).to(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        quantities = net(graph)
    assert torch.equal(quantities.cell, graph.cell)
    assert (quantities.anchors - graph.positions).abs().max() < 1e-4  # the longest of them are at 70 Å
