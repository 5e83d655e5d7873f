from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.graph import TIE_TOLERANCE, GraphSettings, NeighborList, in_cell_pairs, select_edges

Edge = tuple[int, int, tuple[int, ...], bool]


def pairs(rows: list[tuple[int, int, tuple[int, int, int], float]]) -> NeighborList:
    """Pairs of rows (destination, source, offset, distance)."""
    rows = sorted(rows)
    return NeighborList(
        torch.tensor([r[1] for r in rows], dtype=torch.int64),
        torch.tensor([r[0] for r in rows], dtype=torch.int64),
        torch.tensor([r[2] for r in rows], dtype=torch.int64).reshape(-1, 3),
        torch.tensor([r[3] for r in rows], dtype=torch.float64),
    )


def edges(neighbors: NeighborList, in_cell: NeighborList, **settings: int) -> list[Edge]:
    index, offsets, inside = select_edges(neighbors, in_cell, settings=GraphSettings(**settings))
    assert index.shape == (2, len(offsets))
    assert offsets.shape == (len(inside), 3)
    assert (index.dtype, offsets.dtype, inside.dtype) == (torch.int64, torch.int64, torch.bool)
    return [
        (i, j, tuple(k), flag)
        for (j, i), k, flag in zip(index.T.tolist(), offsets.tolist(), inside.tolist(), strict=True)
    ]


NONE = pairs([])
OWN = (0, 0, 0)


def test_the_nearest_are_kept_and_pairs_of_the_own_cell_count_among_them() -> None:
    # Atom 0 has its neighbour 1 in the own cell and four images; of the three nearest, two are images.
    neighbors = pairs(
        [(0, 1, OWN, 1.0), (0, 1, (1, 0, 0), 2.0), (0, 0, (0, 1, 0), 3.0), (0, 0, (0, -1, 0), 4.0), (1, 0, OWN, 1.0)]
    )
    assert edges(neighbors, NONE, max_neighbors=3) == [(0, 0, (0, 1, 0), False), (0, 1, (1, 0, 0), False)]
    assert edges(neighbors, NONE, max_neighbors=1) == []


def test_ties_with_the_last_are_all_kept() -> None:
    shell = [(0, 0, k, 3.0) for k in [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (0, 1, 0), (1, 0, 0)]]
    assert len(edges(pairs(shell), NONE, max_neighbors=2)) == 6
    further = (0, 0, (1, 1, 0), 3.0 + 2 * TIE_TOLERANCE)
    assert len(edges(pairs([*shell, further]), NONE, max_neighbors=2)) == 6
    assert len(edges(pairs([*shell, further]), NONE, max_neighbors=7)) == 7


def test_rounding_does_not_change_the_edges(rng: np.random.Generator) -> None:
    shell = [
        (0, 0, (int(a), int(b), int(c)), 3.0)
        for a, b, c in np.indices((3, 3, 3)).reshape(3, -1).T - 1
        if (a, b, c) != OWN
    ]
    exact = edges(pairs(shell), NONE, max_neighbors=5)
    for _ in range(5):
        noisy = [(i, j, k, d + rng.normal() * TIE_TOLERANCE / 20) for i, j, k, d in shell]
        assert edges(pairs(noisy), NONE, max_neighbors=5) == exact


def test_in_cell_edges_have_their_own_number_and_no_cutoff() -> None:
    inner = pairs([(0, j, OWN, 10.0 * j) for j in range(1, 6)])
    assert edges(NONE, inner, max_in_cell=3) == [(0, j, OWN, True) for j in (1, 2, 3)]
    assert len(edges(NONE, inner, max_in_cell=20)) == 5


def test_edges_are_ordered_by_destination_with_in_cell_edges_first() -> None:
    neighbors = pairs([(0, 1, (1, 0, 0), 2.0), (0, 0, (0, 0, 1), 1.0), (0, 1, (-1, 0, 0), 3.0), (2, 0, (0, 1, 0), 1.0)])
    inner = pairs([(0, 2, OWN, 4.0), (0, 1, OWN, 5.0), (1, 0, OWN, 5.0)])
    assert edges(neighbors, inner) == [
        (0, 1, OWN, True),
        (0, 2, OWN, True),
        (0, 0, (0, 0, 1), False),
        (0, 1, (-1, 0, 0), False),
        (0, 1, (1, 0, 0), False),
        (1, 0, OWN, True),
        (2, 0, (0, 1, 0), False),
    ]


def test_nothing_makes_nothing() -> None:
    assert edges(NONE, NONE) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 12), st.integers(1, 5))
def test_against_plain_python(seed: int, atoms: int, max_neighbors: int, max_in_cell: int) -> None:
    rng = np.random.default_rng(seed)
    # Distances on a grid make many ties.
    neighbors = [
        (i, j, tuple(int(x) for x in k), float(rng.integers(1, 8)))
        for i in range(atoms)
        for j in range(atoms)
        for k in np.unique(rng.integers(-1, 2, size=(rng.integers(0, 7), 3)), axis=0)
    ]
    inner = [(i, j, OWN, float(rng.integers(1, 40))) for i in range(atoms) for j in range(atoms) if i != j]
    expected = []
    for rows, count, inside in ((neighbors, max_neighbors, False), (inner, max_in_cell, True)):
        for i in range(atoms):
            mine = sorted((row for row in rows if row[0] == i), key=lambda row: row[3])
            limit = mine[min(count, len(mine)) - 1][3] + TIE_TOLERANCE if mine else 0
            expected += [(i, not inside, j, k) for _, j, k, d in mine if d <= limit and (inside or k != OWN)]
    found = edges(pairs(neighbors), pairs(inner), max_neighbors=max_neighbors, max_in_cell=max_in_cell)
    assert found == [(i, j, k, not cross) for i, cross, j, k in sorted(expected)]


def test_in_cell_pairs_are_all_pairs_of_each_crystal() -> None:
    positions = torch.tensor([[0.0, 0, 0], [3, 4, 0], [0, 0, 0], [0, 0, 100], [0, 1, 0]], dtype=torch.float64)
    batch = torch.tensor([0, 0, 1, 1, 1])
    found = in_cell_pairs(positions, batch)
    rows = list(zip(found.destination.tolist(), found.source.tolist(), strict=True))
    assert rows == [(0, 1), (1, 0), (2, 3), (2, 4), (3, 2), (3, 4), (4, 2), (4, 3)]
    assert found.distances.tolist() == pytest.approx([5, 5, 100, 1, 100, 10001**0.5, 1, 10001**0.5], abs=1e-12)
    assert not found.offsets.any()


def test_in_cell_pairs_of_some_destinations() -> None:
    positions, batch = torch.zeros(5, 3), torch.tensor([0, 0, 1, 1, 1])
    found = in_cell_pairs(positions, batch, torch.tensor([1, 3]))
    assert list(zip(found.destination.tolist(), found.source.tolist(), strict=True)) == [(1, 0), (3, 2), (3, 4)]
