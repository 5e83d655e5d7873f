from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeprelax_ase.nn.edge_lists import EdgeLists, edge_lists
from deeprelax_ase.nn.harmonics import harmonics
from deeprelax_ase.nn.image_sums import EdgeTerms, ImageSums, sum_images
from deeprelax_ase.nn.messages import plain_aggregate

BASIS, CHANNELS = 7, 4


def graph(atoms: int, edges: int) -> EdgeLists:
    """Of random pairs, sorted by destination; the last atom neither sends nor receives."""
    generator = torch.Generator().manual_seed(2)
    pairs = torch.randint((atoms - 1) ** 2, (edges,), generator=generator).sort().values
    destination, source = pairs // (atoms - 1), pairs % (atoms - 1)
    return edge_lists(torch.stack([source, destination]), atoms, gradient=True)


def features(atoms: int, edges: int) -> list[Tensor]:
    """Radial basis, harmonics, scalars, stacks and filters."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    directions = harmonics(torch.nn.functional.normalize(normal(edges, 3), dim=1))
    stacks = normal(atoms, 3, CHANNELS), normal(atoms, 8, CHANNELS)
    return [normal(edges, BASIS), directions, *stacks, normal(5 * CHANNELS, BASIS)]


#: Many images of few atoms, in one part and in several, and few images, likewise.
GRAPHS = {
    "small": (6, 90, ImageSums),
    "some": (12, 600, ImageSums),
    "few": (9, 70, EdgeTerms),
    "large": (60, 1000, EdgeTerms),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_messages_are_those_of_the_edges(name: str) -> None:
    atoms, edges, kind = GRAPHS[name]
    radial, directions, scalars, stacks, filters = features(atoms, edges)
    lists = graph(atoms, edges)
    weights = (radial @ filters.T).view(edges, 5, CHANNELS)
    expected = plain_aggregate(scalars, stacks, weights, directions, lists)
    with torch.no_grad():
        sums = sum_images(radial, directions, lists)
        actual = sums.messages(scalars, stacks, filters)
    assert isinstance(sums, kind)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert not actual[-1].any()


@pytest.mark.parametrize(("atoms", "edges"), [(4, 40), (9, 40)])
def test_gradients(atoms: int, edges: int) -> None:
    radial, directions, *inputs = features(atoms, edges)
    sums = sum_images(radial, directions, graph(atoms, edges))
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(sums.messages, inputs, fast_mode=True)


def test_no_edges() -> None:
    radial, directions, scalars, stacks, filters = features(3, 0)
    with torch.no_grad():
        assert not sum_images(radial, directions, graph(3, 0)).messages(scalars, stacks, filters).any()
