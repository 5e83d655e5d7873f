"""The cell list finds the pairs that looking at every pair finds, in the same order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph import GraphSettings, neighbor_graph, neighbor_pairs, torch_builder
from deeprelax_ase.graph.cell_list import cell_list_pairs
from deeprelax_ase.graph.torch_builder import batch_tensors


def random_crystal(seed: int, atoms: int, lengths: tuple[float, float, float], skew: float, far: float) -> Crystal:
    """Atoms anywhere in and around a cell of about these edges."""
    rng = np.random.default_rng(seed)
    cell = np.diag(lengths) + skew * np.tril(rng.normal(size=(3, 3)), -1) * min(lengths)
    fractional = rng.random((atoms, 3)) + np.round(far * rng.normal(size=(atoms, 3)))
    return Crystal(rng.integers(1, 90, atoms), fractional @ cell, cell)


def assert_same_pairs(crystal: Crystal, cutoff: float) -> None:
    _, positions, cell, batch = batch_tensors([crystal])
    expected = neighbor_pairs(positions, cell, batch, cutoff=cutoff)
    everything = torch.arange(len(positions))
    found = cell_list_pairs(positions, cell[0], cutoff=cutoff, destinations=everything)
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(found.distances, expected.distances, rtol=0, atol=1e-9)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    atoms=st.integers(1, 40),
    lengths=st.tuples(*[st.floats(2.0, 25.0)] * 3),
    skew=st.sampled_from([0.0, 0.3, 1.5]),
    far=st.sampled_from([0.0, 3.0]),
    cutoff=st.sampled_from([3.0, 6.0]),
)
def test_any_cell(seed: int, atoms: int, lengths: tuple, skew: float, far: float, cutoff: float) -> None:
    assert_same_pairs(random_crystal(seed, atoms, lengths, skew, far), cutoff)


def test_a_large_crystal() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(5)
    atoms.rattle(0.05, seed=1)
    assert len(atoms) > torch_builder.LARGE
    assert_same_pairs(Crystal.of(atoms), 6.0)


@pytest.mark.parametrize("chunk_size", [None, 20_000])
def test_large_and_small_ones_in_one_batch(monkeypatch: pytest.MonkeyPatch, chunk_size: int | None) -> None:
    """The graph does not tell how its pairs were found."""
    crystals = [random_crystal(n, atoms, (9.0, 11.0, 13.0), 0.2, 1.0) for n, atoms in enumerate((3, 30, 5, 31, 32, 4))]
    tensors = batch_tensors(crystals)
    options = {"settings": GraphSettings(), "chunk_size": chunk_size}
    expected = neighbor_graph(*tensors, **options)
    monkeypatch.setattr(torch_builder, "LARGE", 20)
    calls = []
    listed = torch_builder.cell_list_pairs
    monkeypatch.setattr(torch_builder, "cell_list_pairs", lambda *a, **k: calls.append(1) or listed(*a, **k))
    found = neighbor_graph(*tensors, **options)
    assert len(calls) >= 3
    for name in ("edge_index", "cell_offsets", "in_cell"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
