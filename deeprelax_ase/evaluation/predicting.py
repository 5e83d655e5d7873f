"""Predictions of whole splits, kept in a file so that several benchmarks share one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.progress import track
from deeprelax_ase.uncertainty.calibration import ErrorFeatures


@dataclass(frozen=True, eq=False)
class Predicted:
    """What is kept of the predictions for n crystals.

    Attributes:
        crystals: the relaxed ones.
        uncertainty: (n,) Å, the global uncertainty.
        features: (n, 8) what tells of its error, nan for a model without them.
    """

    crystals: list[Crystal]
    uncertainty: np.ndarray
    features: np.ndarray

    def oxides(self) -> np.ndarray:
        """(n,) bool, which crystals hold oxygen."""
        return np.array([8 in crystal.numbers for crystal in self.crystals])

    def error_features(self, chosen: np.ndarray | slice = slice(None)) -> ErrorFeatures:
        """Those of the ``chosen`` crystals."""
        return ErrorFeatures(*self.features[chosen].T)


def predict(
    predictor: Predictor, crystals: Sequence[Crystal], cache: Path | None = None, *, atoms_per_batch: int | None = None
) -> Predicted:
    """Predictions for all ``crystals``, read from ``cache`` where it holds just these by the same model.

    Raises:
        RuntimeError: a crystal cannot be relaxed.
    """
    key = _key(predictor, crystals)
    if cache is not None and cache.exists():
        with np.load(cache) as kept:
            if str(kept["key"]) == key:
                return _predicted(crystals, kept["positions"], kept["cells"], kept["uncertainty"], kept["features"])
    results: list[Prediction] = []
    stream = predictor.predict_many(crystals, atoms_per_batch=atoms_per_batch)
    for number, result in enumerate(track(stream, "predicting", total=len(crystals))):
        if not isinstance(result, Prediction):
            raise RuntimeError(f"crystal {number} failed: {result}")
        results.append(result)
    positions = np.concatenate([r.relaxed.positions for r in results])
    cells = np.stack([r.relaxed.cell for r in results])
    uncertainty = np.array([r.uncertainty.total for r in results])
    features = np.array([_features(r) for r in results])
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, key=key, positions=positions, cells=cells, uncertainty=uncertainty, features=features)
    return _predicted(crystals, positions, cells, uncertainty, features)


def _key(predictor: Predictor, crystals: Sequence[Crystal]) -> str:
    """Differs wherever predictions may: by the weights, their use, the numbers' type, and the crystals."""
    digest = hashlib.sha256()
    for crystal in crystals:
        for values in (crystal.numbers, crystal.positions, crystal.cell, crystal.pbc):
            digest.update(values.tobytes())
    card = predictor.model.card
    used = {
        "weights": card.sha256,
        "members": len(predictor.model.networks),
        "level": card.level,
        "settings": str(predictor.settings),
        "dtype": str(predictor.dtype),
        "find_symmetry": predictor.find_symmetry,
        "keep_symmetry": predictor.keep_symmetry,
        "left": str(predictor.calibration if predictor.leave_within_error else None),
        "crystals": digest.hexdigest(),
    }
    return json.dumps(used)


def _features(prediction: Prediction) -> list[float]:
    names = [f.name for f in fields(ErrorFeatures)]
    return [np.nan if prediction.features is None else getattr(prediction.features, name) for name in names]


def _predicted(
    crystals: Sequence[Crystal], positions: np.ndarray, cells: np.ndarray, uncertainty: np.ndarray, features: np.ndarray
) -> Predicted:
    cuts = np.cumsum([len(c) for c in crystals])[:-1]
    split = np.split(positions, cuts)
    relaxed = [c.with_geometry(xyz, cell) for c, xyz, cell in zip(crystals, split, cells, strict=True)]
    return Predicted(relaxed, uncertainty, features)
