"""Messages along edges: the sum over neighbours that takes most of the time, in torch and as one fused kernel.

For atom i, with scalar parts B and stacks G of the source j, radial weights w of the edge and harmonics Y of its
direction (rows of a stack: 3 vector, 5 tensor; see :mod:`deeprelax_ase.nn.harmonics`)::

    m_i[scalar] = sum_j w0 B0_j
    m_i[vector] = sum_j w1 B1_j Y[vector] + w3 G_j[vector]
    m_i[tensor] = sum_j w2 B2_j Y[tensor] + w4 G_j[tensor]

On CUDA a Triton kernel reads each edge once and writes each atom once, without atomics, so that results repeat exactly;
Triton comes with torch's builds for CUDA. CPUs sum over images first (:mod:`deeprelax_ase.nn.image_sums`). Plain torch
is for CUDA without Triton and in float64, and what the others are held against.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

from deeprelax_ase.graph.shapes import (
    Components,
    EdgeAtoms,
    EdgeMessages,
    Harmonics,
    Messages,
    RadialWeights,
    SourceScalars,
    Stacks,
)
from deeprelax_ase.nn.edge_lists import EdgeLists
from deeprelax_ase.nn.harmonics import TENSOR, VECTOR

#: Radial weights per channel, and rows of the sources' scalar parts.
WEIGHTS, SCALARS = 5, 3


def aggregate(
    scalars: SourceScalars, stacks: Stacks, weights: RadialWeights, harmonics: Harmonics, edges: EdgeLists
) -> Messages:
    """Messages (N, 9, F) of all atoms, in the type of ``weights``.

    Args:
        scalars: (N, 3, F), B.
        stacks: (N, 8, F), G.
        weights: (E, 5, F), w.
        harmonics: (E, 8), Y.
        edges: their ends.
    """
    if weights.is_cuda and weights.dtype != torch.float64 and has_triton():
        from deeprelax_ase.nn.triton_messages import fused_aggregate

        return fused_aggregate(scalars, stacks, weights, harmonics, edges)
    return plain_aggregate(scalars, stacks, weights, harmonics, edges)


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def plain_aggregate(
    scalars: SourceScalars, stacks: Stacks, weights: RadialWeights, harmonics: Harmonics, edges: EdgeLists
) -> Messages:
    """:func:`aggregate` in plain torch, the reference for the others."""
    source, destination = edges.source, edges.destination
    num_atoms = len(scalars)
    sent = scalars[source] * weights[:, :SCALARS]
    own = _collect(sent[:, :1], destination, num_atoms)
    vector = _collect(sent[:, 1:2] * harmonics[:, VECTOR, None], destination, num_atoms)
    tensor = _collect(sent[:, 2:3] * harmonics[:, TENSOR, None], destination, num_atoms)
    # All images of j give atom i the same part of G_j: in small cells most edges are such images.
    _, pair = torch.unique_consecutive(destination * num_atoms + source, return_inverse=True)
    first = pair.diff(prepend=pair.new_full((1,), -1)).nonzero().squeeze(1)
    passed = weights.new_zeros(len(first), 2, weights.shape[2]).index_add_(0, pair, weights[:, SCALARS:])
    stacks, ends = stacks[source[first]], destination[first]
    vector = vector + _collect(stacks[:, VECTOR] * passed[:, :1], ends, num_atoms)
    tensor = tensor + _collect(stacks[:, TENSOR] * passed[:, 1:], ends, num_atoms)
    return torch.cat([own, vector, tensor], dim=1)


def _collect(messages: EdgeMessages, ends: EdgeAtoms, num_atoms: int) -> Components:
    """The sum of what arrives at each atom."""
    return messages.new_zeros(num_atoms, *messages.shape[1:]).index_add_(0, ends, messages)
