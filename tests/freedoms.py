"""What people fix, through every door: the doors, the freedoms, and what is measured of each pair.

python -m tests.freedoms [DOOR ...]

writes the table of ``docs/freedom.md`` anew, or its rows of doors whose names hold one of these.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, FixSymmetry
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS
from ase.units import GPa

from deeprelax_ase import AllowedStrain, DeepRelaxOptimizer, Predictor, relax_many
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.prediction.allowed_strain import RelaxCell
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import UNRELAXED
from deeprelax_ase.screening.options import RelaxOptions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "freedom.md"
START, END = "<!-- freedoms: made by python -m tests.freedoms -->", "<!-- end of freedoms -->"

#: Converged to that, so that ends can be held against ASE's.
FMAX = 0.002
FINISH = "bfgs"
CALCULATOR = "ase.calculators.emt:EMT"
MASK, PRESSURE = (1, 1, 0, 0, 0, 1), 20.0
MODEL = {"members": 1, "recycles": 2}


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
    "a rattled start": Freedom(centred, lower, rattle=0.05, flags=("--rattle", "0.05")),
}


@dataclass(frozen=True)
class Door:
    """A door, and whether a calculator finishes there."""

    open: Callable[[Freedom, bool], End]
    finishes: bool = False


@cache
def predictor(keep_symmetry: bool | None = None) -> Predictor:
    return Predictor(device="cpu", keep_symmetry=keep_symmetry, **MODEL)


def options(freedom: Freedom, finishes: bool) -> RelaxOptions:
    under = {"calculator": CALCULATOR, "finish": FINISH, "fmax": FMAX} if finishes else {}
    given = {"relax_cell": freedom.relax_cell, "keep_symmetry": freedom.keep_symmetry, "rattle": freedom.rattle}
    return RelaxOptions(device="cpu", max_odds_worse=None, **given, **under, **MODEL)


def of(made: Any) -> End:
    if isinstance(made, Prediction):
        return End(made.relaxed.as_given.positions, made.relaxed.as_given.cell)
    if isinstance(made, RelaxationResult):
        return refused(made.reason) if made.status in UNRELAXED else End(made.relaxed.positions, made.relaxed.cell)
    return refused(made) if isinstance(made, Exception) else End(made.positions, made.cell.array)


def by_predict(freedom: Freedom, finishes: bool) -> End:
    from deeprelax_ase.prediction.rattle import rattled

    atoms = rattled(freedom.make(), freedom.rattle)
    return of(predictor(freedom.keep_symmetry).predict(atoms, relax_cell=freedom.relax_cell))


def by_predict_many(freedom: Freedom, finishes: bool) -> End:
    from deeprelax_ase.prediction.rattle import rattled

    atoms = rattled(freedom.make(), freedom.rattle)
    many = predictor(freedom.keep_symmetry).predict_many([bulk("Cu"), atoms], relax_cell=freedom.relax_cell)
    return of(list(many)[1])


def by_relax_many(freedom: Freedom, finishes: bool) -> End:
    return of(next(iter(relax_many([freedom.make()], options(freedom, finishes), workers=0))))


def by_optimizer(freedom: Freedom, finishes: bool) -> End:
    from deeprelax_ase.prediction.rattle import rattled

    atoms = rattled(freedom.make(), freedom.rattle)
    if freedom.keep_symmetry:
        atoms.set_constraint(FixSymmetry(atoms, symprec=1e-3))
    atoms.calc = EMT() if finishes else None
    under = {"predictor": predictor(freedom.keep_symmetry), "logfile": None, "on_uncertain": "keep", "finish": "bfgs"}
    DeepRelaxOptimizer(atoms, relax_cell=freedom.relax_cell, **under).run(fmax=FMAX, steps=300)
    return of(atoms)


def command(freedom: Freedom, finishes: bool, folder: str, *words: str) -> str:
    """The output of a command of the command line."""
    from typer.testing import CliRunner

    from deeprelax_ase.cli import app

    write(f"{folder}/in.traj", freedom.make())
    model = [word for name, value in MODEL.items() for word in (f"--{name}", str(value))]
    under = ["-c", CALCULATOR, "--finish", FINISH, "--fmax", str(FMAX)] if finishes else ["--max-odds-worse", "1"]
    result = CliRunner().invoke(app, [words[0], f"{folder}/in.traj", *words[1:], *model, *under, *freedom.flags, "-q"])
    return "" if result.exit_code in (0, 1) else result.output


def by_relax(freedom: Freedom, finishes: bool) -> End:
    with tempfile.TemporaryDirectory() as folder:
        if told := command(freedom, finishes, folder, "relax", "-o", f"{folder}/out.traj", "--device", "cpu"):
            return refused(told)
        atoms = read(f"{folder}/out.traj")
        assert [c.todict() for c in atoms.constraints] == [c.todict() for c in freedom.make().constraints]
        return of(atoms)


def of_rows(table: Any) -> End:
    from deeprelax_ase.screening.rows import crystals_of

    (crystal,), (status,), (reason,) = crystals_of(table), *(table.column(n).to_pylist() for n in ("status", "reason"))
    return refused(reason) if status in UNRELAXED else End(crystal.positions, crystal.cell)


def by_screen(freedom: Freedom, finishes: bool) -> End:
    from deeprelax_ase.screening import Folder

    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out"
        if told := command(freedom, finishes, folder, "screen", "-o", out, "--workers", "0", "--device", "cpu"):
            return refused(told)
        (table,) = Folder(Path(out)).tables()
        return of_rows(table)


def by_jobflow(freedom: Freedom, finishes: bool) -> End:
    from jobflow import run_locally
    from pymatgen.io.ase import AseAtomsAdaptor

    from deeprelax_ase.screening import DeepRelaxMaker

    atoms = freedom.make()
    structure = AseAtomsAdaptor.get_structure(atoms)
    if atoms.constraints:  # pymatgen's adaptor knows FixAtoms alone
        free = np.ones((len(atoms), 3), dtype=bool)
        for constraint in atoms.constraints:
            free[constraint.index] = ~np.broadcast_to(getattr(constraint, "mask", np.ones(3, bool)), (1, 3))
        structure.add_site_property("selective_dynamics", free.tolist())
    job = DeepRelaxMaker(options=options(freedom, finishes)).make([structure])
    (document,) = run_locally(job, log=False, ensure_success=True)[job.uuid][1].output
    if document.status in UNRELAXED:
        return refused(document.reason)
    structure = document.structure  # pymatgen keeps fractional coordinates
    return End(structure.cart_coords, structure.lattice.matrix, rounding=1e-12)


def by_ray(freedom: Freedom, finishes: bool) -> End:
    import pyarrow as pa

    from deeprelax_ase.screening.ray_data import relax_dataset, structures_dataset

    rows = relax_dataset(structures_dataset([freedom.make()]), options=options(freedom, finishes), concurrency=1)
    return of_rows(pa.concat_tables(rows.iter_batches(batch_format="pyarrow", batch_size=None)))


ALONE = {
    "`Predictor.predict`": by_predict,
    "`Predictor.predict_many`": by_predict_many,
    "`relax_many`": by_relax_many,
    "`DeepRelaxOptimizer`": by_optimizer,
    "`deeprelax relax`": by_relax,
    "`deeprelax screen`": by_screen,
    "jobflow": by_jobflow,
    "Ray Data": by_ray,
}
DOORS = {name: Door(door) for name, door in ALONE.items()} | {
    f"{name}, calculator": Door(door, finishes=True)
    for name, door in ALONE.items()
    if door not in (by_predict, by_predict_many)
}


def pass_through(door: str, freedom: str) -> End:
    """Where the crystal ends, or why it is not taken."""
    try:
        return DOORS[door].open(FREEDOMS[freedom], DOORS[door].finishes)
    except (DeepRelaxError, ValueError) as error:
        return refused(error)


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


def table(asked: Sequence[str]) -> str:
    """The table, of doors by freedoms, by running the doors that are ``asked``; the others are as they were."""
    before = printed()
    rows = [["", *FREEDOMS], ["---"] * (1 + len(FREEDOMS))]
    for door in DOORS:
        run = not asked or any(name in door for name in asked)
        words = (word(name, pass_through(door, name)) if run else before[door, name] for name in FREEDOMS)
        rows.append([door, *words])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def printed() -> dict[tuple[str, str], str]:
    """The words of the page, by door and freedom."""
    lines = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], name): cell for row in cells[2:] for name, cell in zip(cells[0][1:], row[1:], strict=True)}


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    PAGE.write_text(f"{before}{START}\n\n{table(sys.argv[1:])}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
