from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from deeprelax_ase import graph as g
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph.crystal_graph import determinants, inverses


@pytest.fixture
def three(sample_crystals: dict[str, Crystal]) -> list[Crystal]:
    return [sample_crystals[name] for name in ("triclinic", "one atom", "unwrapped")]


@pytest.fixture
def batch(three: list[Crystal]) -> g.CrystalGraph:
    return g.build_graph(three)


def test_sizes(batch: g.CrystalGraph) -> None:
    assert (batch.num_crystals, batch.num_atoms) == (3, 7)
    assert batch.num_edges == batch.edge_index.shape[1] == len(batch.cell_offsets) == len(batch.in_cell) > 0
    assert g.atom_counts(batch).tolist() == [4, 1, 2]


def test_record_is_frozen(batch: g.CrystalGraph) -> None:
    with pytest.raises(FrozenInstanceError):
        batch.positions = batch.positions + 1  # type: ignore[misc]


def test_edge_vectors_follow_the_definition(batch: g.CrystalGraph, three: list[Crystal]) -> None:
    vectors = g.edge_vectors(batch)
    starts = [0, 4, 5]
    for e in range(batch.num_edges):
        j, i = batch.edge_index[:, e].tolist()
        c = int(batch.batch[i])
        r, k = three[c].positions, batch.cell_offsets[e].numpy()
        expected = r[j - starts[c]] + k @ three[c].cell - r[i - starts[c]]
        np.testing.assert_allclose(vectors[e].numpy(), expected, rtol=0, atol=1e-12)


def test_edge_vectors_of_another_geometry(batch: g.CrystalGraph) -> None:
    stretched = g.edge_vectors(batch, positions=2 * batch.positions, cell=2 * batch.cell)
    torch.testing.assert_close(stretched, 2 * g.edge_vectors(batch), rtol=0, atol=1e-12)
    moved = g.edge_vectors(batch, positions=batch.positions + 0.7)
    torch.testing.assert_close(moved, g.edge_vectors(batch), rtol=0, atol=1e-12)


def test_edges_stay_within_their_crystal(batch: g.CrystalGraph) -> None:
    source, destination = batch.edge_index
    assert torch.equal(batch.batch[source], batch.batch[destination])
    assert torch.equal(g.edge_batch(batch), batch.batch[source])


def test_scaled_positions_are_those_of_the_crystals(batch: g.CrystalGraph, three: list[Crystal]) -> None:
    expected = np.concatenate([c.fractional_positions for c in three])
    np.testing.assert_allclose(g.fractional_positions(batch).numpy(), expected, rtol=0, atol=1e-12)


def test_carried_positions_keep_the_fractional_coordinates(batch: g.CrystalGraph) -> None:
    cell = batch.cell @ torch.tensor([[1.1, 0.1, 0.0], [0.0, 0.9, 0.0], [0.0, 0.2, 1.0]], dtype=torch.float64)
    carried = g.affine_positions(batch, cell)
    fractional = torch.linalg.solve(cell[batch.batch].mT, carried[:, :, None]).squeeze(2)
    torch.testing.assert_close(fractional, g.fractional_positions(batch), rtol=0, atol=1e-12)
    assert (carried - batch.positions).abs().max() > 0.1


def test_collate_is_the_batch_built_at_once(batch: g.CrystalGraph, three: list[Crystal]) -> None:
    singles = [g.build_graph([c]) for c in three]
    assert_same(g.collate(singles), batch)
    assert_same(g.collate([g.collate(singles[:2]), singles[2]]), batch)


def test_collate_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="no graphs"):
        g.collate([])


def test_to_converts_only_floating_point(batch: g.CrystalGraph) -> None:
    moved = batch.to(dtype=torch.float32)
    assert moved.positions.dtype == moved.cell.dtype == torch.float32
    assert moved.numbers.dtype == moved.edge_index.dtype == moved.cell_offsets.dtype == torch.int64
    assert moved.in_cell.dtype == torch.bool
    assert batch.positions.dtype == torch.float64


def assert_same(a: g.CrystalGraph, b: g.CrystalGraph) -> None:
    for name in ("numbers", "positions", "cell", "batch", "edge_index", "cell_offsets", "in_cell"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_inverses_and_determinants_are_those_of_linear_algebra() -> None:
    matrices = torch.randn(200, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(inverses(matrices), torch.linalg.inv(matrices), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(determinants(matrices), torch.linalg.det(matrices))


def test_singular_matrices_raise_nothing() -> None:
    flat = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]])
    assert not torch.isfinite(inverses(flat)).any()
    assert determinants(flat).tolist() == [0.0]
