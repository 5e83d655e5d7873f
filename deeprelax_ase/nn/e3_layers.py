"""Layers of the end-to-end network at its atoms: sending, updating, and reading off a refinement.

Atoms carry scalars x (N, F) and stacks h (N, 8, F) of vectors and tensors, see :mod:`deeprelax_ase.nn.harmonics`.
Linear maps mix channels of one rank and have no bias, so that stacks rotate with the crystal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from deeprelax_ase.graph.shapes import (
    AtomScales,
    AtomStrains,
    Batch,
    CrystalCounts,
    Messages,
    Positions,
    Resolved,
    ResolvedLengths,
    RowComponents,
    Scalars,
    SourceScalars,
    Stacks,
    Tensors,
    Vectors,
)
from deeprelax_ase.nn.harmonics import TENSOR, VECTOR, tensor_coefficients, tensor_times_vector, vector_product
from deeprelax_ase.nn.heads import start_at_zero
from deeprelax_ase.nn.messages import SCALARS, WEIGHTS, has_triton
from deeprelax_ase.nn.paegnn import perceptron, smooth_norm
from deeprelax_ase.nn.records import KnownForces


def _is_fused(*tensors: Tensor) -> bool:
    """Whether the kernels of :mod:`deeprelax_ase.nn.triton_layers` take over: float32 on CUDA, without gradients."""
    if not tensors[0].is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    fits = all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)
    return fits and not torch.is_autocast_enabled("cuda") and has_triton()


def linear(layer: nn.Linear, given: Tensor) -> Tensor:
    """Apply ``layer`` to ``given``: in plain torch, or as :mod:`deeprelax_ase.nn.triton_linear` does on CUDA."""
    if _is_fused(given):
        from deeprelax_ase.nn import triton_linear

        return triton_linear.linear(layer, given)
    return layer(given)


def rms_normalize(stack: Stacks) -> tuple[Vectors, Tensors]:
    """Vectors (N, 3, F) and tensors (N, 5, F) of a stack, scaled down where large: ``h / sqrt(1 + mean square)``.

    The 1 keeps near-zero features, as symmetry makes them, near zero: dividing those by their own size would blow up
    rounding and gradients.
    """
    vector, tensor = (
        part * torch.rsqrt(1 + part.square().mean(dim=(1, 2), keepdim=True))
        for part in (stack[:, VECTOR], stack[:, TENSOR])
    )
    return vector, tensor


class Sources(nn.Module):
    """Parts that atoms send: B and G of :mod:`deeprelax_ase.nn.messages`, eqs. (4)-(5) of the paper taken to rank 2.

    A perceptron W of the scalars gives five rows; v and t are the vectors and tensors of h after
    :func:`rms_normalize`::

        B0, B1, B2, g3, g4 = W(LayerNorm(x))
        G[vector] = g3 v
        G[tensor] = g4 t

    Without ``tensors`` B2 and g4 are zero.
    """

    def __init__(self, channels: int, *, tensors: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.scalars = perceptron(channels, channels, WEIGHTS * channels)
        self.tensors = tensors

    def forward(self, x: Scalars, h: Stacks) -> tuple[SourceScalars, Stacks]:
        """B (N, 3, F) and G (N, 8, F) of atoms with x (N, F) and h (N, 8, F)."""
        if self.tensors and _is_fused(x, h):
            from deeprelax_ase.nn.triton_layers import fused_send

            return fused_send(self.norm, self.scalars, x, h)
        parts = self.scalars(self.norm(x)).view(len(x), WEIGHTS, -1)
        if not self.tensors:
            zero = torch.zeros_like(parts[:, :1])
            parts = torch.cat([parts[:, :2], zero, parts[:, 3:4], zero], dim=1)
        vector, tensor = (part.to(parts.dtype) for part in rms_normalize(h))
        stacks = torch.cat([parts[:, 3:4] * vector, parts[:, 4:5] * tensor], dim=1)
        return parts[:, :SCALARS].contiguous(), stacks


class Update(nn.Module):
    """Atoms take in their messages, and their scalars, vectors and tensors update each other.

    Eqs. (6)-(7) of the paper, with the products of vectors and tensors that stay within rank 2. Messages m come scaled
    by the square root s of the usual number of neighbours; v and t are vectors and tensors after
    :func:`rms_normalize`, U and V linear maps of channels, ``<a b>`` the mean over components, and the seven gates w a
    perceptron of the invariants ``LayerNorm(x), |U v|, |U t|``::

        x += m[scalar] / s,  h += m[stack] / s
        x += w0 + w1 <(U v)(V v)> + w2 <(U t)(V t)>
        h[vector] += w3 V v + w5 (U t) (V v)           matrix times vector
        h[tensor] += w4 V t + w6 {(U v) (V v)^T}       traceless symmetric part
    """

    def __init__(self, channels: int, mean_neighbors: float) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(mean_neighbors)
        self.norm = nn.LayerNorm(channels)
        self.mix_vectors = nn.Linear(channels, 2 * channels, bias=False)  # U and V
        self.mix_tensors = nn.Linear(channels, 2 * channels, bias=False)
        self.weights = perceptron(3 * channels, channels, 7 * channels)

    def forward(self, x: Scalars, h: Stacks, messages: Messages) -> tuple[Scalars, Stacks]:
        """New x (N, F) and h (N, 8, F) from the old ones and the messages (N, 9, F)."""
        if _is_fused(x, h, messages):
            from deeprelax_ase.nn.triton_layers import fused_update

            mix = self.mix_vectors, self.mix_tensors
            return fused_update(x, h, messages, scale=self.scale, norm=self.norm, mix=mix, perceptron=self.weights)
        x, h = x + self.scale * messages[:, 0], h + self.scale * messages[:, 1:]
        vector, tensor = rms_normalize(h)
        u, v = self.mix_vectors(vector).chunk(2, dim=-1)
        s, t = self.mix_tensors(tensor).chunk(2, dim=-1)
        invariants = torch.cat([self.norm(x), smooth_norm(u), smooth_norm(s)], dim=-1)
        gates = self.weights(invariants).view(len(x), 7, 1, -1).unbind(dim=1)
        plain, by_vectors, by_tensors, keep_v, keep_t, bend, join = gates
        x = x + (plain + by_vectors * (u * v).mean(1, keepdim=True) + by_tensors * (s * t).mean(1, keepdim=True))[:, 0]
        vector = keep_v * v + bend * tensor_times_vector(s, v)
        tensor = keep_t * t + join * vector_product(u, v)
        return x, h + torch.cat([vector, tensor], dim=1)


class Refinement(nn.Module):
    """Reads from the atoms how they and the cell move, and how sure that is; nothing moves before training.

    The gates g, q, p and r are a perceptron of the scalars, v and t vectors and tensors after :func:`rms_normalize`.
    For atom i, with the mean ``<>`` over channels::

        u_i = <g v>                displacement
        e_i = p 1 + Q <q t>        what it adds to the strain, Q the basis of the tensors
        r_i                        raw Laplace scales of displacement, volume and shape
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.gates = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), start_at_zero(nn.Linear(channels, 2 * channels + 4))
        )

    def forward(self, x: Scalars, h: Stacks) -> tuple[Positions, AtomStrains, AtomScales]:
        """Displacements (N, 3), strain coefficients (N, 6), trace first, and raw scales (N, 3)."""
        channels = x.shape[-1]
        vector, tensor = rms_normalize(h)
        gates = self.gates(self.norm(x)).to(vector.dtype)
        by_vectors, by_tensors, rest = gates.split([channels, channels, 4], dim=-1)
        displacement = (vector * by_vectors[:, None]).mean(dim=-1)
        shape = (tensor * by_tensors[:, None]).mean(dim=-1)
        return displacement, torch.cat([rest[:, :1], shape], dim=1), rest[:, 1:]


#: eV/Å and eV: sizes about which forces, and the virial of an atom, are resolved.
SIZES = (0.01, 0.05, 0.25, 1.25, 6.0)


class ForceReader(nn.Module):
    """First features of the atoms of crystals whose forces are known; zero for the others, and before training.

    Each of F, the traceless virial and its trace enters as ``f / sqrt(|f|^2 + s^2)`` for all sizes s: linear where
    small, so that what the network moves can vanish with the forces, and bounded where an overlap makes them huge.
    """

    sizes: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("sizes", torch.tensor(SIZES, dtype=torch.float32), persistent=False)
        count = len(SIZES)
        self.scalars = nn.Sequential(
            nn.Linear(3 * count, channels), nn.SiLU(), start_at_zero(nn.Linear(channels, channels))
        )
        self.vectors = nn.Linear(count, channels, bias=False)
        self.tensors = nn.Linear(count, channels, bias=False)
        nn.init.zeros_(self.vectors.weight)
        nn.init.zeros_(self.tensors.weight)

    def forward(self, known: KnownForces, batch: Batch, counts: CrystalCounts) -> tuple[Scalars, Stacks]:
        """Compute additions to x (N, F) and h (N, 8, F), for atoms of crystals ``batch`` (N,) with ``counts`` (G,)."""
        dtype = self.vectors.weight.dtype
        of_atoms = -known.virial / counts.clamp(min=1)[:, None, None]  # downhill, as forces are
        trace = of_atoms.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
        vectors, force = self._resolve(known.forces.to(dtype))
        tensors, shear = self._resolve(tensor_coefficients(of_atoms).to(dtype))
        pressure, _ = self._resolve(trace.to(dtype))
        scalars = torch.cat([force, shear[batch], pressure[:, 0][batch]], dim=1)
        h = torch.cat([self.vectors(vectors), self.tensors(tensors)[batch]], dim=1)
        has_forces = known.has_forces.to(dtype)[batch, None]
        return has_forces * self.scalars(scalars), has_forces[:, None] * h

    def _resolve(self, values: RowComponents) -> tuple[Resolved, ResolvedLengths]:
        """(n, C) values of C components as (n, C, sizes) resolved ones, and the lengths (n, sizes) of those."""
        unit = values.abs().amax(dim=1, keepdim=True).clamp(min=1.0)  # squares of huge forces would overflow
        values = values / unit
        squares = values.square().sum(dim=1, keepdim=True)
        widths = torch.sqrt(squares + (self.sizes.to(values.dtype) / unit).square())
        return values[:, :, None] / widths[:, None], torch.sqrt(squares) / widths
