"""Lists of neighbours that are kept: none is missing within the cutoff, however crystals have moved since."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk

from deeprelax_ase.calculators import kept_edges
from deeprelax_ase.calculators.kept_edges import KeptEdges, within
from deeprelax_ase.calculators.m3gnet_edges import listed_edges
from tests.calculators.batches import rattled, tensors_of

CUTOFF, SKIN = 5.0, 0.6

CRYSTALS = [rattled("Al", 4.1, 5), bulk("NaCl", "rocksalt", a=5.6), rattled("Cu", 3.5, 2)]


def near(edges, positions, cells, batch) -> set[tuple[int, ...]]:
    """The edges within the cutoff."""
    (source, destination), offsets = edges
    shifts = (offsets[:, :, None] * cells[batch[destination]]).sum(dim=1)
    lengths = torch.linalg.vector_norm(positions[source] - positions[destination] + shifts, dim=1)
    named = torch.cat([source[:, None], destination[:, None], offsets], dim=1)[lengths <= CUTOFF]
    return set(map(tuple, named.tolist()))


@pytest.mark.parametrize("size", [0.01, 0.05, 0.2])
def test_none_is_missing_while_crystals_move(size: float) -> None:
    _, positions, cells, batch = tensors_of(CRYSTALS)
    kept, rng, rounds = KeptEdges(CUTOFF, SKIN), np.random.default_rng(0), 12
    for _ in range(rounds):
        edges = kept(positions, cells, batch)
        alone = listed_edges(positions, cells, batch)
        assert near(edges, positions, cells, batch) == near(alone, positions, cells, batch)
        short, offsets = within(CUTOFF, positions, cells, batch, *edges)
        assert near((short, offsets), positions, cells, batch) == near(alone, positions, cells, batch)
        assert len(offsets) == len(alone[1])
        strain = torch.eye(3) + size * 0.1 * torch.from_numpy(rng.normal(size=cells.shape))
        cells = cells @ strain
        positions = (positions[:, None] @ strain[batch]).squeeze(1)
        positions = positions + size * torch.from_numpy(rng.normal(size=positions.shape))
    assert {0.01: kept.listed == 1, 0.05: 1 < kept.listed < rounds, 0.2: kept.listed == rounds}[size]


def test_a_crystal_that_is_strained_as_a_whole_keeps_its_list_longer_than_one_whose_atoms_move() -> None:
    _, positions, cells, batch = tensors_of([bulk("Al", "fcc", a=4.0, cubic=True) * 3])
    kept = KeptEdges(CUTOFF, SKIN)
    edges = kept(positions, cells, batch)
    assert kept(positions * 1.05, cells * 1.05, batch) is edges, "atoms far from the origin have moved by more"
    assert kept(positions * 1.2, cells * 1.2, batch) is not edges


def test_only_who_moved_far_is_listed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    _, positions, cells, batch = tensors_of(CRYSTALS)
    kept, sizes, rng = KeptEdges(CUTOFF, SKIN), [], np.random.default_rng(0)
    monkeypatch.setattr(kept_edges, "listed_edges", lambda *a, **k: sizes.append(len(a[1])) or listed_edges(*a, **k))
    kept(positions, cells, batch)
    for crystal in (1, 0):
        positions = positions + torch.from_numpy(rng.normal(size=positions.shape)) * (batch == crystal)[:, None]
        edges = kept(positions, cells, batch)
        assert near(edges, positions, cells, batch) == near(
            listed_edges(positions, cells, batch), positions, cells, batch
        )
        assert bool((edges[0][1].diff() >= 0).all())
        assert kept(positions, cells, batch) is edges
    assert sizes == [3, 1, 1]


def test_others_are_listed_anew() -> None:
    _, positions, cells, batch = tensors_of(CRYSTALS)
    kept = KeptEdges(CUTOFF, SKIN)
    edges = kept(positions, cells, batch)
    assert kept(positions, cells, batch) is edges
    assert kept(positions, cells, batch.clone()) is not edges
    without = KeptEdges(CUTOFF, 0.0)
    assert without(positions, cells, batch) is not without(positions, cells, batch)
