"""What atoms send along edges: the sum over neighbours that takes most of the time, in torch and as one fused kernel.

For atom i, with scalar parts B and stacks G of the source j, radial weights w of the edge and harmonics Y of its
direction (rows of a stack: 3 vector, 5 tensor; see :mod:`deeprelax_ase.nn.harmonics`)::

    m_i[scalar] = sum_j w0 B0_j
    m_i[vector] = sum_j w1 B1_j Y[vector] + w3 G_j[vector]
    m_i[tensor] = sum_j w2 B2_j Y[tensor] + w4 G_j[tensor]

On CUDA a Triton kernel reads each edge once and writes each atom once, without atomics, so that results repeat exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deeprelax_ase.nn.edge_lists import EdgeLists
from deeprelax_ase.nn.harmonics import TENSOR, VECTOR

#: Radial weights per channel, and rows of the sources' scalar parts.
WEIGHTS, SCALARS = 5, 3


def aggregate(scalars: Tensor, stacks: Tensor, weights: Tensor, harmonics: Tensor, edges: EdgeLists) -> Tensor:
    """Messages (N, 9, F) of all atoms, in the type of ``weights``; no gradient flows to ``harmonics``.

    Args:
        scalars: (N, 3, F), B.
        stacks: (N, 8, F), G.
        weights: (E, 5, F), w.
        harmonics: (E, 8), Y.
        edges: their ends.
    """
    if weights.is_cuda and weights.dtype != torch.float64:
        from deeprelax_ase.nn.triton_messages import fused_aggregate

        return fused_aggregate(scalars, stacks, weights, harmonics, edges)
    return plain_aggregate(scalars, stacks, weights, harmonics, edges)


def plain_aggregate(scalars: Tensor, stacks: Tensor, weights: Tensor, harmonics: Tensor, edges: EdgeLists) -> Tensor:
    """:func:`aggregate` in plain torch: on CPUs, and the reference for the kernel."""
    source, destination = edges.source, edges.destination

    def collect(messages: Tensor) -> Tensor:
        return messages.new_zeros(len(scalars), *messages.shape[1:]).index_add_(0, destination, messages)

    sent = scalars[source] * weights[:, :SCALARS]
    gathered = stacks[source]
    # addcmul spares a pass over (E, 3, F) and (E, 5, F), which is where the time goes
    vector = torch.addcmul(gathered[:, VECTOR] * weights[:, 3:4], sent[:, 1:2], harmonics[:, VECTOR, None])
    tensor = torch.addcmul(gathered[:, TENSOR] * weights[:, 4:5], sent[:, 2:3], harmonics[:, TENSOR, None])
    return torch.cat([collect(sent[:, :1]), collect(vector), collect(tensor)], dim=1)
