"""Hypothetical crystals in any number: similar elements put into known prototypes, as searches for materials do.

python benchmarks/candidates.py prototypes.npz --number 1000000 --out candidates.parquet

prototypes.npz holds ``numbers`` (N,), ``frac`` (N, 3), ``offsets`` (P + 1,) and ``cells`` (P, 3, 3) in Å. Each element
of a prototype gives way to one of its group of the periodic table, or of its row of transition metals or lanthanides,
and the lattice is scaled by the ratio of the sums of covalent radii. The same seed makes the same file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from shared import options

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.progress import track

#: Elements that stand in for each other.
FAMILIES = (
    (3, 11, 19, 37, 55),
    (4, 12, 20, 38, 56),
    (5, 13, 31, 49, 81),
    (6, 14, 32, 50, 82),
    (7, 15, 33, 51, 83),
    (8, 16, 34, 52),
    (9, 17, 35, 53),
    (21, 22, 23, 24, 25, 26, 27, 28, 29, 30),
    (39, 40, 41, 42, 44, 45, 46, 47, 48),
    (72, 73, 74, 75, 76, 77, 78, 79, 80),
    (57, 58, 59, 60, 62, 64, 65, 66, 67, 68, 69, 70, 71),
)

#: Atoms of the crystals, and of the prototype that they repeat.
SIZES = {5: 5, 10: 10, 20: 20, 50: 10, 200: 10}

#: Rows written at once.
_ROWS = 20_000


def candidates(file: Path, number: int, *, seed: int, atoms: int | None = None) -> Iterator[dict]:
    """Rows of :data:`~deeprelax_ase.screening.rows.INPUT`; ``atoms`` takes prototypes of that size alone."""
    with np.load(file, allow_pickle=False) as arrays:
        numbers, fractional, offsets, cells = (arrays[name] for name in ("numbers", "frac", "offsets", "cells"))
    family = {z: group for group in FAMILIES for z in group}
    whole = [p for p in range(len(cells)) if set(numbers[offsets[p] : offsets[p + 1]].tolist()) <= family.keys()]
    usable = [p for p in whole if atoms is None or offsets[p + 1] - offsets[p] == atoms]
    if not usable:
        raise SystemExit(f"no prototype of {atoms} atoms in {file}")
    generator = np.random.default_rng(seed)
    for index in range(number):
        prototype = usable[generator.integers(len(usable))]
        here = slice(offsets[prototype], offsets[prototype + 1])
        old = numbers[here]
        exchange = {z: generator.choice(family[z]) for z in np.unique(old).tolist()}
        new = np.array([exchange[z] for z in old.tolist()], dtype=np.uint8)
        cell = cells[prototype] * covalent_radii[new].sum() / covalent_radii[old].sum()
        yield {
            "index": index,
            "id": f"candidate-{index}",
            "source": f"prototype {prototype}",
            "numbers": new,
            "positions": (fractional[here].astype(float) @ cell).ravel(),
            "cell": cell.ravel(),
        }


def write(rows: Iterator[dict], file: Path, number: int) -> None:
    """Write ``rows``, some thousands at a time."""
    import pyarrow as pa  # here, as crystals are made without it
    import pyarrow.parquet as pq

    from deeprelax_ase.screening.rows import INPUT

    with pq.ParquetWriter(file, INPUT, compression="zstd") as writer:
        batch = []
        for row in track(rows, "candidates", total=number):
            batch.append(row)
            if len(batch) == _ROWS:
                writer.write_table(pa.Table.from_pylist(batch, schema=INPUT))
                batch = []
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=INPUT))


def crystals(prototypes: Path, atoms: int, number: int) -> list[Crystal]:
    """``number`` of them, of so many atoms."""
    unit = SIZES.get(atoms, 10)
    rows = candidates(prototypes, number, seed=0, atoms=unit)
    return [
        _repeated(Crystal(r["numbers"], r["positions"].reshape(-1, 3), r["cell"].reshape(3, 3)), atoms) for r in rows
    ]


def _repeated(crystal: Crystal, atoms: int) -> Crystal:
    """A supercell, as near to a cube of cells as the number allows."""
    copies = atoms // len(crystal)
    repeat = [1, 1, 1]
    for factor in _factors(copies):
        repeat[int(np.argmin(repeat))] *= factor
    return crystal if copies == 1 else Crystal.of(crystal.to_atoms().repeat(repeat))


def _factors(number: int) -> Iterator[int]:
    """Prime factors, the largest first."""
    found, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    yield from reversed(found)


def main() -> None:
    """Write the file."""
    arguments = options(
        __doc__,
        "prototypes",
        prototypes={"type": Path, "help": "npz file of prototypes"},
        number={"type": int, "default": 1_000_000, "help": "of crystals (default %(default)s)"},
        atoms={"type": int, "help": "of each; those of the prototypes by default"},
        seed={"type": int, "default": 0},
        out={"type": Path, "default": Path("candidates.parquet"), "help": "default %(default)s"},
    ).parse_args()
    rows = candidates(arguments.prototypes, arguments.number, seed=arguments.seed, atoms=arguments.atoms)
    write(rows, arguments.out, arguments.number)


if __name__ == "__main__":
    main()
