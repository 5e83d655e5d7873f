"""Whether a jump is kept: energy and forces before and after it decide, where there is a calculator to tell them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import StrainFilter

from deeprelax_ase.optimizers.cached_calculator import CachedCalculator
from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.prediction.status import KEPT, REJECTED, JumpDecision

#: Length of the deformation of a cell, of its nine components (1.7 for none), by which a finish has lost it: it bursts
#: where a potential holds nothing together, and skewed ever more at one volume, cells become ever flatter.
MOST_STRETCHED = 5.0

COLLAPSES, BURSTS = "the cell has collapsed", "the cell has burst"


class EnergyForces(NamedTuple):
    """Energy and largest force that the calculator computes for a geometry.

    Attributes:
        energy: eV, with the work done against an external pressure.
        fmax: eV/Å, the largest force that the optimizer sees, cell gradients included.
    """

    energy: float
    fmax: float


@dataclass(frozen=True)
class JumpCriteria:
    """Criteria for a jump under a calculator. It is kept where the energy rises, and forces end, within these limits.

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
        """Decide whether to keep a jump of a crystal with so many ``atoms``."""
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


def largest_force(atoms: Atoms) -> float | None:
    """eV/Å, the largest force on one of the ``atoms``, without what constraints take; None where there are none."""
    if "forces" not in getattr(atoms.calc, "results", {}):
        return None
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def known_energy_forces(dof: DegreesOfFreedom) -> EnergyForces | None:
    """:func:`energy_forces` where that takes no call of the calculator; None elsewhere."""
    wanted = ["energy", "forces", *(["stress"] if dof.moves_cell else [])]
    try:
        required = not dof.has_calculator or dof.atoms.calc.calculation_required(dof.atoms, wanted)
        return None if required else energy_forces(dof)
    except Exception:  # whoever asks only wants to show it
        return None


def forces_are_finite(dof: DegreesOfFreedom) -> bool:
    """Whether forces, and the stress where the cell moves, are numbers where the atoms are."""
    values = [dof.atoms.get_forces(apply_constraint=False)]
    values += [dof.atoms.get_stress(apply_constraint=False)] if dof.moves_cell else []
    return all(np.isfinite(value).all() for value in values)


def lost_cell(dof: DegreesOfFreedom) -> str:
    """Say whether the cell has burst, or is so small or flat that the calculator would list endless neighbours."""
    from deeprelax_ase.graph.checks import COLLAPSED  # with torch

    if not dof.moves_cell or dof.atoms.cell.rank < 3:
        return ""
    if dof.atoms.cell.volume < COLLAPSED * len(dof.atoms):
        return COLLAPSES
    start = dof.orig_cell  # of a filter around the cell
    if (
        start is None
        or not np.linalg.norm(deformation := np.linalg.solve(start, dof.atoms.cell.array)) > MOST_STRETCHED
    ):
        return ""
    return BURSTS if np.linalg.det(deformation) > 1 else COLLAPSES


def energy_of(target: Any) -> float:
    """Return the energy, eV, whose derivatives are the forces, where the calculator knows it; its energy otherwise."""
    try:
        return float(target.get_potential_energy(force_consistent=True))
    except PropertyNotImplementedError:
        return float(target.get_potential_energy(force_consistent=False))


def move(dof: DegreesOfFreedom, step: Callable[[], None]) -> None:
    """Make a ``step``; where it fails, the atoms are back where they were."""
    start = Snapshot(dof)
    try:
        step()
    except BaseException:
        start.restore()
        raise


def attempt(dof: DegreesOfFreedom, step: Callable[[], None], criteria: JumpCriteria) -> JumpDecision:
    """Make a ``step``, and undo it unless it meets the ``criteria``.

    Energy and forces are asked for before and after it; the finish needs both anyway. The results for the start are
    kept until :func:`forget_snapshot`, so that going back costs no call. A calculator that fails after the step is a
    reason to go back.
    """
    before, start, known = energy_forces(dof), Snapshot(dof), CachedCalculator(dof.atoms)
    move(dof, step)
    try:
        decision = criteria.judge(before, energy_forces(dof), len(dof.atoms))
    except Exception as error:  # far from what they know, calculators may raise anything
        decision = JumpDecision(REJECTED, f"the calculator fails after it ({type(error).__name__}: {error})")
    except BaseException:  # interrupted: the atoms are left where the log ends
        start.restore()
        raise
    if not decision.kept:
        start.restore()
        dof.atoms.calc = known
    return decision


class Snapshot:
    """A saved geometry that can be restored."""

    def __init__(self, dof: DegreesOfFreedom) -> None:
        self._dof = dof
        self._cell, self._positions = dof.atoms.cell.array.copy(), dof.atoms.positions.copy()
        self._strain = np.copy(_strain_of(dof.given))

    def restore(self) -> None:
        """Put the atoms back."""
        atoms = self._dof.atoms
        if self._dof.moves_cell:
            atoms.set_cell(self._cell, apply_constraint=False)
        atoms.set_positions(self._positions, apply_constraint=False)
        _strain_of(self._dof.given)[:] = self._strain


def forget_snapshot(dof: DegreesOfFreedom) -> None:
    """Give the atoms their own calculator back, where its results were kept for it."""
    if isinstance(dof.atoms.calc, CachedCalculator):
        dof.atoms.calc = dof.atoms.calc.calculator


def _strain_of(target: Any) -> np.ndarray:
    """(6,) the strain that a ``StrainFilter`` counts, the array itself; empty for other targets."""
    return target.strain if isinstance(target, StrainFilter) else np.zeros(0)
