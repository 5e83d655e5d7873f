"""The messages of :mod:`deeprelax_ase.nn.messages` on CPUs: over periodic images first, where there are many.

Radial weights are linear in the radial basis phi of an edge, and all images of atom j send atom i the same B_j and G_j.
So a block sums over the edges e of each pair (j, i) once, for all its layers::

    S0 = sum_e phi_e,   S1 = sum_e Y_e[vector] phi_e,   S2 = sum_e Y_e[tensor] phi_e
    m_i[scalar] = sum_j (W0 S0) B0_j
    m_i[vector] = sum_j (W1 S1) B1_j + (W3 S0) G_j[vector]
    m_i[tensor] = sum_j (W2 S2) B2_j + (W4 S0) G_j[tensor]

In small cells that leaves a pair what many edges would take. In large ones most pairs have one edge: then the edges are
summed as they are. Atoms are gone through a few at a time, so that what is held stays in the cache.
"""

from __future__ import annotations

from itertools import pairwise
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
from deeprelax_ase.nn.messages import SCALARS, WEIGHTS

#: Pairs or edges whose messages are held at once: a megabyte and a half of 256 channels.
_AT_ONCE = 128

#: Edges of a pair, on average, from which on it pays to sum over them first: a pair costs as much as two edges.
_MANY_IMAGES = 2


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

    def messages(self, scalars: SourceScalars, stacks: Stacks, filters: FilterWeights) -> Messages:
        """Messages (N, 9, F) of all atoms.

        Args:
            scalars: (N, 3, F), B.
            stacks: (N, 8, F), G.
            filters: (5 F, B), W0 to W4.
        """
        own, by_vector, by_tensor, passed = filters.split([scalars.shape[2]] * 3 + [2 * scalars.shape[2]])
        messages = scalars.new_zeros(len(scalars), 9, scalars.shape[2])
        for pairs in _parts(self.destination, len(scalars)):
            source = self.source[pairs]
            sent, stack = scalars.index_select(0, source), stacks.index_select(0, source)
            weights = linear(self.scalar[pairs], passed).view(len(source), 2, -1)
            vector, tensor = linear(self.vector[pairs], by_vector), linear(self.tensor[pairs], by_tensor)
            arriving = torch.cat(
                [
                    (linear(self.scalar[pairs], own) * sent[:, 0])[:, None],
                    torch.addcmul(vector * sent[:, 1:2], stack[:, VECTOR], weights[:, :1]),
                    torch.addcmul(tensor * sent[:, 2:3], stack[:, TENSOR], weights[:, 1:]),
                ],
                dim=1,
            )
            messages.index_add_(0, self.destination[pairs], arriving)
        return messages


class EdgeTerms(NamedTuple):
    """The edges themselves, where few have both ends in common and no gradient is wanted.

    Attributes:
        edges: their ends.
        radial: (E, B), phi.
        directions: (E, 8), Y.
    """

    edges: EdgeLists
    radial: EdgeFeatures
    directions: Harmonics

    def messages(self, scalars: SourceScalars, stacks: Stacks, filters: FilterWeights) -> Messages:
        """:meth:`ImageSums.messages`, edge by edge."""
        atoms, _, channels = scalars.shape
        messages = scalars.new_zeros(atoms, 9, channels)
        parts = _parts(self.edges.destination, atoms)
        rows = scalars.new_empty(max(part.stop - part.start for part in parts), 9, channels)  # hot in the cache
        for part in parts:
            source, directions = self.edges.source[part], self.directions[part, :, None]
            weights = linear(self.radial[part], filters).view(len(source), WEIGHTS, channels)
            sent, stack = scalars.index_select(0, source).mul_(weights[:, :SCALARS]), stacks.index_select(0, source)
            arriving = rows[: len(source)]
            arriving[:, 0] = sent[:, 0]
            torch.mul(sent[:, 1:2], directions[:, VECTOR], out=arriving[:, 1:4])
            torch.mul(sent[:, 2:], directions[:, TENSOR], out=arriving[:, 4:])
            arriving[:, 1:4].addcmul_(stack[:, VECTOR], weights[:, 3:4])
            arriving[:, 4:].addcmul_(stack[:, TENSOR], weights[:, 4:])
            messages.index_add_(0, self.edges.destination[part], arriving)
        return messages


def sum_images(radial: EdgeFeatures, directions: Harmonics, edges: EdgeLists) -> ImageSums | EdgeTerms:
    """Prepare the messages of a block along ``edges`` with ``radial`` (E, B) and ``directions`` (E, 8).

    The sums over neighbouring edges of one pair, or the edges, whichever takes less. Those alone have no gradient.
    """
    source, destination = edges.source, edges.destination
    atoms = len(edges.destination_starts) - 1
    new = (destination * atoms + source).diff(prepend=source.new_full((1,), -1)) != 0
    first = new.nonzero().squeeze(1)
    if len(source) <= _MANY_IMAGES * len(first) and not torch.is_grad_enabled():
        return EdgeTerms(edges, radial, directions.to(radial.dtype))
    rows = torch.cat([directions.new_ones(len(directions), 1), directions], dim=1).to(radial.dtype)
    sums = radial.new_zeros(len(first), 9, radial.shape[1])
    sums = sums.index_add_(0, new.cumsum(0) - 1, rows[:, :, None] * radial[:, None])
    scalar, vector, tensor = (part.contiguous() for part in sums.split([1, 3, 5], dim=1))
    return ImageSums(source[first], destination[first], scalar[:, 0], vector, tensor)


def _parts(destination: PairInts, atoms: int) -> list[slice]:
    """Consecutive pairs of whole atoms, some :data:`_AT_ONCE` of these at most unless a single atom has more."""
    starts = row_starts(destination, atoms).tolist()
    parts, first = [], 0
    for start, end in pairwise(starts):
        if end - first > _AT_ONCE and start > first:
            parts.append(slice(first, start))
            first = start
    return [*parts, slice(first, starts[-1])]
