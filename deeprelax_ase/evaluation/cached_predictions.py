"""Predictions of whole splits, kept in a folder so that all benchmarks share one run, wherever it was made."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import StructureError
from deeprelax_ase.evaluation.metrics import geometry_of
from deeprelax_ase.io.placing import placed
from deeprelax_ase.prediction.expected_errors import energy_law_of
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.unchanged import why_unchanged
from deeprelax_ase.progress import track
from deeprelax_ase.uncertainty.calibration import CalibratedError, Calibration, ErrorFeatures
from deeprelax_ase.uncertainty.features import step_sizes
from deeprelax_ase.uncertainty.kinds import CELL_KEPT
from deeprelax_ase.uncertainty.relaxed_energy import EnergyLaw

#: Å. Crystals that differ by less are one: matrix products round differently from machine to machine.
SAME = 1e-6

#: Columns of rows: each row of a column is an array of one dimension or more, of any length.
Columns = dict[str, list[np.ndarray]]

#: Ending of the names of arrays that say how long each row of a column is.
_LENGTHS = " lengths"


def crystal_key(crystal: Crystal, *more: object) -> str:
    """Digest the ``crystal``, to :data:`SAME`, and whatever ``more`` a row depends on."""
    digest = hashlib.sha256(str(more).encode())
    digest.update(crystal.numbers.tobytes())
    digest.update(bytes(crystal.pbc))
    for lengths in (crystal.positions, crystal.cell):
        digest.update(np.rint(lengths / SAME).astype(np.int64).tobytes())
    return digest.hexdigest()[:32]


def kept_rows(
    file: Path | None, keys: Sequence[str], make: Callable[[list[int]], Mapping[str, Sequence[np.ndarray]]]
) -> Columns:
    """The rows of n ``keys``, in their order.

    Args:
        file: npz file to keep them in; made where it is not there. None to keep nothing.
        keys: of the rows.
        make: makes the rows of the keys at these places, a list for each column.
    """
    kept = _read(file) if file is not None and file.exists() else {}
    known = {str(key): row for row, (key,) in enumerate(kept.pop("keys", []))}
    missing = list({keys[n]: n for n in reversed(range(len(keys))) if keys[n] not in known}.values())[::-1]
    if missing:
        for name, rows in make(missing).items():
            kept.setdefault(name, []).extend(rows)
        known |= {keys[n]: row for row, n in enumerate(missing, len(known))}
        if file is not None:
            _write(file, kept | {"keys": [np.array([key]) for key in known]})
    return {name: [rows[known[key]] for key in keys] for name, rows in kept.items()}


def _read(file: Path) -> Columns:
    with np.load(file, allow_pickle=False) as arrays:
        names = [name for name in arrays.files if not name.endswith(_LENGTHS)]
        return {name: np.split(arrays[name], np.cumsum(arrays[name + _LENGTHS])[:-1]) for name in names}


def _write(file: Path, columns: Columns) -> None:
    arrays: dict[str, Any] = {name: np.concatenate(rows) for name, rows in columns.items()}
    arrays |= {name + _LENGTHS: np.array([len(row) for row in rows]) for name, rows in columns.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with placed(file) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions for n crystals, reduced to the parts that evaluation needs.

    Attributes:
        crystals: the relaxed ones.
        uncertainty: (n,) Å, the global uncertainty; nan for crystals that are refused, which stay as they are.
        features: (n, 10) what tells of its error, nan for a model without them.
        energies: (n, 2) eV/atom of the relaxed crystals, and their Laplace scales; nan where none are told.
    """

    crystals: list[Crystal]
    uncertainty: np.ndarray
    features: np.ndarray
    energies: np.ndarray

    def take(self, index: np.ndarray) -> Predicted:
        """Take the predictions of the crystals with that ``index`` (m,)."""
        crystals = [self.crystals[i] for i in index.tolist()]
        return Predicted(crystals, self.uncertainty[index], self.features[index], self.energies[index])

    def error_features(self, chosen: np.ndarray | slice = slice(None)) -> ErrorFeatures:
        """Return the error features of the ``chosen`` crystals."""
        return ErrorFeatures(*self.features[chosen].T)


def predict(
    predictor: Predictor,
    crystals: Sequence[Crystal],
    cache: Path | None = None,
    *,
    cell_kept: np.ndarray | None = None,
    allow_refused: bool = False,
    atoms_per_batch: int | None = None,
) -> Predicted:
    """Predictions for all ``crystals``, read from ``cache`` where it holds them by the same model.

    Args:
        predictor: asked where they are not.
        crystals: n of them.
        cache: folder, with a file for each model and how it is used. Steps are kept to 1e-7 of them.
        cell_kept: (n,) bool, which cells are kept; by default those of slabs alone.
        allow_refused: crystals that are refused stay as they are, with features that are no numbers.
        atoms_per_batch: see :meth:`Predictor.predict_many`.

    Raises:
        RuntimeError: a crystal cannot be relaxed.
    """
    kept_cells = np.zeros(len(crystals), dtype=bool) if cell_kept is None else cell_kept
    keys = [crystal_key(crystal, kept) for crystal, kept in zip(crystals, kept_cells.tolist(), strict=True)]
    made = partial(_made, predictor, crystals, kept_cells, allow_refused, atoms_per_batch)
    rows = kept_rows(cache and cache / _file_name(predictor), keys, made)
    columns = {name: np.concatenate(rows[name]) for name in ("uncertainty", "features", "energies")}
    if not allow_refused and np.isnan(columns["uncertainty"]).any():
        raise RuntimeError(f"crystal {np.isnan(columns['uncertainty']).argmax()} failed when {cache} was made")
    ends = [
        c.with_geometry(c.positions + moves, cell)
        for c, moves, (cell,) in zip(crystals, rows["moves"], rows["cells"], strict=True)
    ]
    found = Predicted(ends, **columns)
    if predictor.leave_within_error and predictor.calibration is not None:
        told = np.flatnonzero(~np.isnan(found.uncertainty))
        starts = [crystals[n] for n in told.tolist()]
        reasons = expected(predictor.calibration, starts, found.take(told))[1]
        for n, start, reason in zip(told.tolist(), starts, reasons, strict=True):
            found.crystals[n] = start if reason else ends[n]
    return found


def expected(
    calibration: Calibration, starts: Sequence[Crystal], predicted: Predicted
) -> tuple[list[CalibratedError], list[str]]:
    """The errors that are expected of predictions for n ``starts``, and the reasons to leave crystals as they are.

    Args:
        calibration: of the model.
        starts: none that is refused.
        predicted: before any is left as it is.
    """
    steps, features = steps_of(starts, predicted), predicted.error_features()
    kept = np.isin(features.kinds(), CELL_KEPT)
    errors = calibration.read(features, steps, cell_kept=kept.tolist())
    before, after = (np.stack([crystal.cell for crystal in each]) for each in (starts, predicted.crystals))
    return errors, why_unchanged(before, after, errors, steps)


def steps_of(starts: Sequence[Crystal], predicted: Predicted) -> np.ndarray:
    """(n,) Å, how far crystals are moved, see :func:`step_sizes`; arguments as of :func:`expected`."""
    initial, (relaxed, cell) = geometry_of(starts)[0], geometry_of(predicted.crystals)
    batch = torch.repeat_interleave(torch.tensor([len(crystal) for crystal in starts]))
    return step_sizes(initial, relaxed, cell, batch)


def _made(
    predictor: Predictor,
    crystals: Sequence[Crystal],
    kept_cells: np.ndarray,
    allow_refused: bool,
    atoms_per_batch: int | None,
    places: list[int],
) -> Columns:
    """Rows of the crystals at these ``places``, none of them left as it is."""
    predictor = copy.copy(predictor)
    predictor.leave_within_error = False
    made: dict[int, Prediction] = {}
    given = np.array(places)
    for chosen, options in ((given[~kept_cells[given]], {}), (given[kept_cells[given]], {"relax_cell": False})):
        if not len(chosen):
            continue
        some = [crystals[i] for i in chosen.tolist()]
        stream = predictor.predict_many(some, atoms_per_batch=atoms_per_batch, bonds=False, **options)
        for number, result in zip(chosen.tolist(), track(stream, "predicting", total=len(chosen)), strict=True):
            if isinstance(result, Prediction):
                made[number] = result
            elif not (allow_refused and isinstance(result, StructureError)):
                raise RuntimeError(f"crystal {number} failed: {result}")
    results = [(crystals[number], made.get(number)) for number in places]
    ends = [(c, c if r is None else r.relaxed) for c, r in results]
    law = energy_law_of(predictor.model.card)
    return {
        "moves": [(end.positions - start.positions).astype(np.float32) for start, end in ends],
        "cells": [end.cell[None] for _, end in ends],
        "uncertainty": [np.array([np.nan if r is None else r.uncertainty.total]) for _, r in results],
        "features": [np.array([_features(r)], dtype=np.float32) for _, r in results],
        "energies": [np.array([_energy(r, law)], dtype=np.float32) for _, r in results],
    }


def _file_name(predictor: Predictor) -> str:
    """Name of the file of all predictions with these weights, used like this, in this type of numbers."""
    card = predictor.model.card
    used = {
        "weights": card.sha256,
        "energy": card.energy.get("sha256"),
        "members": len(predictor.model.networks),
        "level": card.level,
        "settings": str(predictor.settings),
        "dtype": str(predictor.dtype),
        "keep_symmetry": predictor.keep_symmetry,
    }
    return f"{predictor.model_name}-{hashlib.sha256(json.dumps(used).encode()).hexdigest()[:8]}.npz"


def _features(prediction: Prediction | None) -> list[float]:
    names, features = [f.name for f in fields(ErrorFeatures)], None if prediction is None else prediction.features
    return [np.nan if features is None else getattr(features, name) for name in names]


def _energy(prediction: Prediction | None, law: EnergyLaw | None) -> tuple[float, float]:
    if law is None or prediction is None or prediction.energy is None or prediction.features is None:
        return np.nan, np.nan
    factor = law.bounds(np.ones(1), np.atleast_1d(prediction.features.kinds()))[0]
    return prediction.energy.energy, prediction.energy.bound / factor
