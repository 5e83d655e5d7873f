"""The doors of the package: every way in which it takes structures, and the word that each says of one.

python benchmarks/doors.py [jobflow ...]

opens each of them, or those that are named, to all kinds of ``bad_inputs.py`` and writes ``results/doors.json``;
``make pages`` makes the table.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ase import Atoms
from ase.io import Trajectory
from bad_inputs import kinds

from deeprelax_ase import DeepRelaxOptimizer, Predictor
from deeprelax_ase.calculators.registry import get_calculator
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.prediction.judgement import judge
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.screening.options import RelaxOptions

RESULTS = Path(__file__).resolve().parent / "results" / "doors.json"

#: Where a structure cannot be handed in at all: the format, or pymatgen, does not hold it.
NO_WAY_IN = "no way in"

#: The potential of the doors that finish under one, and steps of that. Without M3GNet Lennard-Jones stands in.
CALCULATOR = "m3gnet" if os.environ.get("DEEPRELAX_M3GNET") else "ase.calculators.lj:LennardJones"
STEPS = 3


class Outcome(NamedTuple):
    """What a door says of a structure, and what it hands out."""

    status: str
    crystal: Crystal | None = None
    reason: str = ""


@dataclass(frozen=True)
class Doors:
    """The doors, all with the same model.

    Args:
        members, recycles: of the model; its own number by default.
    """

    members: int | None = None
    recycles: int | None = None

    @cached_property
    def options(self) -> RelaxOptions:
        """How all of them relax."""
        return RelaxOptions(device="cpu", members=self.members, recycles=self.recycles)

    @cached_property
    def predictor(self) -> Predictor:
        """What those ask that take a predictor."""
        return self.options.predictor()

    def open(self, name: str, structures: Sequence[Atoms]) -> list[Outcome]:
        """What the door ``name``, one of :data:`DOORS`, says of each of ``structures``."""
        return DOORS[name](self, structures)


def _made(made: Prediction | Exception) -> Outcome:
    judgement = judge(made)
    return Outcome(judgement.status, made.relaxed.as_given if isinstance(made, Prediction) else None, judgement.reason)


def predict(doors: Doors, structures: Sequence[Atoms]) -> list[Outcome]:
    """``Predictor.predict``"""
    outcomes = []
    for structure in structures:
        try:
            outcomes.append(_made(doors.predictor.predict(structure)))
        except DeepRelaxError as error:
            outcomes.append(_made(error))
    return outcomes


def predict_many(doors: Doors, structures: Sequence[Atoms]) -> list[Outcome]:
    """``Predictor.predict_many``"""
    return [_made(made) for made in doors.predictor.predict_many(structures)]


def relax_many(doors: Doors, structures: Sequence[Atoms], workers: int = 0) -> list[Outcome]:
    """``relax_many``"""
    from deeprelax_ase.screening import relax_many as relax

    return [_made(made) for made in relax(structures, doors.options, workers=workers)]


def optimizer(doors: Doors, structures: Sequence[Atoms], calculator: Callable[[], Any] = lambda: None) -> list[Outcome]:
    """``DeepRelaxOptimizer``"""
    outcomes = []
    for structure in structures:
        atoms = structure.copy()
        atoms.calc = calculator()
        try:
            with warnings.catch_warnings(action="ignore"):
                DeepRelaxOptimizer(atoms, logfile=None, predictor=doors.predictor).run(steps=STEPS)
            outcomes.append(_of_atoms(atoms))
        except Exception as error:
            if atoms.calc is None and not isinstance(error, DeepRelaxError):
                raise
            outcomes.append(_made(error))  # a calculator raises what it likes
    return outcomes


def optimizer_with_calculator(doors: Doors, structures: Sequence[Atoms]) -> list[Outcome]:
    """``DeepRelaxOptimizer``, calculator"""
    calculator = get_calculator(CALCULATOR)
    return optimizer(doors, structures, lambda: calculator)


def relax(doors: Doors, structures: Sequence[Atoms], *options: str) -> list[Outcome]:
    """``deeprelax relax``"""
    with tempfile.TemporaryDirectory() as folder:
        given = _written(structures, f"{folder}/in.traj")
        if any(given):
            _command(doors, "relax", f"{folder}/in.traj", "-o", f"{folder}/out.traj", *options)
            with Trajectory(f"{folder}/out.traj") as frames:
                told = iter([_of_atoms(atoms) for atoms in frames])
    return [next(told) if way else Outcome(NO_WAY_IN) for way in given]


def relax_with_calculator(doors: Doors, structures: Sequence[Atoms]) -> list[Outcome]:
    """``deeprelax relax --calculator``"""
    return relax(doors, structures, "--calculator", CALCULATOR, "--steps", str(STEPS))


def screen(doors: Doors, structures: Sequence[Atoms], workers: int = 0) -> list[Outcome]:
    """``deeprelax screen``"""
    from deeprelax_ase.screening import Folder

    with tempfile.TemporaryDirectory() as folder:
        given = _written(structures, f"{folder}/in.traj")
        if any(given):
            _command(doors, "screen", f"{folder}/in.traj", "-o", f"{folder}/out", "--workers", str(workers))
            told = iter([outcome for table in Folder(Path(folder) / "out").tables() for outcome in _of_rows(table)])
    return [next(told) if way else Outcome(NO_WAY_IN) for way in given]


def jobflow(doors: Doors, structures: Sequence[Atoms]) -> list[Outcome]:
    """jobflow"""
    from jobflow import run_locally

    from deeprelax_ase.screening import DeepRelaxMaker

    given = [_structure(atoms) for atoms in structures]
    job = DeepRelaxMaker(options=doors.options).make([structure for structure in given if structure is not None])
    documents = iter(run_locally(job, log=False, ensure_success=True)[job.uuid][1].output)
    outcomes = []
    for structure in given:
        if structure is None:
            outcomes.append(Outcome(NO_WAY_IN))
        else:
            made = next(documents)
            crystal = _crystal(made.structure.to_ase_atoms()) if made.structure.is_ordered else None
            outcomes.append(Outcome(made.status, crystal, made.reason or ""))
    return outcomes


def ray(doors: Doors, structures: Sequence[Atoms]) -> list[Outcome]:
    """Ray Data"""
    import pyarrow as pa

    from deeprelax_ase.screening.ray_data import relax_dataset, structures_dataset

    rows = relax_dataset(structures_dataset(structures), options=doors.options, concurrency=1).sort("index")
    return _of_rows(pa.concat_tables(rows.iter_batches(batch_format="pyarrow", batch_size=None)))


DOORS: dict[str, Callable[..., list[Outcome]]] = {
    str(door.__doc__): door
    for door in (
        *(predict, predict_many, relax_many, optimizer, relax, screen, jobflow, ray),
        *(optimizer_with_calculator, relax_with_calculator),
    )
}

#: Those that a calculator finishes: their words are others.
FINISHING = tuple(str(door.__doc__) for door in (optimizer_with_calculator, relax_with_calculator))

#: Those that work in this process, and at once.
NEAR = tuple(str(door.__doc__) for door in (predict, predict_many, relax_many, optimizer, screen))


def _command(doors: Doors, *words: str) -> None:
    from typer.testing import CliRunner

    from deeprelax_ase.cli import app

    chosen = [("--members", doors.members), ("--recycles", doors.recycles)]
    numbers = [str(word) for option in chosen if option[1] is not None for word in option]
    result = CliRunner().invoke(app, [*words, *numbers, "--device", "cpu", "--quiet"])
    if result.exit_code not in (0, 1) or not isinstance(result.exception, SystemExit | None):
        raise RuntimeError(f"deeprelax {words[0]} ends with {result.exit_code}: {result.output}") from result.exception


def _written(structures: Sequence[Atoms], path: str) -> list[bool]:
    """Write ``structures``; which of them the format can hold."""
    given = []
    with Trajectory(path, "w") as frames:
        for atoms in structures:
            try:
                with tempfile.TemporaryDirectory() as folder:
                    with Trajectory(f"{folder}/alone.traj", "w") as alone:
                        alone.write(atoms)
                    with Trajectory(f"{folder}/alone.traj") as alone:
                        alone[0]
            except Exception:  # whatever ASE raises
                given.append(False)
            else:
                frames.write(atoms)
                given.append(True)
    return given


def _structure(atoms: Atoms) -> Any:
    """As pymatgen has it, with the shares of sites that ASE's ``info`` tells of; None where it cannot be."""
    from pymatgen.io.ase import AseAtomsAdaptor

    try:
        with warnings.catch_warnings(action="ignore"):
            structure = AseAtomsAdaptor.get_structure(atoms)
        if atoms.constraints and "selective_dynamics" not in structure.site_properties:
            return None
        if atoms.info.get("occupancy") is not None:
            for site, fractions in atoms.info["occupancy"].items():
                structure[int(site)] = (
                    fractions if sum(fractions.values()) < 1 or len(fractions) > 1 else structure[int(site)].specie
                )
        return structure
    except Exception:  # whatever pymatgen raises
        return None


def _of_atoms(atoms: Atoms) -> Outcome:
    info = atoms.info
    status, _, reason = info["deeprelax_status"].partition(": ")
    return Outcome(status, _crystal(atoms), reason or info.get("deeprelax_reason", ""))


def _of_rows(table: Any) -> list[Outcome]:
    from deeprelax_ase.screening.rows import crystals_of

    words = zip(table.column("status").to_pylist(), crystals_of(table), table.column("reason").to_pylist(), strict=True)
    return [Outcome(status, crystal, reason or "") for status, crystal, reason in words]


def _crystal(atoms: Atoms) -> Crystal:
    return Crystal(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def words(doors: Doors, names: Sequence[str]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """What the doors ``names`` say: by kind the names of its variants, and the word for each, by door."""
    made = kinds()
    everything = [atoms for variants in made.values() for atoms in variants.values()]
    said = {name: iter([outcome.status for outcome in doors.open(name, everything)]) for name in names}
    return {
        kind: {"variants": list(variants), "doors": {name: [next(said[name]) for _ in variants] for name in names}}
        for kind, variants in made.items()
    }


if __name__ == "__main__":
    asked = [name for name, door in DOORS.items() if not sys.argv[1:] or door.__name__ in sys.argv[1:]]
    measured = words(Doors(), asked)
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for kind, row in measured.items():
        said = before.get(kind, {}).get("doors", {}) | row["doors"]
        row["doors"] = {name: said[name] for name in DOORS if name in said}
        asked_under = set(FINISHING) & set(asked)
        row["calculator"] = CALCULATOR if asked_under else before.get(kind, {}).get("calculator", CALCULATOR)
    RESULTS.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
