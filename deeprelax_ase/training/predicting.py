"""Predictions of whole splits, kept in a file so that several benchmarks share one run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from deeprelax_ase import Crystal, Prediction, Predictor
from deeprelax_ase.calibration import ErrorSigns
from deeprelax_ase.progress import track


@dataclass(frozen=True, eq=False)
class Predicted:
    """What is kept of the predictions for n crystals.

    Attributes:
        crystals: the relaxed ones.
        uncertainty: (n,) Å, the global uncertainty.
        signs: (n, 8) the signs of error, nan for a model without them.
    """

    crystals: list[Crystal]
    uncertainty: np.ndarray
    signs: np.ndarray

    def oxides(self) -> np.ndarray:
        """(n,) bool, which crystals hold oxygen."""
        return np.array([8 in crystal.numbers for crystal in self.crystals])

    def error_signs(self, chosen: np.ndarray | slice = slice(None)) -> ErrorSigns:
        """Those of the ``chosen`` crystals."""
        return ErrorSigns(*self.signs[chosen].T)


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
                return _predicted(crystals, kept["positions"], kept["cells"], kept["uncertainty"], kept["signs"])
    results: list[Prediction] = []
    stream = predictor.predict_many(crystals, atoms_per_batch=atoms_per_batch)
    for number, result in enumerate(track(stream, "predicting", total=len(crystals))):
        if not isinstance(result, Prediction):
            raise RuntimeError(f"crystal {number} failed: {result}")
        results.append(result)
    positions = np.concatenate([r.relaxed.positions for r in results])
    cells = np.stack([r.relaxed.cell for r in results])
    uncertainty = np.array([r.uncertainty.total for r in results])
    signs = np.array([_signs(r) for r in results])
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, key=key, positions=positions, cells=cells, uncertainty=uncertainty, signs=signs)
    return _predicted(crystals, positions, cells, uncertainty, signs)


def _key(predictor: Predictor, crystals: Sequence[Crystal]) -> str:
    """Differs wherever predictions may: by the weights, their use, and the crystals."""
    digest = hashlib.sha256()
    for crystal in crystals:
        for values in (crystal.numbers, crystal.positions, crystal.cell):
            digest.update(values.tobytes())
    card = predictor.model.card
    size = len(predictor.model.networks)
    left = predictor.calibration if predictor.leave_settled else None
    return f"{left} {card.sha256} {size} {card.level} {predictor.passes} {predictor.keep_symmetry} {digest.hexdigest()}"


def _signs(prediction: Prediction) -> list[float]:
    names = [f.name for f in fields(ErrorSigns)]
    return [np.nan if prediction.signs is None else getattr(prediction.signs, name) for name in names]


def _predicted(
    crystals: Sequence[Crystal], positions: np.ndarray, cells: np.ndarray, uncertainty: np.ndarray, signs: np.ndarray
) -> Predicted:
    cuts = np.cumsum([len(c) for c in crystals])[:-1]
    split = np.split(positions, cuts)
    relaxed = [c.with_geometry(xyz, cell) for c, xyz, cell in zip(crystals, split, cells, strict=True)]
    return Predicted(relaxed, uncertainty, signs)
