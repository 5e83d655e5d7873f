"""A model's errors calibrated on the validation split, how that holds on the test split, and both in the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from deeprelax_ase.data import RelaxationPairs, concatenate, crystals_of, load_pairs
from deeprelax_ase.evaluation.cached_predictions import Predicted, expected, predict, steps_of
from deeprelax_ase.evaluation.groups import chemical_systems, crystal_groups, element_shares
from deeprelax_ase.evaluation.metrics import crystal_errors, geometry_of, prediction_errors, reliability
from deeprelax_ase.evaluation.novelty import fit_novelty_on
from deeprelax_ase.models.loading import save_novelty
from deeprelax_ase.models.model import Model
from deeprelax_ase.prediction.devices import device_of
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.uncertainty.calibration import Calibration
from deeprelax_ase.uncertainty.calibration_fit import fit_calibration
from deeprelax_ase.uncertainty.kinds import KINDS
from deeprelax_ase.uncertainty.worsening import ZERO, WorseningModel, fit_worsening

#: Fewer crystals make no group of their own.
_FEWEST = 10


def labels_for(level: str) -> str:
    """The labels of pairs that a model of this level of theory relaxes to."""
    return "m3gnet" if level == "M3GNet" else "relaxed"


def thinned(pairs: RelaxationPairs, every: int) -> RelaxationPairs:
    """Every so many of the ``pairs``, and all that DFT relaxed."""
    kept = pairs.dft.clone()
    kept[::every] = True
    return pairs.take(kept.nonzero().squeeze(1))


def spread(pairs: RelaxationPairs, most: int | None) -> RelaxationPairs:
    """Of each kind at most so many of the ``pairs``, evenly over their order; all of them for None."""
    if most is None:
        return pairs
    kept = []
    for kind in pairs.kind.unique():
        own = (pairs.kind == kind).nonzero().squeeze(1)
        kept.append(own[torch.linspace(0, len(own) - 1, min(most, len(own))).round().long()])
    return pairs.take(torch.cat(kept).sort().values)


def coverage(
    calibration: Calibration, predicted: Predicted, pairs: RelaxationPairs, groups: dict[str, np.ndarray]
) -> dict:
    """Compare the calibrated errors with the true ones, over all ``pairs`` and in each of the ``groups``.

    Crystals that the model would move by less than it errs are left alone, as by :class:`~deeprelax_ase.Predictor`.
    Volumes are those of cells that relax. Groups of fewer than ten crystals are left out: nine of ten could not be told
    there.
    """
    starts = crystals_of(pairs, "initial")
    read, left = expected(calibration, starts, predicted)
    crystals = [start if stays else end for start, end, stays in zip(starts, predicted.crystals, left, strict=True)]
    true = crystal_errors(pairs, crystals)
    laws = np.array([[e.coordinates, e.coordinates_bound, e.volume, e.volume_bound] for e in read], dtype=float).T
    told = {"coordinates": (true["coordinates"], *laws[:2]), "volume": (true["relative_volume"], *laws[2:])}
    ood = np.array([e.ood for e in read])
    report: dict[str, Any] = {}
    for name, chosen in {"all": np.ones(len(pairs), dtype=bool), **groups}.items():
        if chosen.sum() < _FEWEST:
            continue
        row: dict[str, Any] = {"crystals": int(chosen.sum()), "ood": float(ood[chosen].mean())}
        for quantity, values in told.items():
            known = chosen & np.isfinite(values[1])
            if known.sum() >= _FEWEST:
                found = reliability(*(column[known] for column in values))
                row |= {f"{quantity} {what}": value for what, value in found.items()}
        report[name] = row
    return report


class PredictedSplit(NamedTuple):
    """Predictions for one split of several files, without what was refused, their pairs, and masks (n,) of groups."""

    predicted: Predicted
    pairs: RelaxationPairs
    groups: dict[str, np.ndarray]


def predict_split(
    predictor: Predictor,
    files: Sequence[Path],
    split: str,
    *,
    thin: int = 1,
    each: int | None = None,
    cache: Path | None = None,
    labels: str | None = None,
) -> PredictedSplit:
    """Predict a split of all ``files``. ``cache`` is a folder; ``labels`` are those of the model's level by default.

    Every ``thin``-th crystal without a DFT label is taken, and at most ``each`` of each kind in a file.
    """
    level = labels or labels_for(predictor.model.card.level)
    parts, predicted = [], []
    found = [(file, spread(thinned(load_pairs(file, labels=level).in_split(split), thin), each)) for file in files]
    found = [(file, pairs) for file, pairs in found if len(pairs)]
    if not found:
        raise ValueError(f"there are no pairs in the split {split!r}: give more, or others")
    for _, pairs in found:
        crystals, fixed = crystals_of(pairs, "initial"), pairs.fixed_cell.numpy()
        made = predict(predictor, crystals, cache, cell_kept=fixed, allow_refused=True)
        admitted = np.flatnonzero(~np.isnan(made.uncertainty))
        predicted.append(made.take(admitted))
        parts.append(pairs.take(torch.from_numpy(admitted)))
    pairs = concatenate(parts)
    groups = {name: mask.numpy() for name, mask in crystal_groups(pairs, _shares(tuple(files), level)).items()}
    family = np.repeat([file.stem for file, _ in found], [len(part) for part in parts])
    groups |= {file.stem: family == file.stem for file in files}
    joined = _join(predicted)
    kinds = joined.features[:, -1]
    groups |= {f"kind: {name}": kinds == number for number, name in enumerate(KINDS)}
    return PredictedSplit(joined, pairs, groups | {"DFT-labelled": pairs.dft.numpy()})


@lru_cache(maxsize=1)
def _shares(files: tuple[Path, ...], labels: str) -> torch.Tensor:
    """Count the training crystals of ``files`` that hold each element, see :func:`element_shares`."""
    return element_shares(load_pairs(files, labels=labels).in_split("train"))


def calibrate_on(validation: PredictedSplit, *, recycles: int) -> Calibration:
    """The calibration under which the errors of the predictions for ``validation`` are most likely.

    Raises:
        ValueError: there are too few pairs.
    """
    predicted, pairs, _ = validation
    if len(pairs) < _FEWEST:
        raise ValueError(
            f"{len(pairs)} pairs for validation are too few for bounds that hold nine times in ten; {_FEWEST} are the "
            "least, some hundred are better. `deeprelax data convert --fractions` splits otherwise"
        )
    true = crystal_errors(pairs, predicted.crystals)
    return fit_calibration(
        predicted.error_features(),
        true["coordinates"],
        true["relative_volume"],
        recycles=recycles,
    )


def ends_further_off(predicted: Predicted, pairs: RelaxationPairs) -> np.ndarray:
    """(n,) bool, where predicted coordinates are further from the relaxed ones than the unrelaxed were."""
    ends = geometry_of(predicted.crystals)
    starts = pairs.fractional_initial, pairs.cell_initial
    errors = (prediction_errors(pairs, *geometry)["coordinates"].numpy() for geometry in (starts, ends))
    return next(errors) + ZERO < next(errors)


def odds_on(parts: Sequence[PredictedSplit]) -> WorseningModel:
    """The model of the odds to end further off under which what became of all ``parts`` is most likely."""
    predicted, pairs = _join([part.predicted for part in parts]), concatenate([part.pairs for part in parts])
    features, steps = predicted.error_features(), steps_of(crystals_of(pairs, "initial"), predicted)
    worse, systems = ends_further_off(predicted, pairs), chemical_systems(pairs).numpy()
    return fit_worsening(features.logarithms(), features.kinds(), steps, worse, systems)


class Calibrated(NamedTuple):
    """Result of :func:`calibrate` for one number of recycles.

    Attributes:
        calibration: for the card.
        coverage: how it holds, see :func:`coverage`, of ``validation`` and ``test``.
        without_odds: the reason why it has no odds to end further off; empty where it has them.
    """

    calibration: Calibration
    coverage: dict[str, dict[str, Any]]
    without_odds: str = ""


def uncalibrated(model: Model) -> Model:
    """The ``model`` without calibration and novelty, so that it leaves nothing as it is and flags nothing."""
    return replace(model, card=replace(model.card, calibration={}), novelty=None)


def calibrate(
    model: Model,
    files: Sequence[Path],
    *,
    recycles: int,
    odds: Sequence[Path] = (),
    device: str = "auto",
    thin: int = 1,
    each: int | None = None,
    cache: Path | None = None,
) -> Calibrated:
    """Calibrate a ``model`` on the validation pairs of all ``files``, and see how that holds on both splits.

    Args:
        model: its own calibration and novelty play no part.
        files: npz files of relaxation pairs.
        recycles: to calibrate for.
        odds: further files, of other minima than the model's, to fit the odds to end further off to.
        device: for the predictions.
        thin, each, cache: see :func:`predict_split`.

    Raises:
        ValueError: there are too few pairs.
    """
    predictor = Predictor(uncalibrated(model), device=device, recycles=recycles)
    options: dict[str, Any] = {"thin": thin, "each": each, "cache": cache}
    validation = predict_split(predictor, files, "validation", **options)
    calibration, why = calibrate_on(validation, recycles=recycles), ""
    further = [predict_split(predictor, [file], "validation", labels="relaxed", **options) for file in odds]
    try:
        calibration = replace(calibration, worsening=odds_on([validation, *further]))
    except ValueError as error:
        why = str(error)
    test = predict_split(predictor, files, "test", **options)
    held = {"validation": coverage(calibration, *validation), "test": coverage(calibration, *test)}
    return Calibrated(calibration, held, why)


def write_calibration(card_file: Path, model: Model, made: Mapping[int, Calibrated]) -> None:
    """Write the calibrations, by number of recycles, into the card of the ``model`` in place of earlier ones."""
    calibration = {str(recycles): found.calibration.to_dict() for recycles, found in made.items()}
    replace(model.card, calibration=calibration).write(card_file)


def write_novelty(
    card_file: Path,
    model: Model,
    files: Sequence[Path],
    *,
    odds: Sequence[Path] = (),
    crystals: int = 4000,
    device: str = "auto",
) -> None:
    """Fit what tells novelty to that many training ``crystals`` of all files, and write it beside the card.

    Raises:
        ValueError: there are no training pairs, or the network has no features that tell it.
    """
    if model.card.architecture == "DeepRelax":
        raise ValueError("the paper's network has no features that tell novelty")
    own = load_pairs(files, labels=labels_for(model.card.level))
    pairs = concatenate([own, *(load_pairs(file, labels="relaxed") for file in odds)])
    training = pairs.in_split("train")
    if not len(training):
        raise ValueError("there are no training pairs in these files")
    model.networks.to(device_of(device))
    novelty, fitted = fit_novelty_on(uncalibrated(model), training, pairs.in_split("validation"), crystals=crystals)
    save_novelty(card_file, novelty.tensors(), **fitted)


def _join(parts: Sequence[Predicted]) -> Predicted:
    return Predicted(
        [crystal for part in parts for crystal in part.crystals],
        np.concatenate([part.uncertainty for part in parts]),
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.energies for part in parts]),
    )
