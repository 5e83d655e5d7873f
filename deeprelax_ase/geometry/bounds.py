"""Bounds on distances and the bounded Euclidean distance loss, eqs. (18)-(20) of the DeepRelax paper."""

from __future__ import annotations

import torch

from deeprelax_ase.graph.shapes import Lengths


def distance_bounds(distances: Lengths, scales: Lengths, *, bound_scale: float = 1.0) -> tuple[Lengths, Lengths]:
    """Lower and upper bounds ``d - s b`` and ``d + s b``, eqs. (18)-(19); no lower bound is negative.

    Args:
        distances: (E,) Å, predicted distances d.
        scales: (E,) Å, their Laplace scales ``b = exp(u)``, not logarithms; zero makes the bounds coincide.
        bound_scale: s, the half-width of the bounds in scales; the paper's is 1.

    Returns:
        Two tensors (E,), Å.
    """
    half_widths = bound_scale * scales
    return (distances - half_widths).clamp_min(0), distances + half_widths


def bounded_euclidean_distance_loss(lengths: Lengths, lower: Lengths, upper: Lengths) -> Lengths:
    """(E,) Å, by how much each length falls outside its bounds: the terms of eq. (20), before they are summed."""
    return torch.relu(lengths - upper) + torch.relu(lower - lengths)
