"""The barrier of a vacancy that moves on in copper: both ends relaxed by a jump, an IDPP path between them, and NEB.

Run it with ``python examples/vacancy_migration.py``; under CHGNet it takes two minutes on one core, and with
``--calculator ase.calculators.emt:EMT`` some seconds.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.mep import NEB, NEBTools
from ase.optimize import FIRE
from rich.console import Console
from rich.table import Table

from deeprelax_ase import DeepRelaxOptimizer, DeepRelaxPositions, relaxation_path
from deeprelax_ase.calculators import get_calculator
from deeprelax_ase.errors import CalculatorError

#: eV. Table 1 of Y. Lysogorskiy et al., npj Comput. Mater. 7, 97 (2021): PBE, and the range of what has been measured.
PBE, MEASURED = 0.74, (0.67, 0.76)


@dataclass(frozen=True)
class Migration:
    """What became of one hop.

    ``images`` carry their energies. ``barrier`` and ``guessed``, that of the path which NEB starts from, are in eV.
    """

    images: list[Atoms]
    barrier: float
    guessed: float
    steps: dict[str, int]
    converged: bool


def relaxed_copper(calculator: Any) -> tuple[Atoms, int]:
    """The cubic cell under ``calculator``, and the steps that took."""
    copper = bulk("Cu", "fcc", a=3.8, cubic=True)  # five per cent too large
    copper.calc = calculator
    with DeepRelaxOptimizer(copper, logfile=None) as optimizer:
        optimizer.run(fmax=0.005, steps=200)
    return copper, optimizer.nsteps


def ends_of_a_hop(copper: Atoms, repeat: int) -> tuple[Atoms, Atoms]:
    """A supercell without the atom at the origin, and the same after the nearest atom has gone there."""
    start = copper.repeat(repeat)
    vacancy = start.positions[0].copy()
    del start[0]
    end = start.copy()
    end.positions[np.linalg.norm(end.positions - vacancy, axis=1).argmin()] = vacancy
    return start, end


def migration(
    calculator: Any, *, repeat: int = 2, n_images: int = 5, fmax: float = 0.05, steps: int = 200
) -> Migration:
    """One hop under ``calculator``; ``fmax`` in eV/Å is that of NEB, the ends are relaxed further."""
    copper, taken = relaxed_copper(calculator)
    ends = ends_of_a_hop(copper, repeat)
    counts = {"lattice": taken}
    for name, atoms in zip(("start", "end"), ends, strict=True):
        atoms.calc = calculator
        with DeepRelaxPositions(atoms, logfile=None) as optimizer:  # the cell stays that of the perfect crystal
            optimizer.run(fmax=fmax / 2, steps=steps)
        counts[name] = optimizer.nsteps
        # kept as they are: the calculator goes on to other images
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())

    images = relaxation_path(*ends, n_images)
    for image in images[1:-1]:
        image.calc = calculator
    for image, atoms in zip((images[0], images[-1]), ends, strict=True):
        image.calc = atoms.calc
    guessed = max(image.get_potential_energy() for image in images) - images[0].get_potential_energy()
    with FIRE(NEB(images, climb=True, method="improvedtangent", allow_shared_calculator=True), logfile=None) as band:
        converged = band.run(fmax=fmax, steps=steps)
    counts["band"] = band.nsteps
    for image in images[1:-1]:
        image.calc = SinglePointCalculator(image, energy=image.get_potential_energy(), forces=image.get_forces())
    barrier, _ = NEBTools(images).get_barrier(fit=False)  # the climbing image is at the top
    return Migration(images, float(barrier), float(guessed), counts, bool(converged))


def report(console: Console, hop: Migration, name: str) -> None:
    console.print(f"A vacancy in copper moves on, under {name}", markup=False)
    table = Table("image", box=None)
    for column in ("energy (eV)", "nearest atoms (Å)"):
        table.add_column(column, justify="right")
    for k, image in enumerate(hop.images):
        energy = image.get_potential_energy() - hop.images[0].get_potential_energy()
        distances = image.get_all_distances(mic=True)
        table.add_row(str(k), f"{energy:.3f}", f"{distances[distances > 0].min():.3f}")
    console.print(table)
    console.print("steps: " + ", ".join(f"{what} {count}" for what, count in hop.steps.items()))
    console.print(
        f"barrier {hop.barrier:.2f} eV{'' if hop.converged else ' (not converged)'}, {hop.guessed:.2f} eV on the path "
        f"that NEB started from; PBE {PBE} eV, measured {MEASURED[0]} to {MEASURED[1]} eV "
        "(npj Comput. Mater. 7, 97, table 1)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calculator", default="chgnet", help="chgnet, m3gnet, or module:factory")
    parser.add_argument("--repeat", type=int, default=2, help="cubic cells along each side of the supercell")
    parser.add_argument("--images", type=int, default=5, help="images of the path, its ends included")
    parser.add_argument("--write", metavar="FILE", help="write the images of the band to FILE")
    options = parser.parse_args()
    console = Console()
    try:
        calculator = get_calculator(options.calculator)
    except CalculatorError as error:
        console.print(str(error), markup=False)
        sys.exit(1)
    warnings.filterwarnings("ignore", category=UserWarning, module="chgnet")  # of no concern here
    hop = migration(calculator, repeat=options.repeat, n_images=options.images)
    report(console, hop, options.calculator)
    if options.write:
        write(options.write, hop.images)


if __name__ == "__main__":
    main()
