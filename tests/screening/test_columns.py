"""Plain crystals go through a screening column by column, and get the rows that they would get one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from deeprelax_ase.errors import BrokenStructureError, DeepRelaxError
from deeprelax_ase.graph.columns import CrystalColumns, plain, volumes
from deeprelax_ase.prediction.judgement import judge
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT, crystals_of, structures_table
from deeprelax_ase.screening.table_relaxer import TableRelaxer
from tests.crystals import CRYSTALS
from tests.screening.conftest import layers, some_crystals


def all_kinds() -> list[Atoms | DeepRelaxError]:
    """Plain crystals, and among them whatever is not plain, or gets no prediction."""
    held, collided, molecule = bulk("MgO", "rocksalt", a=4.3), bulk("Cu", cubic=True), bulk("Cu")
    held.set_constraint(FixAtoms([0]))
    collided.positions[1] = collided.positions[0] + 0.9
    molecule = Atoms("CO", [[0, 0, 0], [0, 0, 1.13]], cell=[14] * 3, pbc=True)
    unread = BrokenStructureError("it cannot be read")
    unknown = Atoms("Po", cell=[3.3] * 3, pbc=True)
    crystals = [crystal.to_atoms() for crystal in CRYSTALS.values()]
    return [held, *crystals, layers()[0], molecule, *some_crystals(2), collided, unread, unknown]


def one_by_one(table: pa.Table, options: RelaxOptions, predictor: Predictor) -> list[dict]:
    """The rows that :meth:`Predictor.predict_many` and the records give."""
    crystals, errors = crystals_of(table), table.column("error").to_pylist()
    given = [crystal for crystal, error in zip(crystals, errors, strict=True) if error is None]
    made = iter(predictor.predict_many(given, relax_cell=options.relax_cell, bonds=False))
    rows = []
    for name, crystal, error, refused in zip(
        table.select(["index", "id", "source"]).to_pylist(),
        *(crystals, errors, table.column("refused").to_pylist()),
        strict=True,
    ):
        if error is not None:
            result = RelaxationResult.unrelaxed(error, crystal, status="refused" if refused else "failed")
        elif isinstance(prediction := next(made), DeepRelaxError):
            result = RelaxationResult.unrelaxed(prediction, crystal, model=predictor.model_name)
        else:
            judgement = judge(prediction, options.limits())
            result = RelaxationResult.of(prediction, judgement, skip=options.on_uncertain == "skip")
        rows.append({**name, **result.columns(), "seconds": None})
    return pa.Table.from_pylist(rows, schema=OUTPUT).to_pylist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"on_uncertain": "skip", "max_error": 0.02},
        {"relax_cell": False},
        pytest.param({"keep_symmetry": False, "one_shot": "fast"}, marks=pytest.mark.slow),
        {"model": "DeepRelax-PBE-v0"},
    ],
    ids=["default", "skip", "fixed cell", "fast", "by distances"],
)
def test_rows_are_those_of_predictions_one_by_one(changes: dict) -> None:
    options = replace(RelaxOptions(device="cpu"), **changes)
    relaxer = TableRelaxer(options)
    table = structures_table(all_kinds(), ids=[f"crystal {n}" for n in range(len(all_kinds()))])
    made = relaxer(table)
    assert made.schema == OUTPUT
    assert set(relaxer.seconds) == {"graph", "network", "geometry"}
    rows = made.to_pylist()
    assert {"refused", "failed"} < {row["status"] for row in rows}
    for row, alone in zip(rows, one_by_one(table, options, relaxer.predictor), strict=True):
        assert (row.pop("seconds") is None) == (row["uncertainty"] is None)
        del alone["seconds"]
        for name, value in alone.items():  # batches are others, so that the last bits are
            close = isinstance(value, float) or (name in ("positions", "cell") and value)
            assert row[name] == (pytest.approx(value, rel=1e-3, abs=2e-5) if close else value), name


def columns(crystals: list[Atoms]) -> CrystalColumns:
    cells = np.stack([atoms.cell.array for atoms in crystals])
    numbers, positions = (
        np.concatenate(each) for each in zip(*((a.numbers, a.positions) for a in crystals), strict=True)
    )
    return CrystalColumns(numbers, positions, cells, np.array([len(atoms) for atoms in crystals]))


def test_columns_are_a_sequence_of_crystals() -> None:
    given = [crystal.to_atoms() for crystal in CRYSTALS.values()]
    made = columns(given)
    assert [len(crystal) for crystal in made] == [len(atoms) for atoms in given]
    np.testing.assert_array_equal(made[-1].positions, given[-1].positions)
    np.testing.assert_array_equal(made[2:4][1].cell, given[3].cell.array)
    np.testing.assert_array_equal(volumes(made.cells), [crystal.volume for crystal in made])
    with pytest.raises(IndexError):
        made[len(given)]


@pytest.mark.parametrize("atoms", [1, 5, 8, 100])
def test_parts_hold_all_crystals_in_order(atoms: int) -> None:
    made = columns([crystal.to_atoms() for crystal in CRYSTALS.values()])
    parts = made.parts(atoms)
    assert [len(c) for part in parts for c in part] == made.counts.tolist()
    assert all(part.counts.sum() <= atoms or len(part) == 1 for part in parts)
    assert all(part.counts.sum() + after.counts[0] > atoms for part, after in pairwise(parts))


def test_what_is_plain() -> None:
    """Crystals that validation would refuse, or of other elements, are not."""
    fine, far, lost, flat, other = (bulk("Cu", cubic=True) for _ in range(5))
    far.positions[0, 0], lost.positions[1, 2], other.numbers[:] = 2e6, np.nan, 94
    flat.set_cell([[1, 0, 0], [0, 1, 0], [1, 1, 1e-6]])
    made = columns([fine, far, lost, flat, other])
    found = plain(made.numbers, made.positions, made.cells, made.counts, [29])
    assert found.tolist() == [True, False, False, False, False]
    assert plain(made.numbers, made.positions, made.cells, made.counts, [29, 94]).tolist()[-1]
