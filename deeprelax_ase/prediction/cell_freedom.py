"""Freedom of the cells of a batch to move: set by the caller, and by their vacuum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.geometry.strain import (
    logarithmic_strain,
    matrix_function,
    matrix_product,
    symmetric_exponential,
    symmetric_logarithm,
)
from deeprelax_ase.geometry.vacuum import Vacuum, project_strain
from deeprelax_ase.graph.crystal_graph import inverses, rows_times_matrices
from deeprelax_ase.prediction.allowed_strain import AllowedStrain, RelaxCell, along_axes, cell_limits


@dataclass(frozen=True, eq=False)
class CellFreedom:
    """Freedom of G cells to move.

    Attributes:
        vacuum: of the crystals: layers are strained in their plane only.
        fixed: (G,) bool, the cells that are kept.
        fixes_all: whether these are all.
        restricts: whether any cell may not move in all directions.
        limits: of the strain of all that are not kept; None for none.
    """

    vacuum: Vacuum
    fixed: Tensor
    fixes_all: bool
    restricts: bool
    limits: AllowedStrain | None = None

    @classmethod
    def of(cls, vacuum: Vacuum, relax_cell: RelaxCell) -> CellFreedom:
        """Derive the freedom of crystals with such ``vacuum``.

        Args:
            vacuum: of the unrelaxed crystals.
            relax_cell: whether cells move; None for all but those of slabs; or how they may.

        Raises:
            ConstraintError: there is a pressure, or the mask cannot be kept exactly.
        """
        moves, limits = cell_limits(relax_cell)
        fixed = vacuum.slabs if moves is None else torch.full_like(vacuum.slabs, not moves)
        restricts = moves is False or limits is not None or bool((vacuum.directions == 1).any())
        return cls(vacuum, fixed, moves is False, restricts, limits)

    @property
    def as_learned(self) -> Tensor:
        """(G,) bool, the cells that move as those of the labels did: slabs' are kept, and nothing limits the others.

        Layers are strained in their plane either way, so that a mask that frees it limits nothing.
        """
        if self.limits is None:
            return self.fixed == self.vacuum.slabs
        planes = self.vacuum.planes.cpu().numpy()
        freed = torch.tensor([self.limits.frees(plane) for plane in planes], device=self.fixed.device)
        return freed & (self.vacuum.directions == 1) & ~self.vacuum.slabs

    def seen(self, cell: Tensor, *, reads_layers: bool) -> Tensor | None:
        """(G, 3, 3) projectors onto the directions in which networks may strain ``cell`` (G, 3, 3); None for all.

        A network that does not read the number of directions has learnt to strain layers across their plane too. Its
        blocks still see that freedom, and the prediction alone is projected onto the planes. What a mask does to shears
        alone is seen by none, and projected likewise.
        """
        if not self.restricts:
            return None
        everything = torch.eye(3, dtype=cell.dtype, device=cell.device)
        open_ = self.vacuum.planes if reads_layers else everything
        if reads_layers and self.limits is not None:
            axes = torch.as_tensor(self.limits.matrix.any(axis=0), dtype=cell.dtype, device=cell.device)
            open_ = matrix_product(open_, torch.diag(axes).expand_as(open_))
        return torch.where(self.fixed[:, None, None], torch.zeros_like(cell), open_)

    def stretch(self, strain: Tensor) -> Tensor:
        """(G, 3, 3) the deformation that is allowed of a ``strain`` (G, 3, 3)."""
        planes = self.vacuum.planes.to(strain)
        if self.limits is None:
            return symmetric_exponential(project_strain(strain, planes))
        mask = torch.as_tensor(self.limits.matrix, dtype=strain.dtype, device=strain.device)
        if self.limits.hydrostatic:
            strain = torch.eye(3).to(strain) * _trace(strain) / 3
        strain = project_strain(strain, planes) * mask
        if self.limits.constant_volume:
            lengths = planes * mask
            strain = strain - lengths * _trace(strain) / _trace(lengths).clamp(min=1)
        return symmetric_exponential(strain)

    def permitted(self, initial: Tensor, cell: Tensor) -> Tensor:
        """(G, 3, 3) Å, what is allowed of the way from the ``initial`` cell to the predicted ``cell``."""
        deformation = matrix_product(inverses(initial), cell)
        strain = symmetric_logarithm(matrix_product(deformation, deformation.mT)) / 2
        limited = matrix_product(initial, self.stretch(strain))
        if self.limits is None:
            limited = torch.where((self.vacuum.directions == 1)[:, None, None], limited, cell)
        return torch.where(self.fixed[:, None, None], initial, limited)

    def tilted(self) -> Tensor:
        """(G,) bool, layers whose plane lies along no Cartesian axes, where the mask of a strain does."""
        if self.limits is None or all(self.limits.mask):
            return torch.zeros_like(self.fixed)
        normals = (torch.eye(3).to(self.vacuum.planes) - self.vacuum.planes).diagonal(dim1=1, dim2=2).sqrt().cpu()
        upright = [along_axes(normal) for normal in normals.numpy()]
        return (self.vacuum.directions == 1) & ~torch.tensor(upright, device=self.fixed.device)

    def hold(self, initial: Tensor, positions: Tensor, cell: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted ``positions`` (N, 3) and ``cell`` (G, 3, 3), of which the limits let the ``initial`` one go so far.

        Here, and nowhere before, components that are masked are kept to the last bit. Atoms are carried along.
        """
        if self.limits is None or self.fixes_all:
            return positions, cell
        planes, held = self.vacuum.planes.cpu().numpy(), cell.cpu().numpy().copy()
        given = zip(initial.cpu().numpy(), self.fixed.tolist(), strict=True)
        for g, (start, fixed) in enumerate(given):
            if not fixed and np.isfinite(held[g]).all():
                held[g] = start @ permitted(self.limits, logarithmic_strain(start, held[g]), planes[g])
        new = torch.from_numpy(held).to(cell)
        fractional = rows_times_matrices(positions, inverses(cell)[batch])
        return rows_times_matrices(fractional, new[batch]), new


def permitted(cell: AllowedStrain, strain: np.ndarray, plane: np.ndarray | None = None) -> np.ndarray:
    """(3, 3) deformation D, ``new_cell = old_cell @ D``: what is allowed of the logarithmic ``strain`` (3, 3).

    Args:
        cell: how the cell may move.
        strain: logarithmic, symmetric.
        plane: (3, 3) projector onto the plane of a layer; None for all others.
    """
    mask = cell.matrix
    plane = np.eye(3) if plane is None else plane
    if cell.hydrostatic:
        strain = np.eye(3) * np.trace(strain) / 3
    strain = plane @ strain @ plane * mask
    lengths = plane * mask
    if cell.constant_volume and lengths.any():
        strain = strain - lengths * np.trace(strain) / np.trace(lengths)
    return np.eye(3) + (matrix_function(np.exp, strain) - np.eye(3)) * mask


def _trace(matrices: Tensor) -> Tensor:
    """(G, 1, 1) of (G, 3, 3)."""
    return matrices.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
