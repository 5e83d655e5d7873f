"""The finish ``"fast"`` of many crystals at once: BFGS from the springs' curvature, within a trust region of each.

It does what :class:`~deeprelax_ase.optimizers.model_hessian.ModelHessianBFGS` does with one crystal, but for two
differences: the inverse of the Hessian is updated, so that nothing is solved for in a step; and where a step shows
almost no curvature, or a negative one, what it teaches is damped (Powell; Nocedal and Wright, Numerical Optimization,
2006, section 18.3), so that the Hessian stays positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deeprelax_ase.geometry.contacts import covalent_radii
from deeprelax_ase.geometry.springs import Springs
from deeprelax_ase.graph.crystal_graph import rows_times_matrices
from deeprelax_ase.graph.torch_builder import listed_pairs
from deeprelax_ase.optimizers.batched.state import BatchedState
from deeprelax_ase.optimizers.model_hessian import GOOD, LONGER, LONGEST, POOR, SHORTER, SHORTEST

#: Least share of the curvature expected along a step that is learnt.
_DAMPING = 0.05

#: Å, the longest step of an atom at first, as in ASE.
_MAXSTEP = 0.2


def begin(state: BatchedState, springs: Springs | None = None) -> None:
    """Give the crystals of ``state`` the curvature of ``springs``."""
    size = state.crystals["size"]
    inverse = torch.linalg.inv_ex(batched_model_hessian(state, springs or Springs())).inverse
    state.crystals |= {
        "inverse": inverse,
        "moved": torch.zeros_like(inverse[:, 0]),
        "forces": torch.zeros_like(inverse[:, 0]),
        "scale": torch.ones_like(size),
        "longest": torch.full_like(size, _MAXSTEP),
        "length": torch.zeros_like(size),
        "change": torch.zeros_like(size),
        "enthalpy": torch.zeros_like(size),
    }


def step(state: BatchedState) -> None:
    """Make a step of every crystal of ``state``."""
    crystals, (atoms, cell), (rows, most) = state.crystals, state.pulls(), state.slots
    if crystals["moved"].shape[1] > 3 * most:  # larger crystals have left
        for name in ("inverse", "moved", "forces"):
            crystals[name] = crystals[name][:, : 3 * most]
        crystals["inverse"] = crystals["inverse"][:, :, : 3 * most]
    here = cell.new_zeros(len(state), most, 3)
    here[:, :3] = cell
    here[state.batch, rows] = atoms
    here, enthalpies = here.flatten(1), state.enthalpies()
    stepped = crystals["steps"] > 0
    crystals["longest"] = torch.where(stepped, _next_longest(crystals, enthalpies), crystals["longest"])
    expected = crystals["scale"][:, None] * crystals["forces"]  # change of the gradient by the quadratic model
    learnt = _learnt(crystals["moved"], crystals["forces"] - here, expected, stepped)
    newton = _update(crystals["inverse"], crystals["moved"], *learnt, here)
    length = torch.linalg.vector_norm(newton.view(len(state), -1, 3), dim=2).amax(dim=1)
    scale = (crystals["longest"] / length).clamp(max=1)
    gain = (here * newton).sum(dim=1)
    moved = scale[:, None] * newton
    crystals |= {"forces": here, "moved": moved, "scale": scale, "enthalpy": enthalpies, "length": scale * length}
    crystals["change"] = (scale.square() / 2 - scale) * gain
    moved = moved.view(len(state), -1, 3)
    state.move(moved[state.batch, rows], moved[:, :3])


def _next_longest(crystals: dict[str, Tensor], enthalpies: Tensor) -> Tensor:
    """(G,) Å, how long the next step may be, now that it is known where the last one led."""
    longest, length, change = crystals["longest"], crystals["length"], crystals["change"]
    share = torch.where(change < 0, (enthalpies - crystals["enthalpy"]) / change, 0.0)
    shorter = (SHORTER * torch.minimum(longest, length)).clamp(min=SHORTEST)
    longer = torch.minimum(longest.clamp(min=LONGEST), LONGER * longest)
    grown = torch.where((share > GOOD) & (length > 0.9 * longest), longer, longest)
    return torch.where(share < POOR, shorter, grown)


def _learnt(moved: Tensor, change: Tensor, expected: Tensor, stepped: Tensor) -> tuple[Tensor, Tensor]:
    """(G, D) the change of the gradients along steps ``moved`` as it is learnt, and (G, 1) by how much: 1 / curvature.

    Args:
        moved: (G, D) the steps.
        change: (G, D) of the gradients.
        expected: (G, D) the same by the quadratic model.
        stepped: (G,) which crystals made a step at all.
    """
    curvature, of_model = (moved * change).sum(dim=1), (moved * expected).sum(dim=1)
    share = torch.where(curvature < _DAMPING * of_model, (1 - _DAMPING) * of_model / (of_model - curvature), 1.0)
    change = torch.lerp(expected, change, share[:, None])
    curvature = (moved * change).sum(dim=1)
    learns = stepped & (curvature > 0) & (moved.abs().amax(dim=1) >= 1e-7)
    return change, torch.where(learns, 1 / curvature, 0.0)[:, None]


def _update(inverse: Tensor, moved: Tensor, change: Tensor, weight: Tensor, forces: Tensor) -> Tensor:
    """(G, D) Newton's steps, after BFGS's update of the ``inverse`` Hessians (G, D, D) in their place.

    The update is ``s a^T + a s^T`` with the step s and ``a = (w + w^2 y H y) s / 2 - w H y``. Matrices are read twice
    and written once: a step takes as long as they take to pass through memory.
    """
    pulled, newton = (inverse @ torch.stack([change, forces], dim=2)).unbind(dim=2)
    factor = weight + weight.square() * (change * pulled).sum(dim=1, keepdim=True)
    also = factor / 2 * moved - weight * pulled
    newton = (
        newton + (also * forces).sum(dim=1, keepdim=True) * moved + (moved * forces).sum(dim=1, keepdim=True) * also
    )
    inverse.baddbmm_(torch.stack([moved, also], dim=2), torch.stack([also, moved], dim=1))
    return newton


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
    radii = covalent_radii().to(vectors)[numbers]
    strength = springs.strength(distances / (radii[first] + radii[second])) / 2
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
