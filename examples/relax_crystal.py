"""Relax crystals that start in the cell of another compound: in one shot, then finished under a calculator.

Run it with ``make demo``, or ``python examples/relax_crystal.py``. The same crystals lie in ``unrelaxed.extxyz`` for
the command line; ``--write FILE`` makes that file.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import FIRE
from ase.spacegroup import crystal
from rich.console import Console
from rich.table import Table

from deeprelax_ase import DeepRelaxOptimizer
from deeprelax_ase.calculators import get_calculator
from deeprelax_ase.errors import CalculatorError


@dataclass(frozen=True)
class Candidate:
    """A compound put into the cell, and onto the sites, of another one: what a screening starts from.

    ``measured`` is the compound's own lattice at room temperature, a, b, c in Å. A perfect PBE relaxation would come
    out up to two per cent above it in length.
    """

    formula: str
    prototype: str
    atoms: Atoms
    measured: tuple[float, float, float]


def candidates() -> list[Candidate]:
    perovskite = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    gdfeo3 = [(0.063, 0.25, -0.016), (0.5, 0, 0), (0.467, 0.25, 0.101), (0.302, 0.051, 0.698)]
    made = [
        Candidate("MgO", "MnO", bulk("MgO", "rocksalt", a=4.445, cubic=True), (4.212,) * 3),
        Candidate("KCl", "NaCl", bulk("KCl", "rocksalt", a=5.640, cubic=True), (6.293,) * 3),
        Candidate("BaF2", "CaF2", bulk("BaF2", "fluorite", a=5.463, cubic=True), (6.200,) * 3),
        Candidate("ZnS", "ZnSe", bulk("ZnS", "zincblende", a=5.668, cubic=True), (5.409,) * 3),
        Candidate("AlN", "ZnO", bulk("AlN", "wurtzite", a=3.250, c=5.207, u=0.382), (3.112, 3.112, 4.982)),
        Candidate("SnO2", "TiO2", rutile("Sn", a=4.594, c=2.959, u=0.305), (4.737, 4.737, 3.186)),
        Candidate(
            "BaZrO3",
            "SrTiO3",
            crystal("BaZrO", perovskite, spacegroup=221, cellpar=[3.905] * 3 + [90] * 3),
            (4.192,) * 3,
        ),
        Candidate(
            "CaTiO3",
            "GdFeO3",
            crystal("CaTiO2", gdfeo3, spacegroup=62, cellpar=[5.611, 7.669, 5.349, 90, 90, 90]),
            (5.436, 7.639, 5.379),
        ),
    ]
    for candidate in made:
        bare(candidate.atoms)
    return made


def rutile(metal: str, *, a: float, c: float, u: float) -> Atoms:
    return crystal([metal, "O"], [(0, 0, 0), (u, u, 0)], spacegroup=136, cellpar=[a, a, c, 90, 90, 90])


def bare(atoms: Atoms) -> None:
    """Leave nothing but elements, positions and cell: what builders note would go into every file."""
    atoms.info.clear()
    if atoms.has("spacegroup_kinds"):
        atoms.set_array("spacegroup_kinds", None)


def in_one_shot(console: Console) -> None:
    table = Table("crystal", "cell of", title="One shot, no calculator; lengths in Å", box=None, title_justify="left")
    for column in ("unrelaxed", "relaxed", "moved", "volume off*", "±"):
        table.add_column(column, justify="right", no_wrap=True)
    for candidate in candidates():
        atoms = candidate.atoms.copy()
        DeepRelaxOptimizer(atoms, logfile=None).run()
        table.add_row(
            candidate.formula,
            candidate.prototype,
            lattice(candidate.atoms),
            lattice(atoms),
            f"{largest_displacement(candidate.atoms, atoms):.3f}",
            f"{volume_error(candidate.atoms, candidate):+.0%} → {volume_error(atoms, candidate):+.1%}",
            f"{atoms.info['deeprelax_uncertainty']:.3f}",
        )
    console.print(table)
    console.print("* against experiment, which PBE itself misses by a few per cent.")
    console.print(f"± is deeprelax_uncertainty; the model is {atoms.info['deeprelax_model']}.\n")


def largest_displacement(initial: Atoms, relaxed: Atoms) -> float:
    """How far an atom moves beyond being carried along by the cell."""
    carried = initial.get_scaled_positions(wrap=False) @ relaxed.cell.array
    return float(np.linalg.norm(relaxed.positions - carried, axis=1).max())


def lattice(atoms: Atoms) -> str:
    """The lattice parameters that differ from each other."""
    a, b, c = atoms.cell.lengths()
    lengths = [a, *([b] if abs(b - a) > 1e-3 else []), *([c] if abs(c - a) > 1e-3 else [])]
    return " ".join(f"{length:.2f}" for length in lengths)


def volume_error(atoms: Atoms, candidate: Candidate) -> float:
    """Relative error of the volume against the measured one."""
    measured = candidate.atoms.cell.cellpar()
    measured[:3] = candidate.measured
    return atoms.cell.volume / Atoms(cell=measured).cell.volume - 1


def finished(console: Console, formula: str = "SnO2") -> None:
    try:
        calculator = get_calculator("chgnet")
    except CalculatorError as error:
        console.print(f"No finish under a calculator: {error}", markup=False)
        return
    (start,) = (candidate.atoms for candidate in candidates() if candidate.formula == formula)

    warnings.filterwarnings("ignore", category=UserWarning, module="chgnet")  # of no concern here
    plain, jumped = start.copy(), start.copy()
    plain.calc = jumped.calc = calculator
    fire = FIRE(FrechetCellFilter(plain), logfile=None)
    fire.run(fmax=0.05, steps=500)
    with DeepRelaxOptimizer(jumped, logfile=None) as deeprelax:
        deeprelax.run(fmax=0.05, steps=500)

    table = Table(f"{formula} under CHGNet, to 0.05 eV/Å", title="Finished", box=None, title_justify="left")
    for column in ("steps", "lattice (Å)", "energy (eV/atom)"):
        table.add_column(column, justify="right")
    for name, steps, atoms in (("FIRE", fire.nsteps, plain), ("DeepRelaxOptimizer", deeprelax.nsteps, jumped)):
        table.add_row(name, str(steps), lattice(atoms), f"{atoms.get_potential_energy() / len(atoms):.4f}")
    console.print(table)
    console.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", metavar="FILE", help="write the unrelaxed crystals to FILE and relax nothing")
    file = parser.parse_args().write
    if file:
        atoms = [candidate.atoms for candidate in candidates()]
        for entry, candidate in zip(atoms, candidates(), strict=True):
            entry.info["name"] = f"{candidate.formula} in the cell of {candidate.prototype}"
        write(file, atoms)
        return
    console = Console()
    in_one_shot(console)
    finished(console)


if __name__ == "__main__":
    main()
