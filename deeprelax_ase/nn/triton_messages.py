"""The sum of :mod:`deeprelax_ase.nn.messages` as Triton kernels, forward and backward.

Forward: a program for each destination and block of channels walks over the atom's edges. Backward: a program for each
source walks over the edges that leave it, and writes the gradients of their weights, and of their harmonics where these
are wanted, on the way. Sums are in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from deeprelax_ase.graph.shapes import Harmonics, Messages, RadialWeights, SourceScalars, Stacks
from deeprelax_ase.nn.edge_lists import EdgeLists

_BLOCK = 128


@triton.jit
def _load(row, inside):
    return tl.load(row, inside).to(tl.float32)


@triton.jit
def _total(values, inside):
    return tl.sum(tl.where(inside, values, 0.0))


@triton.jit
def _load8(row, F: tl.constexpr, inside):
    """The eight rows of a stack, F channels apart."""
    return (
        _load(row, inside),
        _load(row + F, inside),
        _load(row + 2 * F, inside),
        _load(row + 3 * F, inside),
        _load(row + 4 * F, inside),
        _load(row + 5 * F, inside),
        _load(row + 6 * F, inside),
        _load(row + 7 * F, inside),
    )


@triton.jit
def _store8(row, F: tl.constexpr, inside, v0, v1, v2, v3, v4, v5, v6, v7):
    tl.store(row, v0, inside)
    tl.store(row + F, v1, inside)
    tl.store(row + 2 * F, v2, inside)
    tl.store(row + 3 * F, v3, inside)
    tl.store(row + 4 * F, v4, inside)
    tl.store(row + 5 * F, v5, inside)
    tl.store(row + 6 * F, v6, inside)
    tl.store(row + 7 * F, v7, inside)


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
        y = harmonics + e * 8
        t1 = _load(b + F, inside) * _load(w + F, inside)
        t2 = _load(b + 2 * F, inside) * _load(w + 2 * F, inside)
        w3 = _load(w + 3 * F, inside)
        w4 = _load(w + 4 * F, inside)
        g0, g1, g2, g3, g4, g5, g6, g7 = _load8(stacks + j * 8 * F + c, F, inside)
        m0 += _load(b, inside) * _load(w, inside)
        m1 += t1 * tl.load(y) + w3 * g0
        m2 += t1 * tl.load(y + 1) + w3 * g1
        m3 += t1 * tl.load(y + 2) + w3 * g2
        m4 += t2 * tl.load(y + 3) + w4 * g3
        m5 += t2 * tl.load(y + 4) + w4 * g4
        m6 += t2 * tl.load(y + 5) + w4 * g5
        m7 += t2 * tl.load(y + 6) + w4 * g6
        m8 += t2 * tl.load(y + 7) + w4 * g7
    o = out + i * 9 * F + c
    tl.store(o, m0, inside)
    _store8(o + F, F, inside, m1, m2, m3, m4, m5, m6, m7, m8)


@triton.jit
def _backward(
    grad, scalars, stacks, weights, harmonics, destination, order, starts, grad_scalars, grad_stacks, grad_weights,
    grad_harmonics, edges, F: tl.constexpr, BLOCK: tl.constexpr, HARMONICS: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < F
    b = scalars + j * 3 * F + c
    b0, b1, b2 = _load(b, inside), _load(b + F, inside), _load(b + 2 * F, inside)
    g0, g1, g2, g3, g4, g5, g6, g7 = _load8(stacks + j * 8 * F + c, F, inside)
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
        o0 = _load(o, inside)
        o1, o2, o3, o4, o5, o6, o7, o8 = _load8(o + F, F, inside)
        along1 = o1 * tl.load(y) + o2 * tl.load(y + 1) + o3 * tl.load(y + 2)
        along2 = o4 * tl.load(y + 3) + o5 * tl.load(y + 4) + o6 * tl.load(y + 5)
        along2 += o7 * tl.load(y + 6) + o8 * tl.load(y + 7)
        w1 = _load(w + F, inside)
        w2 = _load(w + 2 * F, inside)
        w3 = _load(w + 3 * F, inside)
        w4 = _load(w + 4 * F, inside)
        db0 += o0 * _load(w, inside)
        db1 += along1 * w1
        db2 += along2 * w2
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
        if HARMONICS:  # the part of these channels
            t1 = b1 * w1
            t2 = b2 * w2
            dy = grad_harmonics + (tl.program_id(1).to(tl.int64) * edges + e) * 8
            tl.store(dy, _total(t1 * o1, inside))
            tl.store(dy + 1, _total(t1 * o2, inside))
            tl.store(dy + 2, _total(t1 * o3, inside))
            tl.store(dy + 3, _total(t2 * o4, inside))
            tl.store(dy + 4, _total(t2 * o5, inside))
            tl.store(dy + 5, _total(t2 * o6, inside))
            tl.store(dy + 6, _total(t2 * o7, inside))
            tl.store(dy + 7, _total(t2 * o8, inside))
    db = grad_scalars + j * 3 * F + c
    tl.store(db, db0, inside)
    tl.store(db + F, db1, inside)
    tl.store(db + 2 * F, db2, inside)
    _store8(grad_stacks + j * 8 * F + c, F, inside, dg0, dg1, dg2, dg3, dg4, dg5, dg6, dg7)


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scalars: SourceScalars,
        stacks: Stacks,
        weights: RadialWeights,
        harmonics: Harmonics,
        edges: EdgeLists,
    ) -> Messages:
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
    def backward(ctx: Any, grad: Messages) -> tuple[SourceScalars, Stacks, RadialWeights, Harmonics | None, None]:
        scalars, stacks, weights, harmonics = ctx.saved_tensors
        edges, channels = ctx.edges, scalars.shape[-1]
        gradients = torch.empty_like(scalars), torch.empty_like(stacks), torch.empty_like(weights)
        grid = (scalars.shape[0], triton.cdiv(channels, _BLOCK))
        wanted = ctx.needs_input_grad[3]
        of_blocks = harmonics.new_empty(grid[1] if wanted else 0, *harmonics.shape)
        with torch.cuda.device_of(scalars):
            _backward[grid](
                grad.contiguous(), scalars, stacks, weights, harmonics, edges.destination, edges.by_source,
                edges.source_starts, *gradients, of_blocks, len(weights), F=channels, BLOCK=_BLOCK, HARMONICS=wanted,
            )  # fmt: skip
        return *gradients, of_blocks.sum(dim=0) if wanted else None, None


def fused_aggregate(
    scalars: SourceScalars, stacks: Stacks, weights: RadialWeights, harmonics: Harmonics, edges: EdgeLists
) -> Messages:
    """:func:`deeprelax_ase.nn.messages.aggregate` in one pass over the edges.

    Raises:
        ValueError: a gradient is wanted, and ``edges`` are not listed by source.
    """
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (scalars, stacks, weights, harmonics))
    if wants_gradient and not len(edges.source_starts):
        raise ValueError("edge_lists(..., gradient=True) is needed to train")
    dtype = weights.dtype
    inputs = scalars.to(dtype).contiguous(), stacks.to(dtype).contiguous(), weights.contiguous()
    return _Aggregate.apply(*inputs, harmonics.float().contiguous(), edges)
