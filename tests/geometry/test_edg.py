from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry import EDGSettings, bounded_euclidean_distance_loss, distance_bounds, solve_edg
from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph import CrystalGraph, affine_positions, build_graph, edge_vectors

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA is not available")),
]


def crystal_means(values: Tensor, graph: CrystalGraph) -> Tensor:
    return torch.stack([values[graph.batch == g].mean(dim=0) for g in range(graph.num_crystals)])


def largest_errors(positions: Tensor, expected: Tensor, graph: CrystalGraph, *, drift: bool = True) -> Tensor:
    """(G,) Å, the largest distance of an atom from where it belongs; with ``drift``, up to a common displacement."""
    errors = positions - expected
    if drift:
        errors = errors - crystal_means(errors, graph)[graph.batch]
    norms = errors.norm(dim=1)
    return torch.stack([norms[graph.batch == g].max() for g in range(graph.num_crystals)])


def map_tensors(record, function: Callable[[str, Tensor], Tensor]):
    return replace(record, **{f.name: function(f.name, getattr(record, f.name)) for f in fields(record)})


def single(problem, crystal: int):
    """The crystal alone, out of a batch."""
    graph, quantities = problem.graph, problem.quantities
    atoms = graph.batch == crystal
    edges = atoms[graph.edge_index[1]]
    pairs = edges[graph.in_cell]
    parts = {"distances": edges, "distance_scales": edges, "displacements": pairs, "displacement_scales": pairs}
    alone = CrystalGraph(
        numbers=graph.numbers[atoms],
        positions=graph.positions[atoms],
        cell=graph.cell[[crystal]],
        batch=graph.batch[atoms] - crystal,
        edge_index=graph.edge_index[:, edges] - int(atoms.nonzero()[0]),
        cell_offsets=graph.cell_offsets[edges],
        in_cell=graph.in_cell[edges],
    )
    own = map_tensors(
        quantities,
        lambda name, t: t[parts[name]] if name in parts else t[[crystal]] if name == "cell" else t[atoms],
    )
    return alone, own, atoms


@pytest.mark.parametrize("device", DEVICES)
def test_exact_distances_give_the_relaxed_crystal(real_problem, device: str):
    exact = real_problem(universal=45, xmno=15)
    solution = solve_edg(exact.graph.to(device), map_tensors(exact.quantities, lambda _, t: t.to(device)))
    errors = largest_errors(solution.positions.cpu(), exact.relaxed, exact.graph, drift=False)
    assert largest_errors(exact.quantities.anchors, exact.relaxed, exact.graph).max() > 0.3
    assert errors.max() < 1e-3
    assert solution.converged.all()
    assert solution.loss.max() < 1e-4


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
def test_a_perturbed_crystal_is_recovered(real_problem, noise: float):
    exact = real_problem(seed=1, universal=45, xmno=15)
    generator = torch.Generator().manual_seed(0)
    noise_vectors = torch.randn(exact.relaxed.shape, generator=generator, dtype=torch.float64) * noise / 3**0.5
    start = exact.relaxed + noise_vectors
    solution = solve_edg(exact.graph, exact.quantities, start=start)
    errors = largest_errors(solution.positions, exact.relaxed, exact.graph, drift=False)
    assert errors.max() < 1e-3
    assert solution.converged.all()


def test_awkward_cells_are_recovered(sample_problem):
    solution = solve_edg(sample_problem.graph, sample_problem.quantities)
    errors = largest_errors(solution.positions, sample_problem.relaxed, sample_problem.graph, drift=False)
    assert largest_errors(sample_problem.quantities.anchors, sample_problem.relaxed, sample_problem.graph).max() > 0.1
    assert solution.converged.all()
    # Two atoms 3 Å apart in a cell of 20 Å have no neighbours that would fix the direction between them.
    sparse = sample_problem.graph.batch[sample_problem.graph.numbers == 18][0]
    fixed = torch.arange(len(errors)) != sparse
    assert errors[fixed].max() < 1e-3
    assert solution.loss[fixed].max() < 1e-4


def test_noisy_quantities_come_to_rest(real_problem):
    noisy = real_problem(seed=2, universal=30, xmno=10).with_noise(0.1, seed=4)
    solution = solve_edg(noisy.graph, noisy.quantities)
    before = largest_errors(noisy.quantities.anchors, noisy.relaxed, noisy.graph).mean()
    assert solution.converged.all()
    assert solution.loss.min() > 1e-3
    assert largest_errors(solution.positions, noisy.relaxed, noisy.graph).mean() < 0.1 * before


def test_the_loss_reported_is_the_mean_of_equation_20(sample_problem):
    noisy = sample_problem.with_noise(0.2, seed=5)
    graph, quantities = noisy.graph, noisy.quantities
    solution = solve_edg(graph, quantities, settings=EDGSettings(bound_scale=0.5))
    lengths = edge_vectors(graph, solution.positions, quantities.cell).norm(dim=1)
    pairs = graph.edge_index[:, graph.in_cell]
    moves = (solution.positions[pairs[0]] - quantities.anchors[pairs[1]]).norm(dim=1)
    bounds = distance_bounds(quantities.distances, quantities.distance_scales, bound_scale=0.5)
    pair_bounds = distance_bounds(quantities.displacements, quantities.displacement_scales, bound_scale=0.5)
    for g in range(graph.num_crystals):
        own, own_pairs = graph.batch[graph.edge_index[1]] == g, graph.batch[pairs[1]] == g
        terms = [
            bounded_euclidean_distance_loss(lengths[own], bounds[0][own], bounds[1][own]),
            bounded_euclidean_distance_loss(moves[own_pairs], pair_bounds[0][own_pairs], pair_bounds[1][own_pairs]),
        ]
        assert solution.loss[g].item() == pytest.approx(torch.cat(terms).mean().item(), abs=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_companions_do_not_matter(real_problem, device: str):
    noisy = real_problem(seed=3, universal=8, xmno=2).with_noise(0.1, seed=6)
    batch = solve_edg(noisy.graph.to(device), map_tensors(noisy.quantities, lambda _, t: t.to(device)))
    assert len(set(batch.steps.tolist())) > 1  # some stop earlier than others
    for crystal in range(noisy.graph.num_crystals):
        graph, quantities, atoms = single(noisy, crystal)
        alone = solve_edg(graph.to(device), map_tensors(quantities, lambda _, t: t.to(device)))
        torch.testing.assert_close(batch.positions.cpu()[atoms], alone.positions.cpu(), rtol=0, atol=1e-8)
        assert alone.steps.item() == batch.steps[crystal]
        assert alone.loss.item() == pytest.approx(batch.loss[crystal].item(), abs=1e-8)


@pytest.mark.parametrize("determinant", [1, -1])
def test_a_rotated_crystal_gives_a_rotated_solution(real_problem, rng: np.random.Generator, determinant: int):
    noisy = real_problem(seed=4, universal=20, xmno=5).with_noise(0.1, seed=7)
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    rotation = rotation * torch.sign(torch.linalg.det(rotation)) * determinant
    graph = replace(noisy.graph, positions=noisy.graph.positions @ rotation, cell=noisy.graph.cell @ rotation)
    quantities = replace(
        noisy.quantities, cell=noisy.quantities.cell @ rotation, anchors=noisy.quantities.anchors @ rotation
    )
    expected = solve_edg(noisy.graph, noisy.quantities).positions @ rotation
    torch.testing.assert_close(solve_edg(graph, quantities).positions, expected, rtol=0, atol=1e-8)


def test_a_translated_crystal_gives_a_translated_solution(real_problem):
    noisy = real_problem(seed=5, universal=20, xmno=5).with_noise(0.1, seed=8)
    shift = torch.tensor([3.1, -17.0, 8.2], dtype=torch.float64)
    before = (shift @ torch.linalg.inv(noisy.quantities.cell))[:, None] @ noisy.graph.cell  # carried along to the shift
    graph = replace(noisy.graph, positions=noisy.graph.positions + before.squeeze(1)[noisy.graph.batch])
    quantities = replace(noisy.quantities, anchors=noisy.quantities.anchors + shift)
    torch.testing.assert_close(affine_positions(graph, quantities.cell), quantities.anchors, rtol=0, atol=1e-10)
    expected = solve_edg(noisy.graph, noisy.quantities).positions + shift
    torch.testing.assert_close(solve_edg(graph, quantities).positions, expected, rtol=0, atol=1e-8)


def test_the_order_of_atoms_does_not_matter(real_problem, rng: np.random.Generator):
    noisy = real_problem(seed=6, universal=4, xmno=2).with_noise(0.1, seed=9)
    for crystal in range(noisy.graph.num_crystals):
        graph, quantities, _ = single(noisy, crystal)
        order = torch.from_numpy(rng.permutation(graph.num_atoms))
        place = torch.argsort(order)
        edges = torch.argsort(place[graph.edge_index[1]], stable=True)
        pairs = torch.argsort(place[graph.edge_index[1, graph.in_cell]], stable=True)
        shuffled = CrystalGraph(
            numbers=graph.numbers[order],
            positions=graph.positions[order],
            cell=graph.cell,
            batch=graph.batch,
            edge_index=place[graph.edge_index[:, edges]],
            cell_offsets=graph.cell_offsets[edges],
            in_cell=graph.in_cell[edges],
        )
        of = {"distances": edges, "distance_scales": edges, "displacements": pairs, "displacement_scales": pairs}
        own = map_tensors(
            quantities, lambda name, t, of=of, order=order: t if name == "cell" else t[of.get(name, order)]
        )
        expected = solve_edg(graph, quantities).positions[order]
        torch.testing.assert_close(solve_edg(shuffled, own).positions, expected, rtol=0, atol=1e-8)


def test_rounding_errors_do_not_grow(real_problem):
    noisy = real_problem(seed=7, universal=30, xmno=10).with_noise(0.1, seed=10)
    generator = torch.Generator().manual_seed(1)
    nudged = replace(
        noisy.quantities,
        distances=noisy.quantities.distances
        + 1e-12 * torch.randn(noisy.graph.num_edges, generator=generator, dtype=torch.float64),
    )
    expected = solve_edg(noisy.graph, noisy.quantities).positions
    torch.testing.assert_close(solve_edg(noisy.graph, nudged).positions, expected, rtol=0, atol=1e-9)


def test_a_crystal_inside_all_bounds_keeps_its_positions_bit_by_bit(sample_problem):
    quantities = sample_problem.quantities
    wide = {name: torch.ones_like(getattr(quantities, name)) for name in ("distance_scales", "displacement_scales")}
    solution = solve_edg(sample_problem.graph, replace(quantities, **wide))
    assert torch.equal(solution.positions, quantities.anchors)
    assert not solution.steps.any()
    assert not solution.loss.any()
    assert solution.converged.all()


def test_atoms_inside_all_bounds_stay_where_others_move(sample_crystals: dict[str, Crystal]):
    graph = build_graph([sample_crystals["triclinic"]])
    lengths = edge_vectors(graph).norm(dim=1)
    pairs = graph.edge_index[:, graph.in_cell]
    moves = (graph.positions[pairs[0]] - graph.positions[pairs[1]]).norm(dim=1)
    between = ((graph.edge_index == 0) | (graph.edge_index == 1)).all(dim=0) & graph.in_cell
    quantities = RelaxationQuantities(
        distances=torch.where(between, lengths + 0.3, lengths),
        distance_scales=torch.where(between, 0.0, 5.0).double(),
        displacements=moves,
        displacement_scales=torch.full_like(moves, 5.0),
        cell=graph.cell,
        anchors=graph.positions,
    )
    solution = solve_edg(graph, quantities, settings=EDGSettings(fix_drift=False))
    assert torch.equal(solution.positions[2:], graph.positions[2:])
    distance = (solution.positions[0] - solution.positions[1]).norm()
    assert distance.item() == pytest.approx((graph.positions[0] - graph.positions[1]).norm().item() + 0.3, abs=1e-3)
    assert solution.loss.item() < 1e-4


def test_the_mean_displacement_is_taken_out(real_problem):
    noisy = real_problem(seed=8, universal=20).with_noise(0.1, seed=12)
    carried = affine_positions(noisy.graph, noisy.quantities.cell)
    drifts = {}
    for fix_drift in (True, False):
        solution = solve_edg(noisy.graph, noisy.quantities, settings=EDGSettings(fix_drift=fix_drift))
        drifts[fix_drift] = crystal_means(solution.positions - carried, noisy.graph)[solution.steps > 0]
    assert drifts[True].abs().max() < 1e-12
    assert drifts[False].abs().max() > 1e-3


def test_too_few_steps_are_not_called_converged(real_problem):
    exact = real_problem(seed=9, universal=20)
    solution = solve_edg(exact.graph, exact.quantities, settings=EDGSettings(max_steps=3))
    moved = largest_errors(exact.quantities.anchors, exact.relaxed, exact.graph) > 1e-3
    assert moved.sum() > 10
    assert not solution.converged[moved].any()
    assert (solution.steps[moved] == 3).all()


def test_no_steps_return_the_start(sample_problem):
    solution = solve_edg(sample_problem.graph, sample_problem.quantities, settings=EDGSettings(max_steps=0))
    assert torch.equal(solution.positions, sample_problem.quantities.anchors)
    assert not solution.converged.all()


def test_coincident_atoms_come_apart(sample_problem):
    start = sample_problem.relaxed.clone()
    first = sample_problem.graph.batch == 0
    start[first] = start[first][0]
    solution = solve_edg(sample_problem.graph, sample_problem.quantities, start=start)
    assert solution.positions.isfinite().all()
    assert (solution.positions[first] - start[first]).norm(dim=1).max() > 1
    assert torch.equal(solution.positions[~first], start[~first])


def test_a_crystal_that_is_not_a_number_spoils_no_other(sample_problem):
    spoiled = sample_problem.quantities.distances.clone()
    spoiled[0] = torch.nan  # belongs to the first crystal
    solution = solve_edg(sample_problem.graph, replace(sample_problem.quantities, distances=spoiled))
    expected = solve_edg(sample_problem.graph, sample_problem.quantities)
    others = sample_problem.graph.batch > 0
    assert not solution.converged[0]
    assert solution.loss[0].isnan()
    torch.testing.assert_close(solution.positions[others], expected.positions[others], rtol=0, atol=1e-9)


def test_float32_quantities_are_solved_in_float64(sample_problem):
    quantities = map_tensors(sample_problem.quantities, lambda _, t: t.float())
    before = map_tensors(quantities, lambda _, t: t.clone())
    solution = solve_edg(sample_problem.graph.to(dtype=torch.float32), quantities)
    assert solution.positions.dtype == torch.float64
    for f in fields(quantities):
        assert torch.equal(getattr(quantities, f.name), getattr(before, f.name)), f.name
    expected = solve_edg(sample_problem.graph, sample_problem.quantities).loss
    torch.testing.assert_close(solution.loss, expected, rtol=0, atol=1e-5)


def test_solutions_are_ordinary_tensors(sample_problem):
    quantities = map_tensors(sample_problem.quantities, lambda _, t: t.clone().requires_grad_())
    solution = solve_edg(sample_problem.graph, quantities)
    for f in fields(solution):
        tensor = getattr(solution, f.name)
        assert not tensor.is_inference(), f.name
        assert not tensor.requires_grad, f.name


def test_a_member_axis_is_refused(sample_problem):
    quantities = sample_problem.quantities
    members = RelaxationQuantities(**{f.name: getattr(quantities, f.name)[None] for f in fields(quantities)})
    with pytest.raises(ValueError, match=r"quantities\.distances has shape .*ensemble_mean"):
        solve_edg(sample_problem.graph, members)


def test_a_start_of_another_crystal_is_refused(sample_problem):
    with pytest.raises(ValueError, match="start has shape"):
        solve_edg(sample_problem.graph, sample_problem.quantities, start=torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.0), ("softness", -1e-3), ("tolerance", float("nan")), ("check_interval", 0)],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        EDGSettings(**{name: value})


@pytest.mark.parametrize("name", ["max_steps", "bound_scale"])
def test_negative_settings_are_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} must not be negative"):
        EDGSettings(**{name: -1})
