"""Freedom of the cells of a batch to move: set by the caller, and by their vacuum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deeprelax_ase.geometry.strain import matrix_product, symmetric_exponential, symmetric_logarithm
from deeprelax_ase.geometry.vacuum import Vacuum, project_strain


@dataclass(frozen=True, eq=False)
class CellFreedom:
    """Freedom of G cells to move.

    Attributes:
        vacuum: of the crystals: layers are strained in their plane only.
        fixed: (G,) bool, the cells that are kept.
        fixes_all: whether these are all.
        restricts: whether any cell may not move in all directions.
    """

    vacuum: Vacuum
    fixed: Tensor
    fixes_all: bool
    restricts: bool

    @classmethod
    def of(cls, vacuum: Vacuum, relax_cell: bool | None) -> CellFreedom:
        """Derive the freedom of crystals with such ``vacuum``.

        Args:
            vacuum: of the unrelaxed crystals.
            relax_cell: whether cells move; None for all but those of slabs.
        """
        fixed = vacuum.slabs if relax_cell is None else torch.full_like(vacuum.slabs, not relax_cell)
        restricts = relax_cell is False or bool((vacuum.directions == 1).any())
        return cls(vacuum, fixed, relax_cell is False, restricts)

    def seen(self, cell: Tensor, *, reads_layers: bool) -> Tensor | None:
        """(G, 3, 3) projectors onto the directions in which networks may strain ``cell`` (G, 3, 3); None for all.

        A network that does not read the number of directions has learnt to strain layers across their plane too. Its
        blocks still see that freedom, and the prediction alone is projected onto the planes.
        """
        if not self.restricts:
            return None
        open_ = self.vacuum.planes if reads_layers else torch.eye(3, dtype=cell.dtype, device=cell.device)
        return torch.where(self.fixed[:, None, None], torch.zeros_like(cell), open_)

    def permitted(self, initial: Tensor, cell: Tensor) -> Tensor:
        """(G, 3, 3) Å, what is allowed of the way from the ``initial`` cell to the predicted ``cell``."""
        deformation = matrix_product(torch.linalg.inv_ex(initial).inverse, cell)
        strain = symmetric_logarithm(matrix_product(deformation, deformation.mT)) / 2
        in_plane = matrix_product(initial, symmetric_exponential(project_strain(strain, self.vacuum.planes.to(cell))))
        allowed = torch.where((self.vacuum.directions == 1)[:, None, None], in_plane, cell)
        return torch.where(self.fixed[:, None, None], initial, allowed)
