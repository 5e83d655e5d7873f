"""Between potentials in batches and ASE's calculators: each in the place of the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.identity import calculator_name, elements_of
from deeprelax_ase.calculators.m3gnet_torch import EnergiesForcesStresses
from deeprelax_ase.calculators.periodic import as_periodic, scaled_stress
from deeprelax_ase.calculators.scope import torch_settings
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.graph.shapes import Batch, Cells, Numbers, Positions

#: Å, further than potentials that are known look for neighbours.
_FURTHEST = 12.0


class AsePotential(BatchedPotential):
    """Any ASE calculator, asked for one crystal after the other: for the same interface, not for speed.

    Args:
        calculator: it is not changed but for what it remembers.
    """

    one_by_one = True

    def __init__(self, calculator: Any) -> None:
        self.calculator, self.name, self.device = calculator, calculator_name(calculator), torch.device("cpu")
        self.elements = elements_of(calculator)
        self.has_stress = "stress" in getattr(calculator, "implemented_properties", ["stress"])

    def compute(self, numbers: Numbers, positions: Positions, cells: Cells, batch: Batch) -> EnergiesForcesStresses:
        """Compute crystals one by one, see :class:`~deeprelax_ase.calculators.batched.BatchedPotential`."""
        energies, forces, stresses = [], [], torch.full_like(cells, torch.nan)
        for crystal, cell in enumerate(cells):
            here = batch == crystal
            atoms = Atoms(numbers[here].numpy(), positions[here].numpy(), cell=cell.numpy(), pbc=True)
            atoms.calc = self.calculator
            try:
                forces.append(torch.from_numpy(np.array(atoms.get_forces(), dtype=np.float64)))
                energies.append(_energy(atoms))
                if self.has_stress:
                    stresses[crystal] = torch.from_numpy(atoms.get_stress(voigt=False))
            except (Exception, SystemExit):
                # ASE takes the next crystal of the same atoms for one that the calculator is set up for.
                if hasattr(self.calculator, "reset"):
                    self.calculator.reset()
                raise
        return EnergiesForcesStresses(positions.new_tensor(energies), torch.cat(forces), stresses)


def _energy(atoms: Atoms) -> float:
    """Return the energy, eV, whose derivatives are the forces, where the calculator knows it."""
    try:
        return float(atoms.get_potential_energy(force_consistent=True))
    except PropertyNotImplementedError:
        return float(atoms.get_potential_energy())


class PotentialCalculator(Calculator):
    """A potential in batches as an ASE calculator, for one crystal: energy, forces and stress in eV, eV/Å and eV/Å³.

    Layers and wires repeat in the other directions too, further away than a potential looks.

    Args:
        threads: how many threads a calculation takes; None for as many as torch is set to.

    Attributes:
        potential: the same, for whoever has many crystals.
    """

    def __init__(self, potential: BatchedPotential, *, threads: int | None = None) -> None:
        super().__init__()
        self.potential, self.threads = potential, threads
        self.implemented_properties = ["energy", "free_energy", "forces", *(["stress"] if potential.has_stress else [])]

    def _get_name(self) -> str:
        """Return the name for ASE."""
        return self.potential.name

    def calculate(
        self, atoms: Atoms | None = None, properties: list | None = None, system_changes: list | None = None
    ) -> None:
        """Compute energy, forces and stress, as ASE asks for them.

        Raises:
            CalculatorError: the potential fails, or does not know an element.
        """
        super().calculate(atoms, properties or ["energy"], system_changes or all_changes)
        given, scale = as_periodic(self.atoms, _FURTHEST)  # type: ignore[arg-type]
        device = self.potential.device
        numbers = torch.from_numpy(np.asarray(given.numbers, dtype=np.int64)).to(device)
        positions = torch.from_numpy(given.positions.copy()).to(device)
        cell = torch.from_numpy(given.cell.complete().array[None].copy()).to(device)
        with torch_settings(torch.float32, self.threads):
            found = self.potential(numbers, positions, cell, torch.zeros_like(numbers))
        if found.errors:
            raise CalculatorError(found.errors[0])
        energy, stress = float(found.energies), found.stresses[0].cpu().numpy()
        self.results = {"energy": energy, "free_energy": energy, "forces": found.forces.cpu().numpy()}
        if self.potential.has_stress:
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        self.results = scaled_stress(self.results, scale)
