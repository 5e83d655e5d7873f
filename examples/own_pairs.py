"""Relaxation pairs of your own, to fine-tune a model with: alloys relaxed under EMT, which stands for your calculator.

``python examples/own_pairs.py runs`` leaves a trajectory of each relaxation in the folder ``runs``. The first frame of
a trajectory and the last one are a pair.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from deeprelax_ase.progress import track

METALS = ("Cu", "Ag", "Au", "Ni", "Pd", "Pt")


def alloys() -> dict[str, Atoms]:
    """A3B and A2B2 for all pairs of metals, rattled, in a cell that fits none of them."""
    made = {}
    for host, guest in combinations(METALS, 2):
        for guests in (1, 2):
            atoms = bulk(host, "fcc", a=3.9, cubic=True)
            atoms.symbols[:guests] = guest
            atoms.rattle(0.1, seed=guests)
            made[f"{host}{4 - guests}{guest}{guests}"] = atoms
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the trajectories")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    converged = 0
    for name, atoms in track(alloys().items()):
        atoms.calc = EMT()
        with BFGS(FrechetCellFilter(atoms), logfile=None, trajectory=str(out / f"{name}.traj")) as relaxation:  # type: ignore[arg-type]
            converged += relaxation.run(fmax=0.02, steps=200)
    print(f"{converged} of {len(alloys())} relaxations converged, in {out}")


if __name__ == "__main__":
    main()
