"""BFGS that starts from what a crystal's bonds say about the curvature, for starts near a minimum.

Plain BFGS takes all directions for equally stiff at first, and learns better one direction a step. In a crystal they
differ: bonds resist being stretched and hardly being turned, and strain moves many bonds at once. Springs between
neighbours know that much, positions and cell together; a start near the minimum is then nearly a Newton step away from
it. The idea is that of Lindh et al., Chem. Phys. Lett. 241, 423 (1995), and of Packwood et al., J. Chem. Phys. 144,
164109 (2016); the springs here are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.filters import Filter, StrainFilter, UnitCellFilter
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS

from deeprelax_ase.optimizers.acceptance import energy_of

if TYPE_CHECKING:
    from deeprelax_ase.geometry.springs import Springs

#: Shares of what a step was foreseen to gain: less than the first says that the next one be shorter, more than the
#: second that it may be longer.
POOR, GOOD = 0.25, 0.75

#: Factors by which the longest step then changes, and Å, what it is kept between.
SHORTER, LONGER = 0.5, 1.5
SHORTEST, LONGEST = 0.001, 0.4

#: Constraints that leave each atom, for itself, some directions to move in.
_OF_ATOMS = ("FixAtoms", "FixCartesian", "FixScaled", "FixedLine", "FixedPlane")


class ModelHessianBFGS(BFGS):
    """ASE's BFGS whose first Hessian is that of springs between neighbours, positions and cell together.

    The longest step that it may take, ``maxstep``, follows how well the gain of the last one was foreseen (trust
    region; Nocedal and Wright, Numerical Optimization, 2006, chapter 4). Each step solves for the eigenvectors of the
    Hessian, as BFGS does: meant for crystals of up to a few hundred atoms.

    Args:
        atoms: ``Atoms`` or a filter.
        *args: as of ``BFGS``.
        springs: the springs.
        **kwargs: as of ``BFGS``; ``alpha`` is the curvature, in eV/Å², of directions that springs say nothing about.
    """

    def __init__(self, atoms: Atoms | Filter, *args: Any, springs: Springs | None = None, **kwargs: Any) -> None:
        from deeprelax_ase.geometry.springs import Springs  # with torch

        self.springs = Springs() if springs is None else springs
        self._foreseen: _Foreseen | None = None
        super().__init__(atoms, *args, **kwargs)  # type: ignore[arg-type]

    def step(self, *args: Any, **kwargs: Any) -> None:
        """One step."""
        target: Any = self.atoms
        energy, start, forces = energy_of(target), target.get_positions().ravel(), target.get_forces().ravel()
        if self._foreseen is not None:
            self.maxstep = self._foreseen.next_longest(energy, self.maxstep)
        super().step(*args, **kwargs)
        moved = target.get_positions().ravel() - start
        change = float(-forces @ moved + moved @ self.H @ moved / 2)
        length = float(np.linalg.norm(moved.reshape(-1, 3), axis=1).max())
        self._foreseen = _Foreseen(energy, change, length)

    def update(self, pos: Any, forces: Any, pos0: Any, forces0: Any) -> None:
        """Learn from the last step; before the first one, from the springs."""
        if pos0 is None:
            self.H0 = model_hessian(self.atoms, self.springs, alpha=float(self.alpha or 0))
        super().update(pos, forces, pos0, forces0)


@dataclass(frozen=True)
class _Foreseen:
    """Expectations of a step: energy in eV at its start, change of it by the quadratic model, and length in Å."""

    energy: float
    change: float
    length: float

    def next_longest(self, energy: float, longest: float) -> float:
        """Å, how long the next step may be, now that the ``energy`` in eV is known that this one led to."""
        share = (energy - self.energy) / self.change if self.change < 0 else 0.0
        if share < POOR:
            return max(SHORTEST, SHORTER * min(longest, self.length))
        if share > GOOD and self.length > 0.9 * longest:
            return min(max(LONGEST, longest), LONGER * longest)
        return longest


def model_hessian(target: Atoms | Filter, springs: Springs, *, alpha: float = 70.0) -> np.ndarray:
    """(D, D) eV/Å², second derivatives of the springs' energy in the D coordinates of ``target``.

    Directions that constraints, masks or the invariance under rotation take away are decoupled and get ``alpha``, as do
    all of a filter other than ``Filter`` and ``UnitCellFilter`` and its kin.
    """
    if isinstance(target, StrainFilter):
        return alpha * np.eye(6)
    atoms = target if isinstance(target, Atoms) else target.atoms
    count = len(atoms)
    first, second, distances, vectors = neighbor_list("ijdD", atoms, springs.cutoff)
    stiffness = _bond_stiffness(atoms.numbers, first, second, distances, vectors, springs)
    if not isinstance(target, UnitCellFilter):
        hessian = _of_positions(stiffness, first, second, count) + springs.floor * np.eye(3 * count)
        hessian = _allowed(hessian, _free_directions(atoms), alpha)
        shown = np.arange(3 * count).reshape(-1, 3)
        shown = shown if isinstance(target, Atoms) else shown[target.index]
        return hessian[np.ix_(shown.ravel(), shown.ravel())]
    deformation = np.linalg.solve(target.orig_cell, atoms.cell.array).T
    scale = float(getattr(target, "exp_cell_factor", target.cell_factor))
    # A bond d changes by F (x_j - x_i) + L d: positions x before the deformation F, and a strain L = y / scale
    turned = np.einsum("ba,nbc,cd->nad", deformation, stiffness, deformation)
    size = 3 * count
    hessian = np.zeros((size + 9, size + 9))
    hessian[:size, :size] = _of_positions(turned, first, second, count)
    strains = np.einsum("nac,nb,nd->abcd", stiffness, vectors, vectors) / scale**2
    hessian[size:, size:] = strains.reshape(9, 9)
    mixed = np.einsum("ap,nac,nb->npcb", deformation, stiffness, vectors).reshape(-1, 3, 9) / scale
    coupling = np.zeros((count, 3, 9))
    np.add.at(coupling, second, mixed)
    np.add.at(coupling, first, -mixed)
    hessian[:size, size:] = coupling.reshape(size, 9)
    hessian[size:, :size] = hessian[:size, size:].T
    hessian += springs.floor * np.eye(size + 9)
    free = np.zeros((size + 9, size + 9))
    free[:size, :size] = _free_directions(atoms)
    free[size:, size:] = _free_strains(target)
    return _allowed(hessian, free, alpha)


def _bond_stiffness(
    numbers: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    distances: np.ndarray,
    vectors: np.ndarray,
    springs: Springs,
) -> np.ndarray:
    """(B, 3, 3) eV/Å² of each of B bonds, halved, because each is listed from both ends."""
    radii = covalent_radii[numbers]
    strength = springs.strength(distances / (radii[first] + radii[second])) / 2
    along = vectors / distances[:, None]
    projector = along[:, :, None] * along[:, None, :]
    return strength[:, None, None] * ((1 - springs.turning) * projector + springs.turning * np.eye(3))


def _of_positions(stiffness: np.ndarray, first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """(3 N, 3 N) Hessian of the positions alone."""
    blocks = np.zeros((count, count, 3, 3))
    for one, other, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
        np.add.at(blocks, (one, other), sign * stiffness)
    return blocks.transpose(0, 2, 1, 3).reshape(3 * count, 3 * count)


def free_directions(atoms: Atoms) -> np.ndarray:
    """(N, 3, 3) projectors onto the displacements that constraints leave each of the ``atoms``."""
    projectors = np.tile(np.eye(3), (len(atoms), 1, 1))
    constraints = [c for c in atoms.constraints if type(c).__name__ in _OF_ATOMS]
    if constraints:
        for axis in range(3):
            moved = atoms.positions + np.eye(3)[axis]
            for constraint in constraints:
                constraint.adjust_positions(atoms, moved)
            projectors[:, :, axis] = moved - atoms.positions
        projectors = np.stack([one @ np.linalg.pinv(one, rcond=1e-6) for one in projectors])
    return projectors


def _free_directions(atoms: Atoms) -> np.ndarray:
    """(3 N, 3 N) the same of all atoms together."""
    count = len(atoms)
    whole = np.zeros((count, 3, count, 3))
    whole[np.arange(count), :, np.arange(count), :] = free_directions(atoms)
    return whole.reshape(3 * count, 3 * count)


def _free_strains(target: UnitCellFilter) -> np.ndarray:
    """(9, 9) projector onto the symmetric strains that the filter allows."""
    swap = np.eye(9).reshape(3, 3, 9).transpose(1, 0, 2).reshape(9, 9)
    mask = np.asarray(target.mask, dtype=float)
    free = (np.eye(9) + swap) / 2 * (mask * mask.T).ravel()[:, None]
    lengths = np.diag(np.diag(mask)).ravel()
    trace = np.outer(lengths, lengths) / max(lengths.sum(), 1)
    if target.hydrostatic_strain:
        free = trace
    return free - trace if target.constant_volume else free


def _allowed(hessian: np.ndarray, free: np.ndarray, alpha: float) -> np.ndarray:
    hessian = free @ hessian @ free + alpha * (np.eye(len(free)) - free)
    return (hessian + hessian.T) / 2
