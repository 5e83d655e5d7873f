from __future__ import annotations

import torch

from deeprelax_ase.nn.edge_lists import edge_lists

ATOMS, EDGES = 6, 31


def ends() -> torch.Tensor:
    """(2, E), sorted by destination; the last atom neither sends nor receives."""
    generator = torch.Generator().manual_seed(2)
    source = torch.randint(ATOMS - 1, (EDGES,), generator=generator)
    destination = torch.randint(ATOMS - 1, (EDGES,), generator=generator).sort().values
    return torch.stack([source, destination])


def test_edges_are_listed_from_both_ends() -> None:
    index = ends()
    lists = edge_lists(index, ATOMS, gradient=True)
    assert torch.equal(torch.stack([lists.source, lists.destination]), index)
    assert lists.destination_starts.shape == lists.source_starts.shape == (ATOMS + 1,)
    for atom in range(ATOMS):
        received = torch.arange(EDGES)[lists.destination_starts[atom] : lists.destination_starts[atom + 1]]
        sent = lists.by_source[lists.source_starts[atom] : lists.source_starts[atom + 1]]
        assert received.tolist() == (index[1] == atom).nonzero().flatten().tolist()
        assert sent.tolist() == (index[0] == atom).nonzero().flatten().tolist()
    assert lists.source_starts[-1] == lists.source_starts[-2] == EDGES  # the last atom is alone


def test_without_a_gradient_the_sources_are_not_listed() -> None:
    lists = edge_lists(ends(), ATOMS, gradient=False)
    assert len(lists.by_source) == len(lists.source_starts) == 0
    assert torch.equal(lists.destination_starts, edge_lists(ends(), ATOMS, gradient=True).destination_starts)
