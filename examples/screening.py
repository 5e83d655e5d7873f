"""Screen substituted crystals in two processes, and sort them by what the model says of its own error.

Run it with ``python examples/screening.py``; it takes some seconds on a CPU. With ``--out`` the same call goes on with
a folder that is there already, as ``deeprelax screen candidates.extxyz --out screened`` does on the command line.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path

from ase import Atoms
from ase.build import bulk
from ase.io import write
from rich.console import Console
from rich.table import Table

from deeprelax_ase.screening import Folder, RelaxOptions, atoms_of, screen

#: Å, of MgO and ZnS as measured: every candidate starts in their cells.
PROTOTYPES = {"rocksalt": 4.21, "zincblende": 5.41}


def candidates() -> list[Atoms]:
    made = []
    for (structure, a), metal, anion in product(PROTOTYPES.items(), ("Mg", "Ca", "Zn", "Cd"), ("O", "S", "Se")):
        atoms = bulk(metal + anion, structure, a=a)
        atoms.info["id"] = f"{metal}{anion} {structure}"
        made.append(atoms)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of the results; by default one that is removed again")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    given = parser.parse_args()
    console = Console(width=90)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "candidates.extxyz", given.out or Path(folder) / "screened"
        write(file, candidates())
        counts = screen([file], out, RelaxOptions(max_error=0.05), workers=given.workers, block_size=12)
        relaxed = [atoms for table in Folder(out).tables() for atoms in atoms_of(table)]
    console.print(", ".join(f"{count} {status}" for status, count in sorted(counts.statuses.items())))
    table = Table("candidate", title="The six least certain volumes", box=None, title_justify="left")
    for column in ("a (Å)", "volume error", "status"):
        table.add_column(column, justify="right")
    for atoms in sorted(relaxed, key=lambda a: -a.info["deeprelax_volume_error"])[:6]:
        lattice = 2**0.5 * atoms.cell.lengths()[0]  # of the cubic cell
        info = atoms.info
        table.add_row(info["id"], f"{lattice:.3f}", f"{info['deeprelax_volume_error']:.1%}", info["deeprelax_status"])
    console.print(table)


if __name__ == "__main__":  # the worker processes import this file
    main()
