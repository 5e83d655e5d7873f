"""The messages of :mod:`deeprelax_ase.nn.messages` on CPUs: sums over periodic images first, which no layer changes.

Radial weights are linear in the radial basis phi of an edge, and all images of atom j send atom i the same B_j and G_j.
So a block sums over the edges e of each pair (j, i) once, for all its layers::

    S0 = sum_e phi_e,   S1 = sum_e Y_e[vector] phi_e,   S2 = sum_e Y_e[tensor] phi_e
    m_i[scalar] = sum_j (W0 S0) B0_j
    m_i[vector] = sum_j (W1 S1) B1_j + (W3 S0) G_j[vector]
    m_i[tensor] = sum_j (W2 S2) B2_j + (W4 S0) G_j[tensor]

That leaves a pair what an edge would take, and atoms are gone through a few at a time so that it stays in the cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import linear

from deeprelax_ase.graph.edges import row_starts
from deeprelax_ase.graph.shapes import (
    EdgeFeatures,
    FilterWeights,
    Harmonics,
    Messages,
    PairFeatures,
    PairInts,
    PairTensors,
    PairVectors,
    SourceScalars,
    Stacks,
)
from deeprelax_ase.nn.edge_lists import EdgeLists
from deeprelax_ase.nn.harmonics import TENSOR, VECTOR

#: Pairs whose messages are held at once: a megabyte and a half of 256 channels.
_PAIRS = 128


class ImageSums(NamedTuple):
    """Sums over the edges of each pair of atoms, of P pairs.

    Attributes:
        source: (P,) int64, atom j.
        destination: (P,) int64, atom i, ascending.
        scalar: (P, B), S0.
        vector: (P, 3, B), S1.
        tensor: (P, 5, B), S2.
    """

    source: PairInts
    destination: PairInts
    scalar: PairFeatures
    vector: PairVectors
    tensor: PairTensors


def sum_images(radial: EdgeFeatures, directions: Harmonics, edges: EdgeLists) -> ImageSums:
    """The sums of ``radial`` (E, B), and of it times ``directions`` (E, 8), over neighbouring edges of one pair."""
    source, destination = edges.source, edges.destination
    atoms = len(edges.destination_starts) - 1
    _, pair = torch.unique_consecutive(destination * atoms + source, return_inverse=True)
    first = pair.diff(prepend=pair.new_full((1,), -1)).nonzero().squeeze(1)
    rows = torch.cat([directions.new_ones(len(directions), 1), directions], dim=1).to(radial.dtype)
    sums = radial.new_zeros(len(first), 9, radial.shape[1])
    sums = sums.index_add_(0, pair, rows[:, :, None] * radial[:, None])
    scalar, vector, tensor = (part.contiguous() for part in sums.split([1, 3, 5], dim=1))
    return ImageSums(source[first], destination[first], scalar[:, 0], vector, tensor)


def aggregate_images(scalars: SourceScalars, stacks: Stacks, filters: FilterWeights, images: ImageSums) -> Messages:
    """Messages (N, 9, F) of all atoms.

    Args:
        scalars: (N, 3, F), B.
        stacks: (N, 8, F), G.
        filters: (5 F, B), W0 to W4.
        images: of the edges.
    """
    own, by_vector, by_tensor, passed = filters.split([scalars.shape[2]] * 3 + [2 * scalars.shape[2]])
    parts = []
    for atoms, pairs in _parts(images.destination, len(scalars)):
        source = images.source[pairs]
        sent, stack = scalars.index_select(0, source), stacks.index_select(0, source)
        weights = linear(images.scalar[pairs], passed).view(len(source), 2, -1)
        messages = torch.cat(
            [
                (linear(images.scalar[pairs], own) * sent[:, 0])[:, None],
                torch.addcmul(linear(images.vector[pairs], by_vector) * sent[:, 1:2], stack[:, VECTOR], weights[:, :1]),
                torch.addcmul(linear(images.tensor[pairs], by_tensor) * sent[:, 2:3], stack[:, TENSOR], weights[:, 1:]),
            ],
            dim=1,
        )
        here = messages.new_zeros(len(atoms), *messages.shape[1:])
        parts.append(here.index_add_(0, images.destination[pairs] - atoms.start, messages))
    return torch.cat(parts)


def _parts(destination: PairInts, atoms: int) -> list[tuple[range, slice]]:
    """Consecutive atoms and their pairs, some :data:`_PAIRS` of these at most unless a single atom has more."""
    starts = row_starts(destination, atoms).tolist()
    parts, first = [], 0
    for end in range(1, atoms + 1):
        if end == atoms or starts[end + 1] - starts[first] > _PAIRS:
            parts.append((range(first, end), slice(starts[first], starts[end])))
            first = end
    return parts
