"""Evaluation of a model on the relaxed crystals of a dataset, with a list of the pairs that could not be used."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeprelax_ase.data import LEVELS, PairDataset, crystals_of
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.evaluation.assessment import Assessment, assess
from deeprelax_ase.evaluation.results import environment
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.uncertainty.calibration import COVERAGE


def part_of(dataset: PairDataset, split: str, every: int = 1) -> PairDataset:
    """Every so many pairs of one split, or of ``all``.

    Raises:
        ValueError: there are none, or no such split.
    """
    if split not in (known := (*SPLITS, "all")):
        raise ValueError(f"Unknown {split=}, must be one of {known}")
    within = dataset if split == "all" else dataset.in_split(split)
    if not len(within):
        raise ValueError(f"there are no pairs in the split {split!r}; --split all takes every pair")
    return within.take(torch.arange(0, len(within), every))


@dataclass(frozen=True, eq=False)
class PredictedDataset:
    """Predictions for a dataset.

    Attributes:
        predictor: the one that made them.
        dataset: the n pairs that there are predictions for.
        predictions: n of them.
        left_out: reasons why other pairs are not among them, by name.
    """

    predictor: Predictor
    dataset: PairDataset
    predictions: list[Prediction]
    left_out: Mapping[str, str]

    @classmethod
    def of(
        cls, predictor: Predictor, dataset: PairDataset, *, advance: Callable[[], object] = lambda: None
    ) -> PredictedDataset:
        """Predict the unrelaxed crystals of the ``dataset``; ``advance`` is called after each.

        Cells that the pairs keep are kept.

        Raises:
            ValueError: the model can relax none of them.
        """
        predictions, kept = [], []
        left_out = {refused.name: refused.reason for refused in dataset.refused}
        crystals, fixed = crystals_of(dataset.pairs, "initial"), dataset.pairs.fixed_cell
        results: dict[int, Prediction | DeepRelaxError] = {}
        for chosen, relax_cell in ((~fixed, None), (fixed, False)):
            places = chosen.nonzero().squeeze(1).tolist()
            stream = predictor.predict_many([crystals[n] for n in places], relax_cell=relax_cell)
            for n, result in zip(places, stream, strict=True):
                advance()
                results[n] = result
        for n, result in sorted(results.items()):
            if isinstance(result, Prediction):
                predictions.append(result)
                kept.append(n)
            else:
                left_out[dataset.names[n]] = str(result)
        if not predictions:
            reason = left_out[dataset.names[0]]
            raise ValueError(f"{predictor.model_name} can relax none of the {len(dataset)} crystals: {reason}")
        return cls(predictor, dataset.take(torch.tensor(kept)), predictions, left_out)

    @property
    def levels(self) -> dict[str, int]:
        """Number of relaxed crystals that are minima of each level of theory."""
        return dict(Counter(LEVELS[level] for level in self.dataset.pairs.level.tolist()))

    def notes(self) -> list[str]:
        """Notes to the figures: pairs that are left out, and minima of another level than the model's."""
        said = []
        if self.left_out:
            name, reason = next(iter(self.left_out.items()))
            said.append(f"left out: {len(self.left_out)}, such as {name}: {reason}")
        card = self.predictor.model.card
        potential = card.level == "M3GNet"  # OAM's minima stand for PBE's
        foreign = sum(count for level, count in self.levels.items() if (level == "M3GNet") != potential)
        if foreign:
            said.append(
                f"{foreign} of {len(self.dataset)} relaxed crystals are minima of another level of theory than "
                f"{self.predictor.model_name}'s ({card.level_of_theory}): the errors include the difference"
            )
        return said

    def assess(self, *, match: bool = True, jobs: int = 1, advance: Callable[[], object] = lambda: None) -> Assessment:
        """The predictions against the relaxed crystals, see :func:`~deeprelax_ase.evaluation.assess`."""
        return assess(
            self.dataset.pairs,
            torch.from_numpy(np.concatenate([p.relaxed.fractional_positions for p in self.predictions])),
            torch.from_numpy(np.stack([p.relaxed.cell for p in self.predictions])),
            uncertainty=np.array([p.uncertainty.total for p in self.predictions]),
            match=match,
            jobs=jobs,
            advance=advance,
        )

    def metrics(self, assessment: Assessment) -> dict[str, dict[str, Any]]:
        """The summary of the ``assessment``; of calibrated models the share of crystals within bounds
        too, where they have some."""
        found = assessment.summary()
        read = [p.error for p in self.predictions if p.error is not None]
        if len(read) < len(self.predictions):
            return found
        bounds: dict[str, list[float | None]]
        bounds = {"coordinates": [e.coordinates_bound for e in read], "relative_volume": [e.volume_bound for e in read]}
        for name, bound in bounds.items():
            known = np.array([limit is not None for limit in bound])  # volumes of cells that are kept have none
            if known.any():
                below = assessment.predicted[name][known] <= np.array(bound, dtype=float)[known]
                found[f"{name}_coverage"] = {"predicted": float(below.mean()), "aimed": COVERAGE, "unit": ""}
        return found

    def about(self) -> dict[str, Any]:
        """Context of the figures: model, levels of theory, pairs that were left out, environment."""
        card = self.predictor.model.card
        model = {"name": card.name, "sha256": card.sha256, "level": card.level_of_theory}
        return {
            "model": model | {"recycles": self.predictor.recycles},
            "environment": environment() | {"device": str(self.predictor.device)},
            "levels": self.levels,
            "left_out": dict(self.left_out),
        }

    def write_crystals(self, file: Path, assessment: Assessment) -> None:
        """Write a CSV file with the metrics of each crystal, a line for each."""
        metrics = list(assessment.predicted)
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["name", *metrics, *(f"unrelaxed_{name}" for name in metrics), "uncertainty"])
            for n, (name, prediction) in enumerate(zip(self.dataset.names, self.predictions, strict=True)):
                sides = (side[metric][n] for side in (assessment.predicted, assessment.unrelaxed) for metric in metrics)
                writer.writerow([name, *(f"{v:.6g}" for v in sides), f"{prediction.uncertainty.total:.6g}"])
