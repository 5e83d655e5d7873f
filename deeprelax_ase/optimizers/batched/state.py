"""Crystals that relax side by side, as tensors, in the coordinates of ASE's ``FrechetCellFilter``.

Positions x are those before the deformation F = exp L of the cell that a crystal started in, where L is symmetric:
positions are ``x F``, the cell is ``start F``. The cell counts as three more atoms at ``L`` times the number of atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.scope import one_thread
from deeprelax_ase.graph.crystal_graph import rows_times_matrices
from deeprelax_ase.graph.edges import row_starts
from deeprelax_ase.graph.shapes import Batch, Cells, CrystalFlags, Ints, Matrices, PerCrystal, Positions
from deeprelax_ase.optimizers.batched.start import BatchedStart, KnownResults, undeformed
from deeprelax_ase.optimizers.batched.symmetry import (
    HeldSymmetry,
    symmetric_matrices,
    symmetric_vectors,
    symmetry_tensors,
)
from deeprelax_ase.prediction.allowed_strain import AllowedStrain

#: Terms of the series of the deformation, and how often its argument is halved for it: exact to rounding up to |L| = 2.
_TERMS, _HALVINGS = 10, 3

#: Projector onto all directions.
_ALL = np.eye(3)


class BatchedState:
    """Tensors of atoms and of crystals that come and go together; an optimizer keeps its own among them.

    Attributes:
        atoms: by name, each with a row for an atom: numbers, x, moves (projectors); the optimizer's; once they are
            known, forces, and pull, those on x.
        crystals: by name, each with a row for a crystal: place (in the list of all), start (cell), log (L),
            deformation (F), cell, size, what the cell may do; the optimizer's; once they are known, energies, stresses,
            and pull, the forces on the cell.
            Their other dimensions are filled up with zeros on the right, where crystals differ.
        batch: (N,) int64, the crystal of each atom.
        special: what some of them have, see :attr:`BatchedStart.special`; ``"symmetry"`` where some keep one.
    """

    def __init__(self, atoms: dict[str, Tensor], crystals: dict[str, Tensor], batch: Batch, special: set[str]) -> None:
        self.atoms, self.crystals, self.batch, self.special = atoms, crystals, batch, special

    @classmethod
    def of(
        cls, starts: Sequence[BatchedStart], places: Sequence[int], device: torch.device, *, symmetric: bool = False
    ) -> BatchedState:
        """Crystals as they start, on ``device``; ``places`` are theirs in the list of all.

        ``symmetric`` where some of that list keep a symmetry: all that join each other have the same tensors.
        """

        def tensor(values: list | np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.from_numpy(np.array(values)).to(device, dtype)

        positions, cells, logs = undeformed(starts)
        strains = [AllowedStrain((0,) * 6) if one.strain is None else one.strain for one in starts]
        moves = [np.broadcast_to(_ALL, (len(one), 3, 3)) if one.moves is None else one.moves for one in starts]
        atoms = {
            "numbers": tensor(np.concatenate([one.numbers for one in starts]), torch.int64),
            "x": tensor(np.concatenate(positions)),
            "moves": tensor(np.concatenate(moves)),
        }
        crystals = {
            "place": tensor(list(places), torch.int64),
            "start": tensor(cells),
            "log": tensor(logs),
            "size": tensor([len(one) for one in starts]),
            "mask": tensor([strain.matrix for strain in strains]),
            "hydrostatic": tensor([strain.hydrostatic for strain in strains], torch.bool),
            "constant_volume": tensor([strain.constant_volume for strain in strains], torch.bool),
            "pressure": tensor([strain.pressure for strain in strains]),
            "steps": tensor(np.zeros(len(starts)), torch.int64),
            "gone": tensor(np.zeros(len(starts)), torch.bool),
            "steps_before": tensor([one.steps_before for one in starts], torch.int64),
        }
        crystals["free"] = crystals["mask"] != 0
        known = [one.known for one in starts if one.known is not None]
        if len(known) == len(starts):
            atoms["forces"] = tensor(np.concatenate([one.forces for one in known]))
            crystals["energies"] = tensor([one.energy for one in known])
            crystals["stresses"] = tensor([one.stress for one in known])
        special = set().union(*(one.special for one in starts))
        if symmetric:
            held = symmetry_tensors([one.symmetry or HeldSymmetry.none(len(one)) for one in starts], device)
            atoms, crystals, special = atoms | held[0], crystals | held[1], special | {"symmetry"}
        batch = torch.repeat_interleave(torch.tensor([len(one) for one in starts])).to(device)
        state = cls(atoms, crystals, batch, special)
        state._deform()
        if "forces" in atoms:
            state._pull()
        return state

    def __len__(self) -> int:
        return len(self.crystals["place"])

    def keep(self, chosen: CrystalFlags) -> BatchedState:
        """The ``chosen`` crystals (G,)."""
        index = chosen.nonzero().squeeze(1)
        atoms = chosen[self.batch].nonzero().squeeze(1)
        new = (torch.cumsum(chosen, 0) - 1)[self.batch[atoms]]
        return BatchedState(
            {name: values[atoms] for name, values in self.atoms.items()},
            {name: values[index] for name, values in self.crystals.items()},
            new,
            self.special,
        )

    def join(self, other: BatchedState) -> BatchedState:
        """These crystals and then those of ``other``, which has the same tensors."""
        return BatchedState(
            {name: _stacked(values, other.atoms[name]) for name, values in self.atoms.items()},
            {name: _stacked(values, other.crystals[name]) for name, values in self.crystals.items()},
            torch.cat([self.batch, other.batch + len(self)]),
            self.special | other.special,
        )

    @cached_property
    def slots(self) -> tuple[Ints, int]:
        """(N,) the row of each atom among the coordinates of its crystal, after three of the cell; the most rows."""
        rows = torch.arange(len(self.batch), device=self.batch.device)
        rows = rows - row_starts(self.batch, len(self))[self.batch] + 3
        return rows, int(self.crystals["size"].max()) + 3

    def geometry(self) -> tuple[Positions, Cells]:
        """Positions (N, 3) and cells (G, 3, 3), in Å."""
        return rows_times_matrices(self.atoms["x"], self.deformation()[self.batch]), self.cells()

    def cells(self) -> Cells:
        """(G, 3, 3) Å."""
        return self.crystals["cell"]

    def deformation(self) -> Matrices:
        """(G, 3, 3) F, symmetric. Masked components are exactly those of the start."""
        return self.crystals["deformation"]

    def evaluate(self, potential: BatchedPotential) -> dict[int, str]:
        """Compute energies, forces and stresses where the atoms are; returns errors, by the number of the crystal."""
        return self.launch(potential)()

    def launch(self, potential: BatchedPotential) -> Callable[[], dict[int, str]]:
        """Begin to :meth:`evaluate`; what is returned waits for it."""
        with one_thread():
            positions, cells = self.geometry()
        found, batch = potential.launch(self.atoms["numbers"], positions, cells, self.batch), self.batch
        self.atoms["forces"] = found.forces
        self.crystals |= {"energies": found.energies, "stresses": found.stresses}
        with one_thread():
            self._pull()
        return lambda: potential.settled(found, batch).errors

    def known(self) -> list[KnownResults]:
        """Energy, forces and stress of each crystal, as they were computed last."""
        sizes = self.crystals["size"].long().tolist()
        forces = np.split(self.atoms["forces"].cpu().numpy(), np.cumsum(sizes)[:-1])
        energies, stresses = self.crystals["energies"].tolist(), self.crystals["stresses"].cpu().numpy()
        return [KnownResults(*one) for one in zip(energies, forces, stresses, strict=True)]

    def enthalpies(self) -> PerCrystal:
        """(G,) eV, energies with the work against the pressure."""
        energies = self.crystals["energies"]
        return energies + self.crystals["pressure"] * self.volumes() if "pressure" in self.special else energies

    def volumes(self) -> PerCrystal:
        """(G,) Å³."""
        a, b, c = self.cells().unbind(dim=1)
        return (torch.linalg.cross(a, b) * c).sum(dim=1).abs()

    def pulls(self) -> tuple[Positions, Matrices]:
        """Forces on x (N, 3) and on the cell's rows (G, 3, 3), in eV/Å, with all that is fixed left out."""
        return self.atoms["pull"], self.crystals["pull"]

    def _pull(self) -> None:
        crystals, stress = self.crystals, self.crystals["stresses"]
        identity = torch.eye(3, dtype=torch.float64, device=self.batch.device)
        if "pressure" in self.special:
            stress = stress + crystals["pressure"][:, None, None] * identity
        virial = -self.volumes()[:, None, None] * stress
        if "symmetry" in self.special:
            virial = symmetric_matrices(virial, crystals)
        if "hydrostatic" in self.special:
            mean = virial.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] * identity
            virial = torch.where(crystals["hydrostatic"][:, None, None], mean, virial)
        # where there is no stress, nothing is free
        force = _along_logarithm(torch.where(crystals["free"], virial, 0.0), crystals["log"])
        if "constant_volume" in self.special:
            lengths = crystals["mask"] * identity
            share = force.diagonal(dim1=1, dim2=2).sum(dim=1) / lengths.sum(dim=(1, 2)).clamp(min=1)
            mean = lengths * share[:, None, None]
            force = torch.where(crystals["constant_volume"][:, None, None], force - mean, force)
        forces = self._symmetric(self.atoms["forces"])
        if "moves" in self.special:
            forces = rows_times_matrices(forces, self.atoms["moves"])
        self.atoms["pull"] = rows_times_matrices(forces, self.deformation()[self.batch])
        crystals["pull"] = force / crystals["size"][:, None, None]

    def _symmetric(self, vectors: Positions) -> Positions:
        """``vectors`` (N, 3) that keep the symmetry of crystals that do, which deformations do not turn."""
        if "symmetry" not in self.special:
            return vectors
        return symmetric_vectors(vectors, self.atoms, self.crystals, self.batch)

    def largest(self, atoms: Positions, cell: Matrices) -> PerCrystal:
        """(G,) the longest row of each crystal, among those of its ``atoms`` (N, 3) and of its ``cell`` (G, 3, 3)."""
        rows = torch.linalg.vector_norm(cell, dim=2).amax(dim=1)
        lengths = torch.linalg.vector_norm(atoms, dim=1)
        return rows.scatter_reduce(0, self.batch, lengths, reduce="amax")

    def sums(self, atoms: Positions, cell: Matrices) -> PerCrystal:
        """(G,) sums over all coordinates of each crystal."""
        return cell.sum(dim=(1, 2)).index_add(0, self.batch, atoms.sum(dim=1))

    def move(self, atoms: Positions, cell: Matrices) -> None:
        """Make a step of ``atoms`` (N, 3) and ``cell`` (G, 3, 3), in the coordinates that :meth:`pulls` belong to."""
        if "symmetry" in self.special:
            atoms, cell = self._symmetric(atoms), symmetric_matrices(cell, self.crystals)
        self.crystals["log"] = self.crystals["log"] + cell / self.crystals["size"][:, None, None]
        self.crystals["steps"] = self.crystals["steps"] + 1
        self._deform()
        if "moves" in self.special:
            deformation = self.deformation()
            moved = rows_times_matrices(rows_times_matrices(atoms, deformation[self.batch]), self.atoms["moves"])
            atoms = rows_times_matrices(moved, torch.linalg.inv_ex(deformation).inverse[self.batch])
        self.atoms["x"] = self.atoms["x"] + atoms

    def _deform(self) -> None:
        """Find F = exp L, but for the components that the mask keeps, and the cell; products of float64 are exact."""
        log = self.crystals["log"]
        identity = torch.eye(3, dtype=log.dtype, device=log.device).expand_as(log)
        exponential = identity
        for n in range(_TERMS, 0, -1):
            exponential = torch.baddbmm(identity, log, exponential, alpha=1 / (n * 2**_HALVINGS))
        for _ in range(_HALVINGS):
            exponential = exponential @ exponential
        self.crystals["deformation"] = identity + (exponential - identity) * self.crystals["mask"]
        self.crystals["cell"] = self.crystals["start"] @ self.crystals["deformation"]


def _along_logarithm(virial: Matrices, log: Matrices) -> Matrices:
    """(G, 3, 3) eV, the force on the symmetric logarithm L of the deformation, from the virial at exp L.

    In the axes of L its elements are those of the virial by ``sinh(d) / d``, where d is the difference of two
    eigenvalues: ``V + [L, [L, V]] / 6 + ... / 120``, which is exact to 1e-9 for strains up to 0.2.
    """

    identity = torch.eye(3, dtype=log.dtype, device=log.device)
    left, right = log[:, :, None, :, None] * identity[:, None], identity[:, None, :, None] * log[:, None, :, None]
    once = (left - right).flatten(3).flatten(1, 2)  # (G, 9, 9), V to [L, V]
    twice, given = once @ once, virial.reshape(-1, 9, 1)
    made = torch.baddbmm(given, twice, given, beta=1 / 120, alpha=1 / 5040)
    made = torch.baddbmm(given, twice, torch.baddbmm(given, twice, made, beta=1 / 6))
    return made.view_as(log)


def _stacked(one: Tensor, other: Tensor) -> Tensor:
    """Both, one after the other, filled up with zeros on the right of all dimensions but the first."""
    shape = [max(a, b) for a, b in zip(one.shape[1:], other.shape[1:], strict=True)]

    def filled(values: Tensor) -> Tensor:
        missing = [wanted - has for wanted, has in zip(shape, values.shape[1:], strict=True)]
        padding = [n for lack in reversed(missing) for n in (0, lack)]
        return torch.nn.functional.pad(values, padding) if any(missing) else values

    return torch.cat([filled(one), filled(other)])
