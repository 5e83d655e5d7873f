"""Crystals relaxed from where they are, under a potential, as labels to learn from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from deeprelax_ase.calculators import BatchedPotential, PotentialCalculator, get_batched, potential_name
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import CalculatorError, note_force_calls
from deeprelax_ase.graph.torch_builder import batch_tensors
from deeprelax_ase.optimizers import BatchedEnd, BatchedStart, KnownResults, relax_in_batches
from deeprelax_ase.optimizers.batched.relaxation import IN_BATCHES
from deeprelax_ase.optimizers.checked_atoms import CheckedAtoms, look_together
from deeprelax_ase.optimizers.degrees_of_freedom import (
    DegreesOfFreedom,
    degrees_of_freedom,
    refuse_missing_stress,
    refuse_tilted_layers,
)
from deeprelax_ase.optimizers.limits import check_fmax
from deeprelax_ase.prediction.batching import grouped
from deeprelax_ase.prediction.physical import refuse_vacuum
from deeprelax_ase.prediction.rattle import rattled_crystal


@dataclass(frozen=True)
class LabelOptions:
    """Options of the relaxations that make labels; the folder of a labelling records them.

    Attributes:
        calculator: by name, see :func:`~deeprelax_ase.calculators.get_batched`.
        finish: optimizer, ``fire`` or ``fast``, see :func:`~deeprelax_ase.optimizers.relax_in_batches`.
        fmax: eV/Å, largest force, and cell gradient, of what counts as converged.
        steps: most steps for each crystal.
        relax_cell: whether cells move; None for all but those of slabs. Layers are strained in their plane.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``.
        rattle: Å, by which each start is displaced at random, see :func:`~deeprelax_ase.prediction.rattle.rattled`: a
            relaxation keeps the symmetry of its start, and may so end at a saddle point. The pair begins there.
        rattle_seed: of that.

    Raises:
        ValueError: the optimizer is unknown, or a number makes no sense.
    """

    calculator: str
    finish: str = "fire"
    fmax: float = 0.02
    steps: int = 500
    relax_cell: bool | None = None
    device: str = "auto"
    rattle: float = 0.0
    rattle_seed: int = 0

    def __post_init__(self) -> None:
        if self.finish.lower() not in IN_BATCHES:
            raise ValueError(f"finish={self.finish!r} does not relax in batches: take one of {', '.join(IN_BATCHES)}")
        check_fmax(self.fmax)
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")
        if not 0 <= self.rattle < math.inf:
            raise ValueError(f"rattle={self.rattle} Å must be 0 for none, or more")
        if not isinstance(self.relax_cell, bool | None):
            raise ValueError(f"relax_cell={self.relax_cell!r} must be True, False, or None for all but slabs")


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
        fmax: eV/Å, largest force on an atom at the end.
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
    fmax: float
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

    @property
    def weights(self) -> str | None:
        """Name of its weights; None where it has none."""
        return potential_name(self.potential)

    def __call__(self, crystals: Sequence[Crystal]) -> list[Relaxation | Exception]:
        """Relax each crystal, side by side with others, or tell why it cannot be, and the force calls that it cost."""
        options = self.options
        crystals = [rattled_crystal(crystal, options.rattle, options.rattle_seed) for crystal in crystals]
        checked = [self._checked(crystal) for crystal in crystals]
        look_together(checked, self.potential.device)
        made: list[Relaxation | Exception | None] = [None] * len(crystals)
        starts: dict[int, BatchedStart] = {}
        axes: dict[int, np.ndarray] = {}
        for place, crystal in enumerate(crystals):
            try:
                starts[place], axes[place] = self._start(crystal, checked[place])
            except Exception as error:  # whatever such a crystal makes libraries raise
                made[place] = error
        for place, found in zip(list(starts), evaluated(list(starts.values()), self.potential), strict=True):
            if isinstance(found, Exception):
                made[place] = found
                del starts[place]
            else:
                starts[place] = replace(starts[place], known=found)
        places, given = list(starts), list(starts.values())
        for number, end in relax_in_batches(
            given, self.potential, optimizer=options.finish, fmax=options.fmax, steps=options.steps
        ):
            place = places[number]
            made[place] = _relaxation(crystals[place], given[number], end, axes[place])
        assert all(one is not None for one in made)
        return made  # type: ignore[return-value]

    def _checked(self, crystal: Crystal) -> CheckedAtoms:
        """The atoms of a crystal, under the potential."""
        atoms = crystal.to_atoms()
        atoms.calc = PotentialCalculator(self.potential)
        return CheckedAtoms(atoms)

    def _start(self, crystal: Crystal, checked: CheckedAtoms) -> tuple[BatchedStart, np.ndarray]:
        """The crystal, what may move of it, and the axes (3, 3), in rows, that it is relaxed in.

        A layer is turned so that its normal is an axis, as masks of the strain are along them.

        Raises:
            StructureError, ConstraintError, CalculatorError: it cannot be relaxed like a crystal; each says why.
        """
        dof = self._degrees_of_freedom(checked)
        refuse_vacuum(crystal, checked.vacuum())
        refuse_missing_stress(dof)
        axes = np.eye(3)
        if dof.plane is not None and dof.normal is not None:
            axes = _axes_of(dof.normal)
            crystal = crystal.with_geometry(crystal.positions @ axes.T, crystal.cell @ axes.T)
            dof = self._degrees_of_freedom(self._checked(crystal))
            refuse_tilted_layers(dof)
        return BatchedStart(crystal.numbers, crystal.positions, crystal.cell, dof.cell), axes

    def _degrees_of_freedom(self, checked: CheckedAtoms) -> DegreesOfFreedom:
        return degrees_of_freedom(checked.atoms, relax_cell=self.options.relax_cell, checked=checked)


def evaluated(
    crystals: Sequence[Crystal | BatchedStart], potential: BatchedPotential
) -> Iterator[KnownResults | Exception]:
    """Energy, forces and stress of each of the ``crystals``, or why there are none; many are computed at once."""
    for part in grouped(crystals, potential.atoms_at_once):
        some = cast("list[Crystal]", part)
        found = potential(*(tensor.to(potential.device) for tensor in batch_tensors(some)))
        forces = found.forces.cpu().split([len(one) for one in some])
        energies, stresses = found.energies.tolist(), found.stresses.cpu().numpy()
        for n, one in enumerate(some):
            if n in found.errors:
                error = CalculatorError(found.errors[n])
                yield note_force_calls(error, 1) if potential.knows(one.numbers) else error
            else:
                yield KnownResults(energies[n], forces[n].numpy(), stresses[n])


def _axes_of(normal: np.ndarray) -> np.ndarray:
    """(3, 3) axes, in rows, right-handed; the last one is the ``normal`` (3,)."""
    first = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(normal, first), normal])


def _relaxation(crystal: Crystal, start: BatchedStart, end: BatchedEnd, axes: np.ndarray) -> Relaxation | Exception:
    if end.results is None or start.known is None:
        return note_force_calls(CalculatorError(end.error or "the potential failed"), end.calls + 1)
    return Relaxation(
        initial=crystal,
        relaxed=Crystal(crystal.numbers, end.positions @ axes, end.cell @ axes),
        energy_initial=start.known.energy,
        energy_relaxed=end.results.energy,
        forces=start.known.forces @ axes,
        stress=axes.T @ start.known.stress @ axes,
        converged=end.converged,
        fixed_cell=start.strain is None,
        fmax=float(np.linalg.norm(end.results.forces, axis=1).max()),
        steps=end.steps,
        force_calls=end.calls + 1,
    )
