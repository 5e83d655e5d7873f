"""Space groups that crystals keep while they relax side by side: what ASE's ``FixSymmetry`` does with one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from deeprelax_ase.graph.edges import row_starts
from deeprelax_ase.graph.shapes import Batch, CellArray, Matrices, Positions


@dataclass(frozen=True, eq=False)
class HeldSymmetry:
    """The operations that a crystal of N atoms keeps: R rotations, each up to translations.

    Attributes:
        rotations: (R, 3, 3) orthogonal; a vector in a row goes to its product with one of them.
        origins: (R, N) the atom that each brings to the place of each atom.
        copies: (N,) equal for atoms that translations bring to each other's places.
    """

    rotations: np.ndarray
    origins: np.ndarray
    copies: np.ndarray

    @classmethod
    def none(cls, atoms: int) -> HeldSymmetry:
        """The identity alone."""
        return cls(np.eye(3)[None], np.arange(atoms)[None], np.arange(atoms))


def held_symmetry(atoms: Atoms, cell: CellArray) -> HeldSymmetry | None:
    """The operations of the ``FixSymmetry`` of ``atoms``, whose cell is ``cell`` (3, 3) Å; None without one."""
    for held in atoms.constraints:
        if type(held).__name__ == "FixSymmetry":
            maps = np.array(held.symm_map)
            translations = (held.rotations == np.eye(3)).all(axis=(1, 2))
            rotations, first = np.unique(held.rotations, axis=0, return_index=True)
            left, _, right = np.linalg.svd(np.linalg.inv(cell) @ rotations.transpose(0, 2, 1) @ cell)
            return HeldSymmetry(left @ right, np.argsort(maps[first], axis=1), maps[translations].min(axis=0))
    return None


def symmetry_tensors(held: Sequence[HeldSymmetry], device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of atoms and of crystals that say what these ``held``; rotations are filled up with weights of zero."""
    most = max(len(one.rotations) for one in held)
    origins, rotations, weights = [], np.zeros((len(held), most, 3, 3)), np.zeros((len(held), most))
    for k, one in enumerate(held):
        count = len(one.rotations)
        rotations[k, :count], weights[k, :count] = one.rotations, 1 / count
        origins.append(np.pad(one.origins.T, ((0, 0), (0, most - count))))
    atoms = {"origins": np.concatenate(origins), "copies": np.concatenate([one.copies for one in held])}
    crystals = {"rotations": rotations, "weights": weights}
    return tuple({name: torch.from_numpy(of[name]).to(device) for name in of} for of in (atoms, crystals))  # type: ignore[return-value]


def symmetric_vectors(
    vectors: Positions, atoms: dict[str, Tensor], crystals: dict[str, Tensor], batch: Batch
) -> Positions:
    """``vectors`` of atoms (N, 3), averaged over the operations of their crystals."""
    starts = row_starts(batch, len(crystals["weights"]))[batch]
    copies = starts + atoms["copies"]
    sums = torch.zeros_like(vectors).index_add(0, copies, vectors)
    counts = torch.zeros_like(vectors[:, 0]).index_add(0, copies, torch.ones_like(vectors[:, 0]))
    mean = sums[copies] / counts[copies][:, None]
    images = mean[starts[:, None] + atoms["origins"]] * crystals["weights"][batch][:, :, None]
    return (images[:, :, None] @ crystals["rotations"][batch]).sum(dim=(1, 2))


def symmetric_matrices(matrices: Matrices, crystals: dict[str, Tensor]) -> Matrices:
    """``matrices`` of crystals (G, 3, 3), averaged over their operations."""
    rotations = crystals["rotations"]
    turned = rotations.mT @ matrices[:, None] @ rotations
    return (turned * crystals["weights"][:, :, None, None]).sum(dim=1)
