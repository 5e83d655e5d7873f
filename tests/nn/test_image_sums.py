from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeprelax_ase.nn.edge_lists import EdgeLists, edge_lists
from deeprelax_ase.nn.harmonics import harmonics
from deeprelax_ase.nn.image_sums import aggregate_images, sum_images
from deeprelax_ase.nn.messages import plain_aggregate

BASIS, CHANNELS = 7, 4


def graph(atoms: int, edges: int) -> EdgeLists:
    """Of many images of few atoms, sorted by destination; the last atom neither sends nor receives."""
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


@pytest.mark.parametrize(("atoms", "edges"), [(6, 90), (40, 1000)])  # in one part, and in several
def test_messages_are_those_of_the_edges(atoms: int, edges: int) -> None:
    radial, directions, scalars, stacks, filters = features(atoms, edges)
    lists = graph(atoms, edges)
    weights = (radial @ filters.T).view(edges, 5, CHANNELS)
    expected = plain_aggregate(scalars, stacks, weights, directions, lists)
    images = sum_images(radial, directions, lists)
    assert len(images.source) < edges
    actual = aggregate_images(scalars, stacks, filters, images)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert not actual[-1].any()


def test_gradients() -> None:
    radial, directions, *inputs = features(6, 40)
    images = sum_images(radial, directions, graph(6, 40))
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: aggregate_images(*given, images), inputs, fast_mode=True)
