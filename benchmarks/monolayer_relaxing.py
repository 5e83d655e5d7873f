"""Relaxation of many monolayers at once under M3GNet: atoms and the lattice in the plane, the vector c stays.

Each monolayer has an ASE optimizer of its own; what they ask for is computed for many of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

#: Components of the strain that relax, in Voigt's order: xx, yy and xy.
IN_PLANE = (True, True, False, False, False, True)

#: Monolayers whose forces are computed together: more do not make a CPU faster.
TOGETHER = 32


class BatchedM3GNet:
    """Energy, forces and stress of several crystals in one pass of a MatGL potential."""

    def __init__(self, potential: Any) -> None:
        from matgl.ext.ase import Atoms2Graph

        self.potential = potential
        # derivatives are taken here: MatGL's own keep the graph of the second ones, at twice the time
        potential.calc_forces = potential.calc_stresses = False
        self.converter = Atoms2Graph(potential.model.element_types, potential.model.cutoff)

    def __call__(self, batch: Sequence[Atoms]) -> list[dict[str, Any]]:
        """``energy`` in eV, ``forces`` (N, 3) in eV/Å and ``stress`` (6,) in eV/Å³, ASE's signs, of each crystal."""
        import dgl

        graphs, lattices = [], []
        for atoms in batch:
            graph, lattice, _ = self.converter.get_graph(atoms)
            graph.ndata["frac_coords"] = torch.from_numpy(atoms.get_scaled_positions(wrap=False)).to(lattice)
            graphs.append(graph)
            lattices.append(lattice)
        cells, joined = torch.cat(lattices).requires_grad_(), dgl.batch(graphs)
        fractional = joined.ndata["frac_coords"].requires_grad_()
        joined.ndata["frac_coords"] = fractional
        energies = self.potential(joined, cells, None)[0].reshape(-1)
        by_scaled, by_cell = torch.autograd.grad(energies.sum(), [fractional, cells])
        forces = by_scaled.double().split([len(atoms) for atoms in batch])
        found = zip(batch, energies.tolist(), forces, cells.detach().double(), by_cell.double(), strict=True)
        return [_in_ase_units(atoms, *one) for atoms, *one in found]


def _in_ase_units(
    atoms: Atoms, energy: float, by_scaled: torch.Tensor, cell: torch.Tensor, by_cell: torch.Tensor
) -> dict[str, Any]:
    """From derivatives by fractional coordinates (N, 3) and, these fixed, by the cell (3, 3)."""
    forces = -by_scaled @ torch.linalg.inv(cell).T
    virial = cell.T @ by_cell
    stress = (virial + virial.T) / 2 / torch.linalg.det(cell).abs()
    return {"energy": energy, "forces": forces.numpy(), "stress": full_3x3_to_voigt_6_stress(stress.numpy())}


def steepest(atoms: Atoms, results: dict[str, Any]) -> float:
    """The largest force on an atom in eV/Å, or row of the virial in the plane by the number of atoms in eV."""
    virial = voigt_6_to_full_3x3_stress(results["stress"] * IN_PLANE) * atoms.get_volume() / len(atoms)
    return float(np.linalg.norm(np.concatenate([results["forces"], virial]), axis=1).max())


@dataclass(frozen=True)
class Relaxed:
    """How the relaxation of one monolayer ended.

    Attributes:
        atoms: where it ended.
        converged: forces on atoms, and the virial in the plane by the number of atoms, are below the limit.
        energies: eV, of the unrelaxed and of the last structure.
        steps: force calls.
    """

    atoms: Atoms
    converged: bool
    energies: tuple[float, float]
    steps: int


class _Run:
    """One monolayer on its way: ASE's optimizer, fed with results from outside."""

    def __init__(self, index: int, atoms: Atoms) -> None:
        self.index, self.atoms, self.steps = index, atoms.copy(), 0
        self.filter = FrechetCellFilter(self.atoms, mask=IN_PLANE)
        self.optimizer = BFGS(self.filter, logfile=None, maxstep=0.1)
        self.energies: list[float] = []

    def take(self, results: dict[str, Any], *, fmax: float, largest: float) -> str:
        """Move on by these ``results``; ``done`` and ``lost`` say that the atoms have moved for the last time."""
        self.steps += 1
        self.energies.append(results["energy"])
        numbers = [np.ravel(results[name]) for name in ("energy", "forces", "stress")]
        if not np.isfinite(np.concatenate(numbers)).all():
            return "lost"
        largest_force = steepest(self.atoms, results)
        if largest_force <= fmax:
            return "done"
        if largest_force > largest:
            return "lost"
        self.atoms.calc = SinglePointCalculator(self.atoms, **results)
        self.optimizer.step()
        return "on"

    def result(self, converged: bool) -> Relaxed:
        self.atoms.calc = None
        return Relaxed(self.atoms, converged, (self.energies[0], self.energies[-1]), self.steps)


def relax_in_plane(
    monolayers: Sequence[Atoms],
    compute: Callable[[Sequence[Atoms]], list[dict[str, Any]]],
    *,
    fmax: float = 0.05,
    max_steps: int = 300,
    largest: float = 200.0,
    hopeless: Callable[[int, Atoms], bool] = lambda index, atoms: False,
    together: int = TOGETHER,
) -> Iterator[tuple[int, Relaxed]]:
    """Relax atoms, a, b and their angle; c stays as it is. In the order in which they end, with their indices.

    Args:
        monolayers: c along z, a and b in the plane; they are not changed.
        compute: energies, forces and stresses of several crystals, as :class:`BatchedM3GNet`.
        fmax: eV/Å; also eV, of the virial in the plane by the number of atoms, as ASE's ``FrechetCellFilter`` has it.
        max_steps: force calls of each.
        largest: eV/Å, a relaxation that meets a larger force ends.
        hopeless: whether a relaxation, given its index and where it is, may end unconverged at once.
        together: how many are on their way at the same time.
    """
    waiting = iter(enumerate(monolayers))
    running: list[_Run] = []
    while True:
        while len(running) < together and (following := next(waiting, None)) is not None:
            running.append(_Run(*following))
        if not running:
            return
        states = [
            run.take(results, fmax=fmax, largest=largest)
            for run, results in zip(running, _computed(running, compute), strict=True)
        ]
        staying = []
        for run, state in zip(running, states, strict=True):
            if state == "on" and run.steps < max_steps and not hopeless(run.index, run.atoms):
                staying.append(run)
            else:
                yield run.index, run.result(state == "done")
        running = staying


def _computed(running: Sequence[_Run], compute: Callable) -> list[dict[str, Any]]:
    """Results of all; not finite where the potential fails, which one crystal with overlapping atoms may do for all."""
    batch = [run.atoms for run in running]
    try:
        return compute(batch)
    except Exception:
        if len(batch) == 1:
            nothing = np.full((len(batch[0]), 3), np.nan)
            return [{"energy": np.nan, "forces": nothing, "stress": np.full(6, np.nan)}]
    return [result for run in running for result in _computed([run], compute)]
