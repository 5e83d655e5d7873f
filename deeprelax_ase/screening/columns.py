"""Tables of plain crystals relaxed column by column: what takes the host least, and gives the rows that all others get.

A row becomes no object on its way: tables are cut into arrays, the network takes these, and columns of results are made
of what it returns. :mod:`deeprelax_ase.screening.table_relaxer` takes the rest row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from deeprelax_ase import __version__
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.graph.columns import CrystalColumns, plain, volumes
from deeprelax_ase.io.frame import StructureRef
from deeprelax_ase.io.plain import plain_frames
from deeprelax_ase.prediction.judgement import Judgement, TrustLimits, judge
from deeprelax_ase.prediction.predicted_batch import PredictedBatch
from deeprelax_ase.prediction.record import OF_ENERGY, OF_ERROR
from deeprelax_ase.prediction.result import schema
from deeprelax_ase.screening.rows import INPUT

_RESULT = schema()

#: Columns of an input that say that its row is not plain.
_EMPTY = ("pbc", "constraints", "error")


def read_plain(refs: Sequence[StructureRef], id_key: str | None) -> tuple[np.ndarray, pa.Table]:
    """Read the plain structures among ``refs``: their places, ascending, and a table of :data:`INPUT` of them."""
    frames = plain_frames(refs, id_key)
    if frames is None:
        return np.zeros(0, dtype=int), INPUT.empty_table()
    fine = plain(frames.numbers, frames.positions, frames.cells, frames.counts, range(1, 119))
    places, atoms = frames.places[fine], np.repeat(fine, frames.counts)
    columns = {
        "index": places,
        "id": [name for name, kept in zip(frames.names, fine.tolist(), strict=True) if kept],
        "source": [refs[place].source for place in places.tolist()],
        **_geometry(frames.numbers[atoms], frames.positions[atoms], frames.cells[fine], frames.counts[fine]),
    }
    return places, _table(columns, INPUT, len(places))


def plain_crystals(table: pa.Table, known: Sequence[int]) -> tuple[np.ndarray, CrystalColumns]:
    """The plain crystals of ``known`` elements among the rows of a ``table`` of :data:`INPUT`.

    Returns:
        (G,) their rows, ascending, and they.
    """
    nothing = np.zeros(0, dtype=int), CrystalColumns(*(np.zeros(0) for _ in range(4)))
    lists = [table.column(name).combine_chunks() for name in ("numbers", "positions", "cell")]
    counts, *lengths = (each.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) for each in lists)
    chosen = (counts > 0) & (lengths[0] == 3 * counts) & (lengths[1] == 9)
    for name in set(_EMPTY).intersection(table.column_names):
        chosen &= table.column(name).is_null().to_numpy(zero_copy_only=False)
    values = [(each if chosen.all() else each.filter(pa.array(chosen))).flatten() for each in lists]
    if not chosen.any() or any(each.null_count for each in values):
        return nothing
    numbers, positions, cells = (each.to_numpy(zero_copy_only=False) for each in values)
    positions, cells, counts = positions.reshape(-1, 3), cells.reshape(-1, 3, 3), counts[chosen]
    fine = plain(numbers, positions, cells, counts, known)
    atoms = np.repeat(fine, counts)
    crystals = CrystalColumns(numbers[atoms], positions[atoms], cells[fine], counts[fine])
    return np.flatnonzero(chosen)[fine], crystals


def in_order(tables: Sequence[pa.Table], rows: Sequence[np.ndarray]) -> pa.Table:
    """One table of parts whose ``rows`` have these places in it."""
    return pa.concat_tables(tables).take(np.argsort(np.concatenate(rows), kind="stable"))


def result_rows(made: PredictedBatch, limits: TrustLimits, *, skip: bool) -> pa.Table:
    """Rows of the columns of :class:`~deeprelax_ase.prediction.result.RelaxationResult`, one for each prediction.

    Args:
        made: of plain crystals.
        limits: of trusted predictions.
        skip: leave crystals as they were where predictions are uncertain.
    """
    crystals = made.crystals
    assert isinstance(crystals, CrystalColumns)
    failed = made.fails()
    judgements = [
        judge(_error(made, g) if fails else facts, limits)
        for g, (fails, facts) in enumerate(zip(failed.tolist(), made.facts(), strict=True))
    ]
    left = np.array([bool(why) for why in made.unchanged]) | (skip & np.array([j.uncertain for j in judgements]))
    kept = left | failed
    cells = np.where(kept[:, None, None], crystals.cells, made.cells)
    positions = np.where(np.repeat(kept, crystals.counts)[:, None], crystals.positions, made.positions)
    change = np.where(left, 0.0, volumes(made.cells) / volumes(crystals.cells) - 1)
    values: dict[str, Sequence[Any]] = {
        "uncertainty": made.total.tolist(),
        "unchanged": left.tolist(),
        "volume_change": change.tolist(),
        "seconds": [sum(made.timings.values())] * len(made),
    }
    if (errors := made.errors) is not None:
        values |= {name: [getattr(error, field) for error in errors] for name, field in OF_ERROR.items()}
    if (energies := made.energies) is not None:
        values |= {name: [e and getattr(e, field) for e in energies] for name, field in OF_ENERGY.items()}
    if failed.any():
        values = {name: _without(column, failed) for name, column in values.items()}
    told = {**_told(judgements), "model": [made.model] * len(made), "version": [__version__] * len(made)}
    geometry = _geometry(crystals.numbers, positions, cells, crystals.counts)
    return _table({**told, **geometry, **values}, _RESULT, len(made))


def _error(made: PredictedBatch, g: int) -> DeepRelaxError:
    error = made[g]
    assert isinstance(error, DeepRelaxError)
    return error


def _without(column: Sequence[Any], failed: np.ndarray) -> list[Any]:
    return [None if fails else value for value, fails in zip(column, failed.tolist(), strict=True)]


def _told(judgements: Sequence[Judgement]) -> dict[str, list[Any]]:
    return {"status": [j.status for j in judgements], "reason": [j.reason or None for j in judgements]}


def _geometry(numbers: np.ndarray, positions: np.ndarray, cells: np.ndarray, counts: np.ndarray) -> dict[str, pa.Array]:
    """The lists of a geometry's columns, cut by the ``counts`` (G,) of atoms."""
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    every = 9 * np.arange(len(counts) + 1, dtype=np.int32)
    return {
        "numbers": pa.ListArray.from_arrays(starts, pa.array(numbers.astype(np.uint8))),
        "positions": pa.ListArray.from_arrays(3 * starts, pa.array(positions.ravel())),
        "cell": pa.ListArray.from_arrays(every, pa.array(cells.ravel())),
    }


def _table(columns: dict[str, Any], form: pa.Schema, rows: int) -> pa.Table:
    """A table of ``form``: what ``columns`` do not hold is null."""
    arrays = []
    for field in form:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(rows, field.type))
        else:
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=form)
