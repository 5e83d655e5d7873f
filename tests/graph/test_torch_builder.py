from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import process_time

import numpy as np
import pytest
import torch
from ase.build import make_supercell
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph import (
    CUTOFF_MARGIN,
    CrystalGraph,
    GraphSettings,
    NeighborList,
    build_graph,
    collate,
    edge_vectors,
    neighbor_graph,
    neighbor_pairs,
)
from deeprelax_ase.graph.torch_builder import batch_tensors

CUTOFF = 6.0
Rows = set[tuple[int, int, int, int, int]]
Samples = dict[str, Crystal]


def torch_graph(*crystals: Crystal, **settings: float) -> CrystalGraph:
    """Unchecked: atoms of random crystals may overlap."""
    return neighbor_graph(*batch_tensors(crystals), settings=GraphSettings(**settings))


def pairs_of(crystal: Crystal, cutoff: float = CUTOFF) -> NeighborList:
    _, positions, cell, batch = batch_tensors([crystal])
    return neighbor_pairs(positions, cell, batch, cutoff=cutoff)


def rows(destination, source, offsets) -> Rows:
    """(i, j, k) of each pair, which must be unique."""
    table = [(int(i), int(j), *map(int, k)) for i, j, k in zip(destination, source, offsets, strict=True)]
    assert len(set(table)) == len(table)
    return set(table)


def edge_rows(graph: CrystalGraph) -> set[tuple[int, ...]]:
    table = torch.cat([graph.edge_index.flip(0), graph.cell_offsets.T, graph.in_cell[None]]).T.tolist()
    assert len(set(map(tuple, table))) == len(table)
    return set(map(tuple, table))


def ase_pairs(crystal: Crystal, cutoff: float = CUTOFF) -> tuple[Rows, np.ndarray]:
    i, j, offsets, distances = primitive_neighbor_list(
        "ijSd", crystal.pbc, crystal.cell, crystal.positions, cutoff + CUTOFF_MARGIN, self_interaction=False
    )
    return rows(i, j, offsets), np.sort(distances)


def assert_same_edges(a: CrystalGraph, b: CrystalGraph) -> None:
    for name in ("edge_index", "cell_offsets", "in_cell"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@st.composite
def crystals(draw: st.DrawFn, max_atoms: int = 4) -> Crystal:
    """Random cells, some very thin and some very skewed, with atoms up to ten cells away from the first."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.tuples(*[st.floats(2.2, 9.0)] * 3))
    cell = np.diag(lengths) + np.triu(rng.uniform(-0.5, 0.5, size=(3, 3)), 1) * np.array(lengths)
    for axis, other, times in draw(st.lists(st.tuples(*[st.integers(0, 2)] * 2, st.integers(-12, 12)), max_size=2)):
        if axis != other:
            cell[axis] += times * cell[other]
    if draw(st.booleans()):
        cell = cell[rng.permutation(3)] * rng.choice([-1, 1], size=3)[:, None]
    cell = cell @ Rotation.random(rng=rng).as_matrix()
    atoms = draw(st.integers(1, max_atoms))
    fractional = rng.uniform(size=(atoms, 3)) + rng.integers(-10, 11, size=(atoms, 3)) * draw(st.booleans())
    return Crystal(np.arange(1, atoms + 1), fractional @ cell, cell)


@settings(max_examples=12)
@given(crystals())
def test_pairs_are_those_of_ase(crystal: Crystal) -> None:
    found = pairs_of(crystal)
    expected, distances = ase_pairs(crystal)
    assert rows(found.destination, found.source, found.offsets) == expected
    np.testing.assert_allclose(np.sort(found.distances.numpy()), distances, rtol=0, atol=1e-9)


@pytest.mark.parametrize("cutoff", [0.9, 3.3, pytest.param(11.0, marks=pytest.mark.slow)])
def test_pairs_are_those_of_ase_at_other_cutoffs(sample_crystals: Samples, cutoff: float) -> None:
    for crystal in sample_crystals.values():
        found = pairs_of(crystal, cutoff)
        assert rows(found.destination, found.source, found.offsets) == ase_pairs(crystal, cutoff)[0]


def test_pairs_come_ordered(sample_crystals: Samples) -> None:
    for crystal in sample_crystals.values():
        found = pairs_of(crystal)
        table = torch.stack([found.destination, found.source, *found.offsets.T], dim=1).tolist()
        assert table == sorted(table)


def test_thin_and_skewed_cells_need_offsets_beyond_two(sample_crystals: Samples) -> None:
    for name in ("thin", "skewed", "unwrapped", "one atom, cubic"):
        assert torch_graph(sample_crystals[name], max_neighbors=200).cell_offsets.abs().max() >= 2
    assert torch_graph(sample_crystals["thin"]).cell_offsets[:, 0].abs().max() == 2
    assert torch_graph(sample_crystals["skewed"]).cell_offsets.abs().max() > 5


def test_an_extremely_skewed_cell_stays_small() -> None:
    """Its planes along a are 0.03 Å apart: a box of offsets around the sphere would hold 400 x 12,000 x 5 cells."""
    cell = np.array([[3.0, 0, 0], [0, 3.1, 0], [3.0 * 100, 3.1 * 4000, 3.2]])
    skewed, plain = Crystal([3], [[0, 0, 0]], cell), Crystal([3], [[0, 0, 0]], np.diag([3.0, 3.1, 3.2]))
    found, expected = pairs_of(skewed), pairs_of(plain)
    np.testing.assert_allclose(found.distances.sort().values, expected.distances.sort().values, rtol=0, atol=1e-9)


@given(crystals(), st.integers(0, 2**32 - 1))
def test_rigid_motion_and_reflection_keep_the_graph(crystal: Crystal, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(rng=rng).as_matrix() * rng.choice([-1, 1])
    moved = Crystal(crystal.numbers, crystal.positions @ rotation + rng.normal(size=3) * 50, crystal.cell @ rotation)
    a, b = torch_graph(crystal), torch_graph(moved)
    assert_same_edges(a, b)
    torch.testing.assert_close(edge_vectors(a) @ torch.from_numpy(rotation), edge_vectors(b), rtol=0, atol=1e-9)


@given(crystals(), st.randoms(use_true_random=False))
def test_permuting_atoms_permutes_the_graph(crystal: Crystal, random) -> None:
    order = list(range(len(crystal)))
    random.shuffle(order)
    permuted = Crystal(crystal.numbers[order], crystal.positions[order], crystal.cell)
    found = {(order[i], order[j], *rest) for i, j, *rest in edge_rows(torch_graph(permuted))}
    assert found == edge_rows(torch_graph(crystal))


@given(crystals(), st.integers(0, 2**32 - 1))
def test_other_images_of_the_atoms_shift_the_offsets(crystal: Crystal, seed: int) -> None:
    """r_j + (k - m_j + m_i) L, where atom i was moved by m_i cells; which pairs are in-cell depends on the images."""
    images = np.random.default_rng(seed).integers(-3, 4, size=(len(crystal), 3))
    moved = Crystal(crystal.numbers, crystal.positions + images @ crystal.cell, crystal.cell)
    found, expected = pairs_of(moved), pairs_of(crystal)
    shifted = expected.offsets.numpy() - images[expected.source] + images[expected.destination]
    assert rows(found.destination, found.source, found.offsets) == rows(expected.destination, expected.source, shifted)


@given(crystals(max_atoms=3))
def test_another_cell_of_the_same_lattice_gives_the_same_distances(crystal: Crystal) -> None:
    basis = np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]])
    other = Crystal(crystal.numbers, crystal.positions, basis @ crystal.cell)
    found, expected = pairs_of(other), pairs_of(crystal)
    assert torch.equal(found.destination.bincount(), expected.destination.bincount())
    np.testing.assert_allclose(found.distances.sort().values, expected.distances.sort().values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["hcp", "triclinic", "one atom", "thin", "rocksalt"])
def test_atoms_of_a_supercell_have_the_neighbors_of_the_cell(sample_crystals: Samples, name: str) -> None:
    crystal = sample_crystals[name]
    big = Crystal.from_atoms(make_supercell(crystal.to_atoms(), [[2, 0, 0], [1, 1, 0], [0, -1, 2]], order="atom-major"))
    single, repeated = pairs_of(crystal), pairs_of(big)
    for i in range(len(big)):
        mine = single.distances[single.destination == i // 4].sort().values
        np.testing.assert_allclose(repeated.distances[repeated.destination == i].sort().values, mine, rtol=0, atol=1e-9)


def test_shells_are_never_cut(rng: np.random.Generator) -> None:
    """Simple cubic, 3 Å: shells of 6, 12, 8 and 6, the last at the cutoff itself and astride the 30th neighbour."""
    for _ in range(10):
        rotation = Rotation.random(rng=rng).as_matrix()
        crystal = Crystal([84], rng.normal(size=(1, 3)), 3.0 * rotation)
        for dtype in (torch.float32, torch.float64):
            graph = neighbor_graph(*(t.to(dtype) if t.is_floating_point() else t for t in batch_tensors([crystal])))
            lengths = torch.linalg.vector_norm(edge_vectors(graph), dim=1)
            assert Counter(lengths.square().round().int().tolist()) == {9: 6, 18: 12, 27: 8, 36: 6}


def test_a_batch_is_its_crystals(sample_crystals: Samples) -> None:
    every = list(sample_crystals.values())
    batch, singles = torch_graph(*every), collate([torch_graph(c) for c in every])
    assert_same_edges(batch, singles)
    assert torch.equal(batch.batch, singles.batch)
    assert torch.equal(batch.positions, singles.positions)


def test_chunks_give_the_same_graph(data_crystals: Callable[..., list[Crystal]]) -> None:
    tensors = batch_tensors(data_crystals("universal", range(0, 40_000, 2000)))
    whole = neighbor_graph(*tensors, check=True)
    for chunk_size in (1, 5000, 100_000):
        assert_same_edges(neighbor_graph(*tensors, check=True, chunk_size=chunk_size), whole)


def test_a_cell_of_two_thousand_atoms(rng: np.random.Generator) -> None:
    grid = np.indices((10, 10, 20)).reshape(3, -1).T * 2.6
    crystal = Crystal([14] * 2000, grid + rng.uniform(-0.5, 0.5, size=grid.shape), np.diag([26.0, 26.0, 52.0]))
    start = process_time()
    graph = torch_graph(crystal)
    assert process_time() - start < 10
    assert graph.in_cell.sum() >= 2000 * 20
    _, positions, cell, batch = batch_tensors([crystal])
    some = torch.arange(7, 2000, 90)
    found = neighbor_pairs(positions, cell, batch, cutoff=CUTOFF, destinations=some)
    offsets = np.indices((3, 3, 3)).reshape(3, -1).T - 1
    images = crystal.positions[:, None] + offsets @ crystal.cell
    expected = set()
    for i in some.tolist():
        distances = np.linalg.norm(images - crystal.positions[i], axis=2)
        pairs = np.argwhere((distances < CUTOFF) & (distances > 0)).tolist()
        expected |= {(i, j, *offsets[image].tolist()) for j, image in pairs}
    assert rows(found.destination, found.source, found.offsets) == expected


def test_single_precision_gives_the_same_edges(data_crystals: Callable[..., list[Crystal]]) -> None:
    numbers, positions, cell, batch = batch_tensors(data_crystals("xmno", range(0, 8000, 100)))
    single = neighbor_graph(numbers, positions.float(), cell.float(), batch)
    assert single.positions.dtype == torch.float32
    assert_same_edges(single, neighbor_graph(numbers, positions, cell, batch))


def test_autocast_does_not_reach_the_distances(sample_crystals: Samples) -> None:
    numbers, positions, cell, batch = batch_tensors([sample_crystals["triclinic"], sample_crystals["hcp"]])
    plain = neighbor_graph(numbers, positions.float(), cell.float(), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = neighbor_graph(numbers, positions.float(), cell.float(), batch)
    assert_same_edges(cast, plain)


def test_tensors_are_carried_and_gradients_flow_through_them(sample_crystals: Samples) -> None:
    numbers, positions, cell, batch = batch_tensors([sample_crystals["triclinic"]])
    graph = neighbor_graph(numbers, positions.requires_grad_(), cell.requires_grad_(), batch)
    assert graph.positions is positions
    edge_vectors(graph).square().sum().backward()
    assert positions.grad is not None
    assert positions.grad.abs().max() > 0
    assert cell.grad is not None


def test_no_neighbor_within_the_cutoff_leaves_in_cell_edges_alone() -> None:
    crystal = Crystal([2, 2], [[0, 0, 0], [10.0, 10.0, 10.0]], np.eye(3) * 20)
    graph = neighbor_graph(*batch_tensors([crystal]))
    assert edge_rows(graph) == {(0, 1, 0, 0, 0, True), (1, 0, 0, 0, 0, True)}


def test_edges_of_the_wanted_numbers(sample_crystals: Samples) -> None:
    graph = torch_graph(sample_crystals["rocksalt"], max_in_cell=3)
    assert graph.in_cell.sum() == 8 * 3
    assert not graph.cell_offsets[graph.in_cell].any()
    assert graph.cell_offsets[~graph.in_cell].any(dim=1).all()


def test_refuses_no_crystals() -> None:
    with pytest.raises(ValueError, match="no crystals"):
        build_graph([])


def test_build_graph_is_the_graph_of_the_crystals(sample_crystals: Samples) -> None:
    every = list(sample_crystals.values())
    built = build_graph(every, dtype=torch.float32)
    assert built.positions.dtype == built.cell.dtype == torch.float32
    assert built.numbers.tolist() == [z for crystal in every for z in crystal.numbers]
    assert built.batch.tolist() == [g for g, crystal in enumerate(every) for _ in crystal.numbers]
    assert_same_edges(built, torch_graph(*every))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_edges(sample_crystals: Samples) -> None:
    every = list(sample_crystals.values())
    on_gpu = build_graph(every, device="cuda")
    assert on_gpu.positions.is_cuda
    assert_same_edges(on_gpu.to("cpu"), build_graph(every))
