"""How near a predicted crystal is to the relaxed one, section 4.10 of arXiv:2404.00865, crystal by crystal.

The sums of eqs. (25)-(27) are taken as means over atoms, edges and components, as the paper's tables report them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal


def coordinate_mae(fractional: Tensor, fractional_true: Tensor, cell_true: Tensor, batch: Tensor) -> Tensor:
    """Mean absolute Cartesian component of the fractional error in the true cell, drift removed; (G,) Å.

    This form of eq. (25) does not mix the error of the cell, the choice of origin or of periodic images into that of
    the coordinates: differences are taken to the nearest image once the crystals lie on each other.

    Args:
        fractional, scaled_true: (N, 3) fractional coordinates, predicted and true.
        cell_true: (G, 3, 3) Å.
        batch: (N,) crystal of each atom.
    """
    difference = fractional - fractional_true
    # Near half a cell, rounding would send the atoms of one crystal to different images: the drift goes first, as the
    # mean angle that no choice of images changes.
    angle = 2 * math.pi * difference
    sine, cosine = (crystal_mean(part, batch, len(cell_true)) for part in (angle.sin(), angle.cos()))
    difference = difference - (torch.atan2(sine, cosine) / (2 * math.pi))[batch]
    difference = difference - difference.round()
    difference = difference - crystal_mean(difference, batch, len(cell_true))[batch]
    cartesian = torch.einsum("nk,nkx->nx", difference, cell_true[batch])
    return crystal_mean(cartesian.abs().mean(dim=1, keepdim=True), batch, len(cell_true)).squeeze(1)


def cartesian_mae(positions: Tensor, positions_true: Tensor, batch: Tensor, size: int) -> Tensor:
    """Eq. (25) as printed: mean absolute difference of Cartesian components, cell error included; (G,) Å."""
    error = (positions - positions_true).abs().mean(dim=1, keepdim=True)
    return crystal_mean(error, batch, size).squeeze(1)


def bond_length_mae(distances: Tensor, distances_true: Tensor, edge_crystal: Tensor, size: int) -> Tensor:
    """Eq. (26): mean absolute error of interatomic distances over each crystal's edges; (G,) Å."""
    return crystal_mean((distances - distances_true).abs()[:, None], edge_crystal, size).squeeze(1)


def lattice_mae(cell: Tensor, cell_true: Tensor) -> Tensor:
    """Eq. (27): mean absolute error of the nine components of the lattice vectors; (G,) Å."""
    return (cell - cell_true).abs().mean(dim=(1, 2))


def rotation_free_lattice_mae(cell: Tensor, cell_true: Tensor) -> Tensor:
    """Eq. (27) once the predicted crystal is turned as a whole so that it is a pure stretch of the true one; (G,) Å.

    With lattice vectors in rows ``cell = cell_true U Q``, where U stretches and Q turns; the error is that of
    ``cell_true U``. It equals :func:`lattice_mae` where there is no rotation, and no rotation of ``cell`` changes it.
    A rotation of ``cell_true`` turns the axes that the nine components are read along, as in eq. (27): the error's
    Euclidean norm is the same along all axes, and the mean of the components lies between 1/9 and 1/3 of it.
    """
    deformation = torch.linalg.solve(cell_true, cell)
    squares, axes = torch.linalg.eigh(deformation @ deformation.mT)
    stretch = (axes * squares.clamp_min(0).sqrt()[:, None]) @ axes.mT
    return lattice_mae(cell_true @ stretch, cell_true)


def volume_error(cell: Tensor, cell_true: Tensor) -> Tensor:
    """Eq. (28): absolute error of the cell volume; (G,) Å³."""
    return (torch.linalg.det(cell).abs() - torch.linalg.det(cell_true).abs()).abs()


class Match(NamedTuple):
    """How pymatgen's StructureMatcher compares two crystals.

    Attributes:
        same: whether it holds them for the same, with its defaults (ltol=0.2, stol=0.3), as in section 4.10.5.
        rmsd: root mean square distance of the atoms over ``(V / N)^(1/3)``, without dimension, as Matbench Discovery
            reports it (github.com/janosh/matbench-discovery, metrics.geo_opt): from ``StructureMatcher(stol=1.0,
            scale=False)``, and 1 where that finds no mapping.
    """

    same: bool
    rmsd: float


def structure_match(predicted: Crystal, true: Crystal) -> Match:
    """Compare two crystals by pymatgen's StructureMatcher."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    structures = predicted.to_structure(), true.to_structure()
    found = StructureMatcher(stol=1.0, scale=False).get_rms_dist(*structures)
    return Match(bool(StructureMatcher().fit(*structures)), 1.0 if found is None else float(found[0]))


def structure_matches(
    predicted: Sequence[Crystal],
    true: Sequence[Crystal],
    *,
    jobs: int = 1,
    advance: Callable[[], object] = lambda: None,
) -> list[Match]:
    """:func:`structure_match` of each pair, in ``jobs`` processes; ``advance`` is called after each."""
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predicted crystals, but {len(true)} true ones")
    matches = []
    with ProcessPoolExecutor(jobs, get_context("spawn")) if jobs > 1 else nullcontext() as pool:
        compare = map if pool is None else partial(pool.map, chunksize=16)
        for match in compare(structure_match, predicted, true):
            matches.append(match)
            advance()
    return matches


def rank_correlation(uncertainty: np.ndarray, error: np.ndarray) -> float:
    """Spearman's rank correlation of predicted uncertainties and true errors (n,) each, as in the paper's figure 5.

    nan for fewer than two crystals, and where either has one value only.
    """
    from scipy.stats import spearmanr

    if len(error) < 2 or np.ptp(uncertainty) == 0 or np.ptp(error) == 0:
        return float("nan")
    return float(spearmanr(uncertainty, error).statistic)


def crystal_mean(values: Tensor, crystal: Tensor, size: int) -> Tensor:
    """(n, C) values averaged over those of each crystal, (size, C); a crystal without values gives zero."""
    sums = values.new_zeros(size, values.shape[1]).index_add(0, crystal, values)
    return sums / torch.bincount(crystal, minlength=size).clamp_min(1)[:, None]
