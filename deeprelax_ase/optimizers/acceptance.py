"""Moves that are taken back unless they help: the jump, and its corrections, under a calculator that can tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import StrainFilter

from deeprelax_ase.optimizers.cached_calculator import CachedCalculator
from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.prediction.status import KEPT, REJECTED, JumpDecision

Result = TypeVar("Result")


class EnergyForces(NamedTuple):
    """What the calculator says of a geometry.

    Attributes:
        energy: eV, with the work done against an external pressure.
        fmax: eV/Å, the largest force that the optimizer sees, cell gradients included.
    """

    energy: float
    fmax: float


@dataclass(frozen=True)
class JumpCriteria:
    """When a jump under a calculator is kept: energy must not rise, nor forces be too large to trust the energy.

    Attributes:
        energy_rise: eV/atom, by which the energy may rise; ``math.inf`` keeps every jump.
        fmax: eV/Å, the largest force that a jump may end with, unless it started with a larger one: nearer to each
            other than in any crystal, atoms have energies that potentials were not trained on.
    """

    energy_rise: float = 0.0
    fmax: float = 50.0

    def __post_init__(self) -> None:
        if not (self.energy_rise >= 0 and self.fmax > 0):
            raise ValueError(f"{self} needs energy_rise >= 0 and fmax > 0")

    def judge(self, before: EnergyForces, after: EnergyForces, atoms: int) -> JumpDecision:
        """Whether a jump of a crystal of so many ``atoms`` is kept."""
        rise = (after.energy - before.energy) / atoms
        change = f"energy {rise:+.4f} eV/atom, fmax {before.fmax:.3f} -> {after.fmax:.3f} eV/Å"
        if not (math.isfinite(after.energy) and math.isfinite(after.fmax)):
            return JumpDecision(REJECTED, "energy or forces are not finite after it")
        if rise > self.energy_rise:
            return JumpDecision(REJECTED, f"it raises the energy: {change}")
        if after.fmax > max(self.fmax, before.fmax):
            return JumpDecision(REJECTED, f"it ends with forces too large to trust the energy: {change}")
        return JumpDecision(KEPT, change)


def energy_forces(dof: DegreesOfFreedom) -> EnergyForces:
    """Energy and largest force where the atoms are; the calculator is asked unless it knows."""
    forces = np.reshape(dof.target.get_forces(), (-1, 3))
    return EnergyForces(energy_of(dof.target), float(np.linalg.norm(forces, axis=1).max()))


def known_energy_forces(dof: DegreesOfFreedom) -> EnergyForces | None:
    """:func:`energy_forces` where that takes no call of the calculator; None elsewhere."""
    wanted = ["energy", "forces", *(["stress"] if dof.moves_cell else [])]
    try:
        required = not dof.has_calculator or dof.atoms.calc.calculation_required(dof.atoms, wanted)
        return None if required else energy_forces(dof)
    except Exception:  # whoever asks only wants to show it
        return None


def energy_of(target: Any) -> float:
    """eV, what the forces on ``Atoms`` or a filter derive from where the calculator knows it, else its energy."""
    try:
        return float(target.get_potential_energy(force_consistent=True))
    except PropertyNotImplementedError:
        return float(target.get_potential_energy(force_consistent=False))


def move(dof: DegreesOfFreedom, step: Callable[[], Result]) -> Result:
    """What ``step`` returns; where it fails, the atoms are back where they were."""
    start = Snapshot(dof)
    try:
        return step()
    except BaseException:
        start.restore()
        raise


class Attempt(NamedTuple, Generic[Result]):
    """A move that was tried.

    Attributes:
        result: what it returned.
        decision: whether it was kept.
        start: where it started.
    """

    result: Result
    decision: JumpDecision
    start: Snapshot


def attempt(dof: DegreesOfFreedom, step: Callable[[], Result], criteria: JumpCriteria) -> Attempt[Result]:
    """Make a ``step``, and take it back unless it meets the ``criteria``.

    Two looks are taken, before and after it; the finish needs both anyway. What the calculator said of the start is
    remembered, see :class:`~deeprelax_ase.optimizers.cached_calculator.Remembered`, so that going back costs no call.

    A calculator that fails after the move is a reason to take it back.
    """
    before, start = energy_forces(dof), Snapshot(dof)
    result = move(dof, step)
    try:
        decision = criteria.judge(before, energy_forces(dof), len(dof.atoms))
    except Exception as error:  # far from what they know, calculators may raise anything
        decision = JumpDecision(REJECTED, f"the calculator fails after it ({type(error).__name__}: {error})")
    except BaseException:  # interrupted: the atoms are left where the log ends
        start.restore()
        raise
    if not decision.kept:
        start.restore()
        start.remember()
    return Attempt(result, decision, start)


class Snapshot:
    """Where the atoms are, to come back to it at no cost."""

    def __init__(self, dof: DegreesOfFreedom) -> None:
        atoms = dof.atoms
        self._freedom, self._remembered = dof, CachedCalculator(atoms)
        self._cell, self._positions = atoms.cell.array.copy(), atoms.positions.copy()
        self._strain = np.copy(_strain_of(dof.target))

    def restore(self) -> None:
        """Put the atoms back."""
        atoms = self._freedom.atoms
        if self._freedom.moves_cell:
            atoms.set_cell(self._cell, apply_constraint=False)
        atoms.set_positions(self._positions, apply_constraint=False)
        _strain_of(self._freedom.target)[:] = self._strain

    def remember(self) -> None:
        """Spare the calculator what it has said of this place, until :func:`forget_place`."""
        self._freedom.atoms.calc = self._remembered


def forget_snapshot(dof: DegreesOfFreedom) -> None:
    """Give the atoms their own calculator back, where it was spared."""
    if isinstance(dof.atoms.calc, CachedCalculator):
        dof.atoms.calc = dof.atoms.calc.calculator


def _strain_of(target: Any) -> np.ndarray:
    """(6,) the strain that a ``StrainFilter`` counts, the array itself; empty for other targets."""
    return target.strain if isinstance(target, StrainFilter) else np.zeros(0)
