"""The springs' curvature of many crystals at once, see :mod:`deeprelax_ase.optimizers.model_hessian`."""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from torch import Tensor

from deeprelax_ase.graph.record import rows_times_matrices
from deeprelax_ase.graph.torch_builder import listed_pairs
from deeprelax_ase.optimizers.batched_state import BatchedState
from deeprelax_ase.optimizers.model_hessian import Springs


def batched_model_hessian(state: BatchedState, springs: Springs, *, alpha: float = 70.0) -> Tensor:
    """(G, D, D) eV/Å², second derivatives of the springs' energy where the crystals of ``state`` start.

    The first 9 of the D coordinates are the cell's; those beyond a crystal's own, and directions that are fixed, are
    decoupled and have ``alpha``.
    """
    positions, cells = state.geometry()
    rows, most = state.slots
    hessian = torch.zeros(len(state) * most * most, 3, 3, dtype=torch.float64, device=positions.device)
    strains = torch.zeros(len(state), 9, 9, dtype=torch.float64, device=positions.device)
    coupling = torch.zeros(len(positions), 3, 9, dtype=torch.float64, device=positions.device)
    size, deformation = state.crystals["size"], state.deformation()
    for _, pairs in listed_pairs(positions, cells, state.batch, cutoff=springs.cutoff):
        first, second = pairs.destination, pairs.source
        crystal = state.batch[first]
        shifts = rows_times_matrices(pairs.offsets.to(cells), cells[crystal])
        vectors = positions[second] - positions[first] + shifts
        stiffness = _bond_stiffness(state.atoms["numbers"], first, second, pairs.distances, vectors, springs)
        # a bond d changes by (x_j - x_i) F + d L, see the same for one crystal
        strained = deformation[crystal]
        turned = strained @ stiffness
        for one, other, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
            place = (crystal * most + rows[one]) * most + rows[other]
            hessian.index_add_(0, place, turned @ strained, alpha=sign)
        stretched = turned[:, :, :, None] * vectors[:, None, None, :]  # (B, p, c, b)
        mixed = stretched.flatten(2) / size[crystal][:, None, None]
        coupling.index_add_(0, second, mixed).index_add_(0, first, mixed, alpha=-1)
        twice = stiffness[:, :, None, :, None] * (vectors[:, :, None] * vectors[:, None, :])[:, None, :, None, :]
        strains.index_add_(0, crystal, twice.reshape(-1, 9, 9) / size[crystal][:, None, None].square())
    hessian = hessian.view(len(state), most, most, 3, 3).transpose(2, 3).reshape(len(state), 3 * most, 3 * most)
    cell_rows = torch.zeros(len(state), most, 3, 9, dtype=torch.float64, device=positions.device)
    cell_rows[state.batch, rows] = coupling
    cell_rows = cell_rows.flatten(1, 2)
    hessian[:, :, :9] += cell_rows
    hessian[:, :9, :] += cell_rows.mT
    hessian[:, :9, :9] += strains
    identity = torch.eye(3 * most, dtype=torch.float64, device=positions.device)
    free = _free(state, rows, most)
    hessian = free @ (hessian + springs.floor * identity) @ free + alpha * (identity - free)
    return (hessian + hessian.mT) / 2


def _bond_stiffness(
    numbers: Tensor, first: Tensor, second: Tensor, distances: Tensor, vectors: Tensor, springs: Springs
) -> Tensor:
    """(B, 3, 3) eV/Å² of each of B bonds, halved, because each is listed from both ends."""
    radii = torch.from_numpy(covalent_radii).to(vectors)[numbers]
    strength = springs.stiffness * torch.exp(-springs.decay * (distances / (radii[first] + radii[second]) - 1)) / 2
    along = vectors / distances[:, None]
    projector = along[:, :, None] * along[:, None, :]
    identity = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return strength[:, None, None] * ((1 - springs.turning) * projector + springs.turning * identity)


def _free(state: BatchedState, rows: Tensor, most: int) -> Tensor:
    """(G, D, D) projectors onto what may move: symmetric strains that the masks allow, and atoms that are not fixed."""
    crystals, device = state.crystals, state.batch.device
    swap = torch.eye(9, dtype=torch.float64, device=device).view(3, 3, 9).transpose(0, 1).reshape(9, 9)
    mask = crystals["mask"]
    strain = (torch.eye(9, dtype=torch.float64, device=device) + swap) / 2 * (mask * mask.mT).flatten(1)[:, :, None]
    lengths = torch.diag_embed(mask.diagonal(dim1=1, dim2=2)).flatten(1)
    trace = lengths[:, :, None] * lengths[:, None, :] / lengths.sum(dim=1).clamp(min=1)[:, None, None]
    strain = torch.where(crystals["hydrostatic"][:, None, None], trace, strain)
    strain = torch.where(crystals["constant_volume"][:, None, None], strain - trace, strain)
    free = torch.zeros(len(state), most, 3, 3, dtype=torch.float64, device=device)
    free[state.batch, rows] = state.atoms["moves"]
    projector = torch.zeros(len(state), most, 3, most, 3, dtype=torch.float64, device=device)
    projector.diagonal(dim1=1, dim2=3).copy_(free.permute(0, 2, 3, 1))
    projector = projector.reshape(len(state), 3 * most, 3 * most)
    projector[:, :9, :9] = strain
    return projector
