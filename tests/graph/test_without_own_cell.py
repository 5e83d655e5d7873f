"""Graphs with ``max_in_cell=0``: the nearest neighbours, whatever cell they lie in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from ase.build import make_supercell

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph import CrystalGraph, GraphSettings, build_graph, edge_vectors, neighbor_pairs
from deeprelax_ase.graph.torch_builder import batch_tensors

Samples = dict[str, Crystal]
SETTINGS = GraphSettings(max_neighbors=12, max_in_cell=0)


def environments(graph: CrystalGraph) -> list[np.ndarray]:
    """For each atom its sorted neighbours: atomic number and vector, in steps of 1e-6 Å."""
    source, destination = graph.edge_index
    rows = torch.cat([graph.numbers[source, None].double(), (edge_vectors(graph) * 1e6).round()], dim=1) + 0.0
    return [np.array(sorted(rows[destination == i].tolist())) for i in range(graph.num_atoms)]


def assert_environments(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=2)


@pytest.mark.usefixtures("needs_matgl")
def test_matgl_and_torch_agree(sample_crystals: Samples, data_crystals: Callable[..., list[Crystal]]) -> None:
    for crystal in [*sample_crystals.values(), *data_crystals("universal", range(0, 49_000, 2500))]:
        dgl, torch_only = (build_graph([crystal], backend=b, settings=SETTINGS) for b in ("matgl", "torch"))
        for f in fields(CrystalGraph):
            assert torch.equal(getattr(dgl, f.name), getattr(torch_only, f.name)), f.name


def test_edges_are_the_nearest_neighbours_ties_included(sample_crystals: Samples) -> None:
    for crystal in sample_crystals.values():
        graph = build_graph([crystal], backend="torch", settings=SETTINGS)
        _, positions, cell, batch = batch_tensors([crystal])
        every = neighbor_pairs(positions, cell, batch, cutoff=6.0)
        lengths = edge_vectors(graph).norm(dim=1)
        for i in range(len(crystal)):
            distances = every.distances[every.destination == i].sort().values
            last = distances[: SETTINGS.max_neighbors][-1]
            expected = distances[distances <= last + 1e-2]
            found = lengths[graph.edge_index[1] == i].sort().values
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_edges_of_the_own_cell_are_among_them_and_not_marked(sample_crystals: Samples) -> None:
    graph = build_graph([sample_crystals["rocksalt"]], backend="torch", settings=SETTINGS)
    inside = ~graph.cell_offsets.any(dim=1)
    assert inside.any()
    assert not inside.all()
    assert not graph.in_cell.any()
    source, destination = graph.edge_index
    assert (source != destination)[inside].all()


def test_edges_come_ordered_by_destination_source_and_offset(sample_crystals: Samples) -> None:
    graph = build_graph(list(sample_crystals.values()), backend="torch", settings=SETTINGS)
    table = torch.cat([graph.edge_index.flip(0), graph.cell_offsets.T]).T.tolist()
    assert table == sorted(table)


@pytest.mark.parametrize("name", ["rocksalt", "hcp", "triclinic", "thin", "skewed", "one atom"])
def test_atoms_of_a_supercell_have_the_environments_of_the_cell(sample_crystals: Samples, name: str) -> None:
    crystal = sample_crystals[name]
    big = make_supercell(crystal.to_atoms(), [[2, 0, 0], [1, 1, 0], [0, -1, 2]], order="atom-major")
    single, repeated = (
        environments(build_graph([c], backend="torch", settings=SETTINGS)) for c in (crystal, Crystal.from_atoms(big))
    )
    assert_environments(repeated, [environment for environment in single for _ in range(4)])


@pytest.mark.parametrize("name", ["rocksalt", "hcp", "triclinic", "thin", "skewed"])
def test_the_choice_of_images_does_not_matter(sample_crystals: Samples, rng: np.random.Generator, name: str) -> None:
    crystal = sample_crystals[name]
    jumps = rng.integers(-3, 4, size=(len(crystal), 3))
    moved = Crystal(crystal.numbers, crystal.positions + jumps @ crystal.cell, crystal.cell)
    one, other = (build_graph([c], backend="torch", settings=SETTINGS) for c in (crystal, moved))
    assert_environments(environments(other), environments(one))


def test_with_pairs_inside_the_cell_it_does() -> None:
    """What the setting is for: an image one cell away changes the paper's graph."""
    crystal = Crystal([55, 17], [[0.0, 0, 0], [2.0, 2.1, 2.05]], np.diag([4.1, 4.2, 4.3]))
    moved = Crystal(crystal.numbers, crystal.positions + np.array([[0, 0, 0], [4.1, 0, 0]]), crystal.cell)
    one, other = (environments(build_graph([c], backend="torch")) for c in (crystal, moved))
    assert any(a.shape != b.shape or np.abs(a - b).max() > 2 for a, b in zip(one, other, strict=True))
