"""Predictions of whole splits, kept in a file so that several benchmarks share one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import StructureError
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.progress import track
from deeprelax_ase.uncertainty.calibration import ErrorFeatures


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions for n crystals, reduced to the parts that evaluation needs.

    Attributes:
        crystals: the relaxed ones.
        uncertainty: (n,) Å, the global uncertainty.
        features: (n, 10) what tells of its error, nan for a model without them.
    """

    crystals: list[Crystal]
    uncertainty: np.ndarray
    features: np.ndarray

    def take(self, index: np.ndarray) -> Predicted:
        """Take the predictions of the crystals with that ``index`` (m,)."""
        return Predicted([self.crystals[i] for i in index.tolist()], self.uncertainty[index], self.features[index])

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
    """Predictions for all ``crystals``, read from ``cache`` where it holds just these by the same model.

    Args:
        predictor: asked where they are not.
        crystals: n of them.
        cache: file.
        cell_kept: (n,) bool, which cells are kept; by default those of slabs alone.
        allow_refused: crystals that are refused stay as they are, with features that are no numbers.
        atoms_per_batch: see :meth:`Predictor.predict_many`.

    Raises:
        RuntimeError: a crystal cannot be relaxed.
    """
    kept_cells = np.zeros(len(crystals), dtype=bool) if cell_kept is None else cell_kept
    key = _key(predictor, crystals, kept_cells)
    if cache is not None and cache.exists():
        with np.load(cache) as kept:
            if str(kept["key"]) == key:
                return _predicted(crystals, kept["positions"], kept["cells"], kept["uncertainty"], kept["features"])
    made: dict[int, Prediction] = {}
    for chosen, options in ((np.flatnonzero(~kept_cells), {}), (np.flatnonzero(kept_cells), {"relax_cell": False})):
        if not len(chosen):
            continue
        given = [crystals[i] for i in chosen.tolist()]
        stream = predictor.predict_many(given, atoms_per_batch=atoms_per_batch, **options)
        for number, result in zip(chosen.tolist(), track(stream, "predicting", total=len(chosen)), strict=True):
            if isinstance(result, Prediction):
                made[number] = result
            elif not (allow_refused and isinstance(result, StructureError)):
                raise RuntimeError(f"crystal {number} failed: {result}")
    results = [made.get(number) for number in range(len(crystals))]
    ends = [c if r is None else r.relaxed for c, r in zip(crystals, results, strict=True)]
    positions, cells = np.concatenate([c.positions for c in ends]), np.stack([c.cell for c in ends])
    uncertainty = np.array([np.nan if r is None else r.uncertainty.total for r in results])
    features = np.array([_features(r) for r in results])
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, key=key, positions=positions, cells=cells, uncertainty=uncertainty, features=features)
    return _predicted(crystals, positions, cells, uncertainty, features)


def _key(predictor: Predictor, crystals: Sequence[Crystal], kept_cells: np.ndarray) -> str:
    """Digest everything that predictions depend on: the weights, their use, the numbers' type, crystals, kept cells."""
    digest = hashlib.sha256()
    for crystal in crystals:
        for values in (crystal.numbers, crystal.positions, crystal.cell, crystal.pbc):
            digest.update(values.tobytes())
    digest.update(np.flatnonzero(kept_cells).tobytes())
    card = predictor.model.card
    used = {
        "weights": card.sha256,
        "members": len(predictor.model.networks),
        "level": card.level,
        "settings": str(predictor.settings),
        "dtype": str(predictor.dtype),
        "keep_symmetry": predictor.keep_symmetry,
        "left": str(predictor.calibration if predictor.leave_within_error else None),
        "crystals": digest.hexdigest(),
    }
    return json.dumps(used)


def _features(prediction: Prediction | None) -> list[float]:
    names, features = [f.name for f in fields(ErrorFeatures)], None if prediction is None else prediction.features
    return [np.nan if features is None else getattr(features, name) for name in names]


def _predicted(
    crystals: Sequence[Crystal], positions: np.ndarray, cells: np.ndarray, uncertainty: np.ndarray, features: np.ndarray
) -> Predicted:
    cuts = np.cumsum([len(c) for c in crystals])[:-1]
    split = np.split(positions, cuts)
    relaxed = [c.with_geometry(xyz, cell) for c, xyz, cell in zip(crystals, split, cells, strict=True)]
    return Predicted(relaxed, uncertainty, features)
