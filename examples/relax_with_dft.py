"""Jump, then finish under DFT with GPAW: GaP that starts in the cell of GaAs, an atom out of place. It takes a minute.

GPAW is compiled when it is installed, in the way that ``gpaw_siteconfig.py`` says. In the repository's folder:

    GPAW_CONFIG=$PWD/examples/gpaw_siteconfig.py pip install -c constraints.txt ".[gpaw]"
    OMP_NUM_THREADS=1 python examples/relax_with_dft.py

The same calculator finishes the command line's jumps:

    PYTHONPATH=examples deeprelax relax POSCAR --calculator relax_with_dft:make_calculator -o CONTCAR
"""

from __future__ import annotations

import time
from typing import Any

from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from gpaw import GPAW
from rich.console import Console
from rich.table import Table

from deeprelax_ase import DeepRelaxOptimizer

FMAX = 0.05  # eV/Å


def make_calculator() -> Any:
    """PBE for crystals of a few light atoms.

    The cell moves while the cutoff of the plane waves stays: one that is too low pulls at the cell (Pulay stress). This
    one serves phosphorus; carbon, nitrogen, oxygen and fluorine need 700 eV. ``size`` fixes the mesh of k-points; a
    density would change it on the way.
    """
    return GPAW(mode={"name": "pw", "ecut": 400}, xc="PBE", kpts={"size": (3, 3, 3), "gamma": True}, txt=None)


def unrelaxed() -> Atoms:
    atoms = bulk("GaP", "zincblende", a=5.653)
    atoms.positions[1] += [0.1, 0.05, 0.0]
    atoms.calc = make_calculator()
    return atoms


def main() -> None:
    plain, jumped = unrelaxed(), unrelaxed()
    table = Table("GaP under PBE", "steps", "volume (Å³)", "energy (eV/atom)", "time", box=None)

    def add(name: str, steps: int, atoms: Atoms, start: float) -> None:
        energy = atoms.get_potential_energy() / len(atoms)
        table.add_row(
            name, str(steps), f"{atoms.get_volume():.2f}", f"{energy:.4f}", f"{time.perf_counter() - start:.0f} s"
        )

    start = time.perf_counter()
    add("unrelaxed", 0, plain, start)
    bfgs = BFGS(FrechetCellFilter(plain))  # type: ignore[arg-type]
    bfgs.run(fmax=FMAX, steps=100)
    add("BFGS", bfgs.nsteps, plain, start)

    start = time.perf_counter()
    with DeepRelaxOptimizer(jumped, finish="bfgs") as deeprelax:
        deeprelax.run(fmax=FMAX, steps=100)
    add("DeepRelaxOptimizer", deeprelax.nsteps, jumped, start)
    Console().print(table)


if __name__ == "__main__":
    main()
