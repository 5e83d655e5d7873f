"""What people fix, through every door.

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
from typing import Any

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixSymmetry
from ase.io import read, write

from deeprelax_ase import DeepRelaxOptimizer, Predictor, relax_many
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import UNRELAXED
from deeprelax_ase.screening.options import RelaxOptions
from tests.what_is_fixed import FMAX, FREEDOMS, End, Freedom, refused, word

PAGE = Path(__file__).resolve().parents[1] / "docs" / "freedom.md"
START, END = "<!-- freedoms: made by python -m tests.freedoms -->", "<!-- end of freedoms -->"

FINISH = "bfgs"
CALCULATOR = "ase.calculators.emt:EMT"
MODEL = {"members": 1, "recycles": 2}


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
