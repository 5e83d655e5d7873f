"""The sum of :mod:`deeprelax_ase.nn.messages` as Triton kernels, forward and backward.

Forward: a program for each destination and block of channels walks over the atom's edges. Backward: a program for each
source walks over the edges that leave it, and writes the gradient of their weights on the way. Sums are in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deeprelax_ase.nn.edge_lists import EdgeLists

_BLOCK = 128


@triton.jit
def _forward(scalars, stacks, weights, harmonics, source, starts, out, F: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < F
    m0 = tl.zeros([BLOCK], tl.float32)
    m1 = tl.zeros([BLOCK], tl.float32)
    m2 = tl.zeros([BLOCK], tl.float32)
    m3 = tl.zeros([BLOCK], tl.float32)
    m4 = tl.zeros([BLOCK], tl.float32)
    m5 = tl.zeros([BLOCK], tl.float32)
    m6 = tl.zeros([BLOCK], tl.float32)
    m7 = tl.zeros([BLOCK], tl.float32)
    m8 = tl.zeros([BLOCK], tl.float32)
    for e in range(tl.load(starts + i), tl.load(starts + i + 1)):
        j = tl.load(source + e).to(tl.int64)
        w = weights + e * 5 * F + c
        b = scalars + j * 3 * F + c
        g = stacks + j * 8 * F + c
        y = harmonics + e * 8
        t1 = tl.load(b + F, inside).to(tl.float32) * tl.load(w + F, inside).to(tl.float32)
        t2 = tl.load(b + 2 * F, inside).to(tl.float32) * tl.load(w + 2 * F, inside).to(tl.float32)
        w3 = tl.load(w + 3 * F, inside).to(tl.float32)
        w4 = tl.load(w + 4 * F, inside).to(tl.float32)
        m0 += tl.load(b, inside).to(tl.float32) * tl.load(w, inside).to(tl.float32)
        m1 += t1 * tl.load(y) + w3 * tl.load(g, inside).to(tl.float32)
        m2 += t1 * tl.load(y + 1) + w3 * tl.load(g + F, inside).to(tl.float32)
        m3 += t1 * tl.load(y + 2) + w3 * tl.load(g + 2 * F, inside).to(tl.float32)
        m4 += t2 * tl.load(y + 3) + w4 * tl.load(g + 3 * F, inside).to(tl.float32)
        m5 += t2 * tl.load(y + 4) + w4 * tl.load(g + 4 * F, inside).to(tl.float32)
        m6 += t2 * tl.load(y + 5) + w4 * tl.load(g + 5 * F, inside).to(tl.float32)
        m7 += t2 * tl.load(y + 6) + w4 * tl.load(g + 6 * F, inside).to(tl.float32)
        m8 += t2 * tl.load(y + 7) + w4 * tl.load(g + 7 * F, inside).to(tl.float32)
    o = out + i * 9 * F + c
    tl.store(o, m0, inside)
    tl.store(o + F, m1, inside)
    tl.store(o + 2 * F, m2, inside)
    tl.store(o + 3 * F, m3, inside)
    tl.store(o + 4 * F, m4, inside)
    tl.store(o + 5 * F, m5, inside)
    tl.store(o + 6 * F, m6, inside)
    tl.store(o + 7 * F, m7, inside)
    tl.store(o + 8 * F, m8, inside)


@triton.jit
def _backward(
    grad, scalars, stacks, weights, harmonics, destination, order, starts, grad_scalars, grad_stacks, grad_weights,
    F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < F
    b = scalars + j * 3 * F + c
    g = stacks + j * 8 * F + c
    b0 = tl.load(b, inside).to(tl.float32)
    b1 = tl.load(b + F, inside).to(tl.float32)
    b2 = tl.load(b + 2 * F, inside).to(tl.float32)
    g0 = tl.load(g, inside).to(tl.float32)
    g1 = tl.load(g + F, inside).to(tl.float32)
    g2 = tl.load(g + 2 * F, inside).to(tl.float32)
    g3 = tl.load(g + 3 * F, inside).to(tl.float32)
    g4 = tl.load(g + 4 * F, inside).to(tl.float32)
    g5 = tl.load(g + 5 * F, inside).to(tl.float32)
    g6 = tl.load(g + 6 * F, inside).to(tl.float32)
    g7 = tl.load(g + 7 * F, inside).to(tl.float32)
    db0 = tl.zeros([BLOCK], tl.float32)
    db1 = tl.zeros([BLOCK], tl.float32)
    db2 = tl.zeros([BLOCK], tl.float32)
    dg0 = tl.zeros([BLOCK], tl.float32)
    dg1 = tl.zeros([BLOCK], tl.float32)
    dg2 = tl.zeros([BLOCK], tl.float32)
    dg3 = tl.zeros([BLOCK], tl.float32)
    dg4 = tl.zeros([BLOCK], tl.float32)
    dg5 = tl.zeros([BLOCK], tl.float32)
    dg6 = tl.zeros([BLOCK], tl.float32)
    dg7 = tl.zeros([BLOCK], tl.float32)
    for s in range(tl.load(starts + j), tl.load(starts + j + 1)):
        e = tl.load(order + s).to(tl.int64)
        i = tl.load(destination + e).to(tl.int64)
        w = weights + e * 5 * F + c
        y = harmonics + e * 8
        o = grad + i * 9 * F + c
        o0 = tl.load(o, inside).to(tl.float32)
        o1 = tl.load(o + F, inside).to(tl.float32)
        o2 = tl.load(o + 2 * F, inside).to(tl.float32)
        o3 = tl.load(o + 3 * F, inside).to(tl.float32)
        o4 = tl.load(o + 4 * F, inside).to(tl.float32)
        o5 = tl.load(o + 5 * F, inside).to(tl.float32)
        o6 = tl.load(o + 6 * F, inside).to(tl.float32)
        o7 = tl.load(o + 7 * F, inside).to(tl.float32)
        o8 = tl.load(o + 8 * F, inside).to(tl.float32)
        along1 = o1 * tl.load(y) + o2 * tl.load(y + 1) + o3 * tl.load(y + 2)
        along2 = o4 * tl.load(y + 3) + o5 * tl.load(y + 4) + o6 * tl.load(y + 5)
        along2 += o7 * tl.load(y + 6) + o8 * tl.load(y + 7)
        w3 = tl.load(w + 3 * F, inside).to(tl.float32)
        w4 = tl.load(w + 4 * F, inside).to(tl.float32)
        db0 += o0 * tl.load(w, inside).to(tl.float32)
        db1 += along1 * tl.load(w + F, inside).to(tl.float32)
        db2 += along2 * tl.load(w + 2 * F, inside).to(tl.float32)
        dg0 += o1 * w3
        dg1 += o2 * w3
        dg2 += o3 * w3
        dg3 += o4 * w4
        dg4 += o5 * w4
        dg5 += o6 * w4
        dg6 += o7 * w4
        dg7 += o8 * w4
        dw = grad_weights + e * 5 * F + c
        tl.store(dw, o0 * b0, inside)
        tl.store(dw + F, along1 * b1, inside)
        tl.store(dw + 2 * F, along2 * b2, inside)
        tl.store(dw + 3 * F, o1 * g0 + o2 * g1 + o3 * g2, inside)
        tl.store(dw + 4 * F, o4 * g3 + o5 * g4 + o6 * g5 + o7 * g6 + o8 * g7, inside)
    db = grad_scalars + j * 3 * F + c
    tl.store(db, db0, inside)
    tl.store(db + F, db1, inside)
    tl.store(db + 2 * F, db2, inside)
    dg = grad_stacks + j * 8 * F + c
    tl.store(dg, dg0, inside)
    tl.store(dg + F, dg1, inside)
    tl.store(dg + 2 * F, dg2, inside)
    tl.store(dg + 3 * F, dg3, inside)
    tl.store(dg + 4 * F, dg4, inside)
    tl.store(dg + 5 * F, dg5, inside)
    tl.store(dg + 6 * F, dg6, inside)
    tl.store(dg + 7 * F, dg7, inside)


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scalars: Tensor, stacks: Tensor, weights: Tensor, harmonics: Tensor, edges: EdgeLists):
        num_atoms, channels = scalars.shape[0], scalars.shape[-1]
        out = weights.new_empty(num_atoms, 1 + stacks.shape[1], channels)
        grid = (num_atoms, triton.cdiv(channels, _BLOCK))
        with torch.cuda.device_of(scalars):  # Triton starts kernels on the current device, wherever the tensors are
            _forward[grid](
                scalars, stacks, weights, harmonics, edges.source, edges.destination_starts, out,
                F=channels, BLOCK=_BLOCK,
            )  # fmt: skip
        ctx.save_for_backward(scalars, stacks, weights, harmonics)
        ctx.edges = edges
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        scalars, stacks, weights, harmonics = ctx.saved_tensors
        edges, channels = ctx.edges, scalars.shape[-1]
        gradients = torch.empty_like(scalars), torch.empty_like(stacks), torch.empty_like(weights)
        grid = (scalars.shape[0], triton.cdiv(channels, _BLOCK))
        with torch.cuda.device_of(scalars):
            _backward[grid](
                grad.contiguous(), scalars, stacks, weights, harmonics, edges.destination, edges.by_source,
                edges.source_starts, *gradients, F=channels, BLOCK=_BLOCK,
            )  # fmt: skip
        return *gradients, None, None


def fused_aggregate(scalars: Tensor, stacks: Tensor, weights: Tensor, harmonics: Tensor, edges: EdgeLists) -> Tensor:
    """:func:`deeprelax_ase.nn.messages.aggregate` in one pass over the edges.

    Raises:
        ValueError: a gradient is wanted, and ``edges`` are not listed by source.
    """
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (scalars, stacks, weights))
    if wants_gradient and not len(edges.source_starts):
        raise ValueError("edge_lists(..., gradient=True) is needed to train")
    dtype = weights.dtype
    inputs = scalars.to(dtype).contiguous(), stacks.to(dtype).contiguous(), weights.contiguous()
    return _Aggregate.apply(*inputs, harmonics.float().contiguous(), edges)
