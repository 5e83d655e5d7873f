"""Crystals relaxed from where they are, under a potential, as labels to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from deeprelax_ase.calculators import PotentialCalculator, get_batched
from deeprelax_ase.calculators.counting import CallCounter
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.optimizers.degrees_of_freedom import (
    DegreesOfFreedom,
    degrees_of_freedom,
    refuse_missing_stress,
    refuse_tilted_layers,
)
from deeprelax_ase.optimizers.finish import Finish, resolve_finish
from deeprelax_ase.prediction.physical import refuse_vacuum


@dataclass(frozen=True)
class LabelOptions:
    """Options of the relaxations that make labels; the folder of a labelling records them.

    Attributes:
        calculator: by name, see :func:`~deeprelax_ase.calculators.get_batched`.
        finish: optimizer, by its name in ASE, or ``fast``.
        fmax: eV/Å, largest force, and cell gradient, of what counts as converged.
        steps: most steps for each crystal.
        relax_cell: whether cells move; None for all but those of slabs. Layers are strained in their plane.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``.

    Raises:
        ValueError: the optimizer is unknown, or a number makes no sense.
    """

    calculator: str
    finish: str = "fire"
    fmax: float = 0.02
    steps: int = 500
    relax_cell: bool | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        resolve_finish(self.finish)
        if not self.fmax > 0 or self.steps < 1:
            raise ValueError(f"fmax={self.fmax} must be positive, and steps={self.steps} at least 1")

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A relaxation from one crystal to another.

    Attributes:
        initial, relaxed: the crystals, atoms in the same order.
        energy_initial, energy_relaxed: eV.
        forces: (N, 3) eV/Å, in the initial crystal.
        stress: (3, 3) eV/Å³ there, in ASE's sign; NaN under a potential that has none.
        converged: whether the largest force is below what was asked for.
        fixed_cell: whether the cell was kept.
        steps: of the optimizer.
        force_calls: geometries that the potential computed.
    """

    initial: Crystal
    relaxed: Crystal
    energy_initial: float
    energy_relaxed: float
    forces: np.ndarray
    stress: np.ndarray
    converged: bool
    fixed_cell: bool
    steps: int
    force_calls: int


class Relaxer:
    """Relaxes crystals; holds the potential.

    Args:
        options: how.
        device: instead of that of the options.

    Raises:
        CalculatorError: the potential cannot be had.
    """

    def __init__(self, options: LabelOptions, device: str | None = None) -> None:
        self.options = options
        self.potential = get_batched(options.calculator, device=device or options.device)

    @property
    def name(self) -> str:
        """Name of the potential."""
        return self.potential.name

    def __call__(self, crystals: Sequence[Crystal]) -> list[Relaxation | Exception]:
        """Relax each crystal, or tell why it cannot be."""
        return [self._attempted(crystal) for crystal in crystals]

    def _attempted(self, crystal: Crystal) -> Relaxation | Exception:
        try:
            return self._relaxed(crystal)
        except Exception as error:  # whatever calculators raise
            return error

    def _relaxed(self, crystal: Crystal) -> Relaxation:
        atoms = crystal.to_atoms()
        calculator = atoms.calc = PotentialCalculator(self.potential)
        dof = relaxable(atoms, crystal, self.options.relax_cell)
        with CallCounter(calculator) as counter:
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            stress = atoms.get_stress(voigt=False) if self.potential.has_stress else np.full((3, 3), np.nan)
            optimizer = Finish(self.options.finish, {}, dof, lambda memory: None).prepare(None)
            assert optimizer is not None
            converged = optimizer.run(fmax=self.options.fmax, steps=self.options.steps)
            relaxed = Crystal(atoms.numbers, atoms.positions, atoms.cell.array)
            return Relaxation(
                crystal,
                relaxed,
                energy,
                atoms.get_potential_energy(),
                forces,
                stress,
                bool(converged),
                not dof.moves_cell,
                optimizer.nsteps,
                counter.calls or 0,
            )


def relaxable(atoms: Atoms, crystal: Crystal, relax_cell: bool | None) -> DegreesOfFreedom:
    """The degrees of freedom of ``atoms``, which are those of ``crystal`` and have a calculator.

    Raises:
        StructureError, ConstraintError, CalculatorError: they cannot be relaxed like a crystal; each says why.
    """
    dof = degrees_of_freedom(atoms, relax_cell=relax_cell)
    refuse_vacuum(crystal, dof.checked.graph().vacuum)
    refuse_missing_stress(dof)
    refuse_tilted_layers(dof)
    return dof
