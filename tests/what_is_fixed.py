"""What people fix: crystals for it, and whether it was kept where a relaxation ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa

from deeprelax_ase import AllowedStrain
from deeprelax_ase.prediction.allowed_strain import RelaxCell

#: Converged to that, so that ends can be held against ASE's.
FMAX = 0.002
MASK, PRESSURE = (1, 1, 0, 0, 0, 1), 20.0


class End(NamedTuple):
    """Where a door leaves the crystal, to ``rounding`` in Å; ``refused`` says why it does not take it."""

    positions: np.ndarray
    cell: np.ndarray
    refused: str = ""
    rounding: float = 0.0


def refused(error: Exception | str) -> End:
    return End(np.zeros(0), np.zeros(0), str(error))


def strained() -> Atoms:
    """Cu3Au, strained by several per cent and rattled by 0.1 Å."""
    rng = np.random.default_rng(3)
    atoms = bulk("Cu", cubic=True, a=3.75)
    atoms.symbols[0] = "Au"
    strain = 0.02 * rng.normal(size=(3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
    return atoms


def polar() -> Atoms:
    """Cu3Au, strained along one axis, and two of its atoms out of their place along it."""
    atoms = bulk("Cu", cubic=True, a=3.75)
    atoms.symbols[0] = "Au"
    atoms.set_cell([3.95, 3.95, 3.75], scale_atoms=True)
    atoms.positions[[1, 2], 2] += 0.15
    return atoms


def centred() -> Atoms:
    """Copper, centred in its body: its symmetry is high, and what is left of it after a push is less."""
    return bulk("Cu", "bcc", a=2.95, cubic=True)


def held(constraint: Any) -> Atoms:
    atoms = strained()
    atoms.set_constraint(constraint)
    return atoms


def deformation(given: Atoms, end: End) -> np.ndarray:
    return np.linalg.solve(given.cell.array, end.cell)


def operations(cell: np.ndarray, positions: np.ndarray, numbers: np.ndarray) -> int:
    """How many operations the space group has in the cell."""
    import spglib

    found = spglib.get_symmetry_dataset((cell, positions @ np.linalg.inv(cell), numbers), symprec=1e-3)
    return len(found.rotations)


def same_cell(given: Atoms, end: End) -> bool:
    return bool(np.abs(end.cell - given.cell.array).max() <= end.rounding)


def fixed_atom(given: Atoms, end: End) -> bool:
    moved = end.positions - given.positions
    return same_cell(given, end) and np.abs(moved[1]).max() <= end.rounding and np.abs(moved[[0, 2, 3]]).max() > 1e-3


def fixed_components(given: Atoms, end: End) -> bool:
    moved = end.positions - given.positions
    return same_cell(given, end) and np.abs(moved[1, [0, 2]]).max() <= end.rounding and abs(moved[1, 1]) > 1e-4


def masked(given: Atoms, end: End) -> bool:
    kept = np.abs(end.cell - given.cell.array)[:, 2].max() <= end.rounding
    return bool(kept) and np.abs(end.cell - given.cell.array)[:, :2].max() > 1e-3


def same_volume(given: Atoms, end: End) -> bool:
    change = np.linalg.det(end.cell) / given.get_volume() - 1
    return abs(change) < 1e-10 and np.abs(deformation(given, end) - np.eye(3)).max() > 1e-3


def symmetric(given: Atoms, end: End) -> bool:
    before = operations(given.cell.array, given.positions, given.numbers)
    return operations(end.cell, end.positions, given.numbers) >= before >= 8 and not same_cell(given, end)


def pressed(given: Atoms, end: End) -> bool:
    atoms = Atoms(given.numbers, end.positions, cell=end.cell, pbc=True, calculator=EMT())
    return bool(np.allclose(atoms.get_stress(), [-PRESSURE * GPa] * 3 + [0] * 3, atol=2e-4))


def lower(given: Atoms, end: End) -> bool:
    """Whether symmetry has let go of the crystal."""
    return operations(end.cell, end.positions, given.numbers) < operations(
        given.cell.array, given.positions, given.numbers
    )


@dataclass(frozen=True)
class Freedom:
    """Something that people fix, or free.

    Attributes:
        make: the crystal.
        kept: whether it was kept, at the end of a door.
        relax_cell, keep_symmetry, rattle: the options of Python.
        flags: those of the command line.
    """

    make: Callable[[], Atoms]
    kept: Callable[[Atoms, End], bool]
    relax_cell: RelaxCell = None
    keep_symmetry: bool | None = None
    rattle: float = 0.0
    flags: tuple[str, ...] = ()


FREEDOMS = {
    "`FixAtoms`": Freedom(lambda: held(FixAtoms([1])), fixed_atom, False, flags=("--fixed-cell",)),
    "components of an atom": Freedom(
        lambda: held(FixCartesian([1], mask=[True, False, True])), fixed_components, False, flags=("--fixed-cell",)
    ),
    "a mask of the strain": Freedom(strained, masked, AllowedStrain(MASK), flags=("--mask", "xx,yy,xy")),
    "constant volume": Freedom(
        strained, same_volume, AllowedStrain(constant_volume=True), flags=("--constant-volume",)
    ),
    "mask and constant volume": Freedom(
        strained,
        lambda given, end: masked(given, end) and same_volume(given, end),
        AllowedStrain(MASK, constant_volume=True),
        flags=("--mask", "110001", "--constant-volume"),
    ),
    "kept symmetry": Freedom(polar, symmetric, keep_symmetry=True, flags=("--keep-symmetry",)),
    "pressure": Freedom(strained, pressed, AllowedStrain(pressure=PRESSURE * GPa), flags=("--pressure", str(PRESSURE))),
    "a rattled start": Freedom(centred, lower, rattle=0.1, flags=("--rattle", "0.1")),
}


def word(freedom: str, end: End) -> str:
    """The cell of the table."""
    if end.refused:
        return "refused"
    return "kept" if FREEDOMS[freedom].kept(FREEDOMS[freedom].make(), end) else "not kept"


def lowest(freedom: Freedom) -> float:
    """The enthalpy, eV, where ASE's own filter leads from the same start."""
    atoms = freedom.make()
    if freedom.keep_symmetry:
        atoms.set_constraint(FixSymmetry(atoms, symprec=1e-3))
    atoms.calc = EMT()
    target: Any = atoms
    if freedom.relax_cell is not False:
        cell = freedom.relax_cell if isinstance(freedom.relax_cell, AllowedStrain) else AllowedStrain()
        how = {"constant_volume": cell.constant_volume, "scalar_pressure": cell.pressure}
        target = FrechetCellFilter(atoms, mask=cell.matrix, **how)
    assert BFGS(target, logfile=None).run(fmax=FMAX, steps=500)
    return float(target.get_potential_energy())


def enthalpy(freedom: Freedom, end: End) -> float:
    atoms = Atoms(freedom.make().numbers, end.positions, cell=end.cell, pbc=True, calculator=EMT())
    pressure = freedom.relax_cell.pressure if isinstance(freedom.relax_cell, AllowedStrain) else 0.0
    return float(atoms.get_potential_energy() + pressure * atoms.get_volume())
