"""Linear maps of float32 on tensor cores: three products of parts rounded to 10 bits make up one of 20.

A float32 is the sum of two such parts but for 2^-21 of it, and the product of the small ones is left out (Ootomo &
Yokota, Int. J. High Perform. Comput. Appl. 36, 475 (2022)): errors are as of float32, at several times
the rate of its ordinary units.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn


@triton.jit(do_not_specialize=["rows"])  # else all would be compiled twice: for multiples of 16 atoms, and others
def _linear(
    a, weight, bias, out, rows, N: tl.constexpr, K: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(N, BN)
    m = (tl.program_id(0) // across).to(tl.int64) * BM + tl.arange(0, BM)
    n = (tl.program_id(0) % across) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    left = a + m[:, None] * K + k[None, :]
    right = weight + n[None, :] * K + k[:, None]
    there, wanted = (m < rows)[:, None], (n < N)[None, :]
    total = tl.zeros([BM, BN], tl.float32)
    for first in range(0, K, BK):
        x = tl.load(left + first, there & (first + k < K)[None, :], other=0.0)
        y = tl.load(right + first, wanted & (first + k < K)[:, None], other=0.0)
        total = tl.dot(x, y, total, input_precision=PRECISION)
    if BIAS:
        total += tl.load(bias + n, n < N, other=0.0)[None, :]
    if SILU:
        total = total * tl.sigmoid(total)
    tl.store(out + m[:, None] * N + n[None, :], total, there & wanted)


def linear(layer: nn.Linear, given: Tensor, *, silu: bool = False) -> Tensor:
    """Apply ``layer`` to ``given`` (..., K), contiguous and on CUDA, and SiLU to that if wanted."""
    outputs, inputs = layer.weight.shape
    out = given.new_empty(*given.shape[:-1], outputs)
    rows = given.numel() // inputs
    bias = layer.weight if layer.bias is None else layer.bias
    small = 16 if inputs <= 64 else 32
    grid = (triton.cdiv(rows, 128) * triton.cdiv(outputs, 128),)
    if rows:
        with torch.cuda.device_of(given):
            _linear[grid](
                given, layer.weight, bias, out, rows, N=outputs, K=inputs, BIAS=layer.bias is not None, SILU=silu,
                BM=128, BN=128, BK=small, PRECISION="tf32x3", num_warps=8, num_stages=3,
            )  # fmt: skip
    return out
