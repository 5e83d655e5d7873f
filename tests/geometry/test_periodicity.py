from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.geometry.periodicity import Periodicity, periodicity


def of(edges: list[tuple[int, int, tuple[int, int, int]]], batch: list[int]) -> Periodicity:
    """Of links from atom j to atom i in the cell with these offsets."""
    j, i, offsets = zip(*edges, strict=True) if edges else ((), (), np.zeros((0, 3), int))
    table = torch.tensor([j, i], dtype=torch.long)
    shifts = torch.tensor(np.array(offsets).reshape(-1, 3), dtype=torch.long)
    return periodicity(table, shifts, torch.tensor(batch), batch[-1] + 1)


def test_by_hand() -> None:
    """A chain of two atoms, a layer of one, a molecule of two, a crystal of one, and an atom alone."""
    found = of(
        [
            (0, 1, (0, 0, 0)),
            (1, 0, (0, 0, -1)),
            (2, 2, (1, 0, 0)),
            (2, 2, (0, 1, 1)),
            (3, 4, (2, 1, 0)),
            (5, 5, (1, 0, 0)),
            (5, 5, (0, 1, 0)),
            (5, 5, (1, 1, 1)),
        ],
        [0, 0, 1, 2, 2, 3, 4],
    )
    assert found.rank.tolist() == [1, 2, 0, 3, 0]
    chain, layer, *rest = found.indices.tolist()
    assert not any(chain)
    assert layer in ([0, 1, -1], [0, -1, 1])
    assert not np.any(rest)


def test_without_links() -> None:
    assert of([], [0, 0, 1]).rank.tolist() == [0, 0]


def test_a_lattice_vector_without_a_common_factor() -> None:
    """Links that skip every other cell repeat by two cells, and the plane is that of the single ones."""
    found = of([(0, 0, (2, 0, 0)), (0, 0, (0, 3, 0))], [0])
    assert found.rank.item() == 2
    assert found.indices[0].abs().tolist() == [0, 0, 1]


@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(0, 3), atoms=st.integers(1, 40))
def test_long_chains_in_any_order_and_any_cell(seed: int, rank: int, atoms: int) -> None:
    """A tree through all atoms, closed by ``rank`` edges, whichever images and numbers the atoms have."""
    draw = np.random.default_rng(seed)
    order, images = draw.permutation(atoms), draw.integers(-3, 4, size=(atoms, 3))
    vectors = np.linalg.qr(draw.normal(size=(3, 3)))[0]
    vectors = np.round(3 * vectors).astype(int)[:rank]
    while rank and np.linalg.matrix_rank(vectors) < rank:
        vectors = draw.integers(-2, 3, size=(rank, 3))
    links = [(draw.integers(n), n, np.zeros(3, int)) for n in range(1, atoms)]
    links += [(draw.integers(atoms), draw.integers(atoms), vector) for vector in vectors]
    edges = [(order[j], order[i], tuple(k + images[i] - images[j])) for j, i, k in links]
    found = of([(int(j), int(i), tuple(map(int, k))) for j, i, k in edges], [0] * atoms)
    assert found.rank.item() == rank
    if rank == 2:
        assert np.cross(found.indices[0].numpy(), np.cross(*vectors)).tolist() == [0, 0, 0]
