"""Triton kernels for what atoms do between matrix products: the layers of :mod:`deeprelax_ase.nn.e3_layers`.

Each kernel reads what an atom holds once, and writes once what comes of it; plain torch takes several times the bytes
and ten times the launches for the same. Forward alone, in float32: for predictions on CUDA.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from deeprelax_ase.graph.shapes import Messages, Scalars, SourceScalars, Stacks
from deeprelax_ase.nn.paegnn import NORM_EPSILON
from deeprelax_ase.nn.triton_linear import linear


@triton.jit
def _scales(h, r, F: tl.constexpr):
    """Of each of the eight rows of a stack: one over the root of 1 and the mean square of its vectors or tensors."""
    squares = tl.sum(h * h, axis=1)
    vectors = tl.sum(tl.where(r < 3, squares, 0.0), axis=0) / (3 * F)
    tensors = tl.sum(tl.where(r < 3, 0.0, squares), axis=0) / (5 * F)
    return tl.where(r < 3, 1 / tl.sqrt(1 + vectors), 1 / tl.sqrt(1 + tensors))


@triton.jit
def _send(parts, h, scalars, stacks, F: tl.constexpr, BLOCK: tl.constexpr):
    """Source scalars B and stacks G, of the perceptron's five rows and the stacks of an atom."""
    i = tl.program_id(0).to(tl.int64)
    r, c = tl.arange(0, 8), tl.arange(0, BLOCK)
    inside = c < F
    at = r[:, None] * F + c[None, :]
    stack = tl.load(h + i * 8 * F + at, inside[None, :], other=0.0)
    p = parts + i * 5 * F + c
    by_vectors = tl.load(p + 3 * F, inside, other=0.0)
    by_tensors = tl.load(p + 4 * F, inside, other=0.0)
    gate = tl.where((r < 3)[:, None], by_vectors[None, :], by_tensors[None, :])
    tl.store(stacks + i * 8 * F + at, gate * stack * _scales(stack, r, F)[:, None], inside[None, :])
    for k in tl.static_range(3):
        tl.store(scalars + i * 3 * F + k * F + c, tl.load(p + k * F, inside, other=0.0), inside)


@triton.jit
def _receive(
    x, h, messages, scale, weight, bias, epsilon, x_new, h_new, invariants, vectors, tensors,
    F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Features with their messages, the scalars' LayerNorm, and vectors and tensors scaled down where large."""
    i = tl.program_id(0).to(tl.int64)
    r, c = tl.arange(0, 8), tl.arange(0, BLOCK)
    inside = c < F
    m = messages + i * 9 * F
    own = tl.load(x + i * F + c, inside, other=0.0) + scale * tl.load(m + c, inside, other=0.0)
    tl.store(x_new + i * F + c, own, inside)
    centred = tl.where(inside, own - tl.sum(own, axis=0) / F, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, axis=0) / F + epsilon)
    normed = centred / deviation * tl.load(weight + c, inside, other=0.0) + tl.load(bias + c, inside, other=0.0)
    tl.store(invariants + i * 3 * F + c, normed, inside)
    at, there = r[:, None] * F + c[None, :], inside[None, :]
    stack = tl.load(h + i * 8 * F + at, there, other=0.0) + scale * tl.load(m + F + at, there, other=0.0)
    tl.store(h_new + i * 8 * F + at, stack, there)
    scaled = stack * _scales(stack, r, F)[:, None]
    tl.store(vectors + i * 3 * F + at, scaled, there & (r < 3)[:, None])
    tl.store(tensors + i * 5 * F + at - 3 * F, scaled, there & (r >= 3)[:, None])


@triton.jit
def _norms(mixed_vectors, mixed_tensors, invariants, epsilon, root, F: tl.constexpr, BLOCK: tl.constexpr):
    """Smooth norms of U v and U t, beside the scalars."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < F
    vector, tensor = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(3):
        u = tl.load(mixed_vectors + (i * 3 + k) * 2 * F + c, inside, other=0.0)
        vector += u * u
    for k in tl.static_range(5):
        s = tl.load(mixed_tensors + (i * 5 + k) * 2 * F + c, inside, other=0.0)
        tensor += s * s
    tl.store(invariants + i * 3 * F + F + c, tl.sqrt(vector + epsilon) - root, inside)
    tl.store(invariants + i * 3 * F + 2 * F + c, tl.sqrt(tensor + epsilon) - root, inside)


@triton.jit
def _update(
    x, h, mixed_vectors, mixed_tensors, gates, x_new, h_new,
    H: tl.constexpr, Z: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The products of an atom's vectors and tensors, gated, added to its features."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < F
    u = mixed_vectors + i * 6 * F + c
    s = mixed_tensors + i * 10 * F + c
    w = gates + i * 7 * F + c
    ux, uy, uz = tl.load(u, inside), tl.load(u + 2 * F, inside), tl.load(u + 4 * F, inside)
    vx, vy, vz = tl.load(u + F, inside), tl.load(u + 3 * F, inside), tl.load(u + 5 * F, inside)
    s0, s1, s2 = tl.load(s, inside), tl.load(s + 2 * F, inside), tl.load(s + 4 * F, inside)
    s3, s4 = tl.load(s + 6 * F, inside), tl.load(s + 8 * F, inside)
    t0, t1, t2 = tl.load(s + F, inside), tl.load(s + 3 * F, inside), tl.load(s + 5 * F, inside)
    t3, t4 = tl.load(s + 7 * F, inside), tl.load(s + 9 * F, inside)
    by_vectors = tl.load(w + F, inside) * ((ux * vx + uy * vy + uz * vz) / 3)
    by_tensors = tl.load(w + 2 * F, inside) * ((s0 * t0 + s1 * t1 + s2 * t2 + s3 * t3 + s4 * t4) / 5)
    own = tl.load(x + i * F + c, inside) + (tl.load(w, inside) + by_vectors + by_tensors)
    tl.store(x_new + i * F + c, own, inside)
    keep_v, keep_t = tl.load(w + 3 * F, inside), tl.load(w + 4 * F, inside)
    bend, join = tl.load(w + 5 * F, inside), tl.load(w + 6 * F, inside)
    a, b = h + i * 8 * F + c, h_new + i * 8 * F + c
    tx = (H * s3 - Z * s4) * vx + H * (s0 * vy + s2 * vz)
    ty = (-H * s3 - Z * s4) * vy + H * (s0 * vx + s1 * vz)
    tz = 2 * Z * s4 * vz + H * (s1 * vy + s2 * vx)
    tl.store(b, tl.load(a, inside) + (keep_v * vx + bend * tx), inside)
    tl.store(b + F, tl.load(a + F, inside) + (keep_v * vy + bend * ty), inside)
    tl.store(b + 2 * F, tl.load(a + 2 * F, inside) + (keep_v * vz + bend * tz), inside)
    xx, yy, zz = ux * vx, uy * vy, uz * vz
    tl.store(b + 3 * F, tl.load(a + 3 * F, inside) + (keep_t * t0 + join * (H * (ux * vy + uy * vx))), inside)
    tl.store(b + 4 * F, tl.load(a + 4 * F, inside) + (keep_t * t1 + join * (H * (uy * vz + uz * vy))), inside)
    tl.store(b + 5 * F, tl.load(a + 5 * F, inside) + (keep_t * t2 + join * (H * (uz * vx + ux * vz))), inside)
    tl.store(b + 6 * F, tl.load(a + 6 * F, inside) + (keep_t * t3 + join * (H * (xx - yy))), inside)
    tl.store(b + 7 * F, tl.load(a + 7 * F, inside) + (keep_t * t4 + join * (Z * (2 * zz - xx - yy))), inside)


def fused_send(norm: nn.LayerNorm, perceptron: nn.Sequential, x: Scalars, h: Stacks) -> tuple[SourceScalars, Stacks]:
    """:meth:`Sources.forward <deeprelax_ase.nn.e3_layers.Sources.forward>` of contiguous tensors."""
    atoms, channels = x.shape
    parts = _perceptron(perceptron, norm(x))
    scalars, stacks = x.new_empty(atoms, 3, channels), torch.empty_like(h)
    if atoms:
        with torch.cuda.device_of(x):
            _send[(atoms,)](parts, h, scalars, stacks, F=channels, BLOCK=triton.next_power_of_2(channels))
    return scalars, stacks


def _perceptron(layers: nn.Sequential, given: Tensor) -> Tensor:
    """Two linear maps with a SiLU between."""
    first, _, last = layers
    return linear(cast("nn.Linear", last), linear(cast("nn.Linear", first), given, silu=True))


def fused_update(
    x: Scalars,
    h: Stacks,
    messages: Messages,
    *,
    scale: float,
    norm: nn.LayerNorm,
    mix: tuple[nn.Linear, nn.Linear],
    perceptron: nn.Sequential,
) -> tuple[Scalars, Stacks]:
    """:meth:`Update.forward <deeprelax_ase.nn.e3_layers.Update.forward>` of contiguous tensors; ``mix`` are U and V."""
    atoms, channels = x.shape
    if not atoms:
        return x, h
    form = {"F": channels, "BLOCK": triton.next_power_of_2(channels)}
    x_in, h_in, invariants = torch.empty_like(x), torch.empty_like(h), x.new_empty(atoms, 3 * channels)
    vectors, tensors = x.new_empty(atoms, 3, channels), x.new_empty(atoms, 5, channels)
    with torch.cuda.device_of(x):  # Triton starts kernels on the current device, wherever the tensors are
        _receive[(atoms,)](
            x, h, messages, scale, norm.weight, norm.bias, norm.eps, x_in, h_in, invariants, vectors, tensors,
            **form,
        )  # fmt: skip
        mixed_vectors, mixed_tensors = linear(mix[0], vectors), linear(mix[1], tensors)
        _norms[(atoms,)](
            mixed_vectors, mixed_tensors, invariants, NORM_EPSILON, math.sqrt(NORM_EPSILON), **form, num_warps=2
        )
        gates = _perceptron(perceptron, invariants)
        x_new, h_new = torch.empty_like(x), torch.empty_like(h)
        _update[(atoms,)](
            x_in, h_in, mixed_vectors, mixed_tensors, gates, x_new, h_new,
            H=1 / math.sqrt(2), Z=1 / math.sqrt(6), **form, num_warps=2,
        )  # fmt: skip
    return x_new, h_new
