"""Calibrate a model's errors on the validation split, write that into its card, and see how it holds on the test split.

``python -m deeprelax_ase.evaluation.calibrate DATA.npz... --model DeepRelax-PBE``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from deeprelax_ase.data import RelaxationPairs, concatenate, crystals_of, load_pairs
from deeprelax_ase.data.groups import crystal_groups, element_shares
from deeprelax_ase.evaluation.metrics import crystal_errors
from deeprelax_ase.evaluation.predicting import Predicted, predict
from deeprelax_ase.models.registry import card_file_of, load_model
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import within_error
from deeprelax_ase.uncertainty.calibration import COVERAGE, Calibration, fit_calibration

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


def coverage(
    calibration: Calibration, predicted: Predicted, pairs: RelaxationPairs, groups: dict[str, np.ndarray]
) -> dict:
    """How the calibrated errors compare with the true ones, over all ``pairs`` and in each of the ``groups``.

    Crystals that are settled are left as they are, as :class:`~deeprelax_ase.Predictor` does.
    Groups of fewer than ten crystals are left out: nine of ten could not be told there.
    """
    read = calibration.read(predicted.error_features(), predicted.oxides())
    crystals = [
        start if within_error(start, end, error) else end
        for start, end, error in zip(crystals_of(pairs, "initial"), predicted.crystals, read, strict=True)
    ]
    true = crystal_errors(pairs, crystals)
    columns = {
        "coordinates": (true["coordinates"], [e.coordinates for e in read], [e.coordinates_bound for e in read]),
        "volume": (true["relative_volume"], [e.volume for e in read], [e.volume_bound for e in read]),
    }
    ood = np.array([e.ood for e in read])
    report: dict[str, Any] = {}
    for name, chosen in {"all": np.ones(len(pairs), dtype=bool), **groups}.items():
        if chosen.sum() < _FEWEST:
            continue
        row: dict[str, float] = {"crystals": int(chosen.sum()), "ood": float(ood[chosen].mean())}
        for quantity, (error, expected, bound) in columns.items():
            row[f"{quantity} coverage"] = float((error <= np.array(bound))[chosen].mean())
            row[f"{quantity} error"] = float(error[chosen].mean())
            row[f"{quantity} expected"] = float(np.array(expected)[chosen].mean())
            row[f"{quantity} rank correlation"] = float(spearmanr(error[chosen], np.array(expected)[chosen]).statistic)
        report[name] = row
    return report


def main() -> None:
    """Fit, write the card, print and keep the coverage."""
    parser = _parser()
    arguments = parser.parse_args()
    if find_spec("crepes") is None:
        parser.error('crepes is not installed: pip install "deeprelax-ase[training]"')
    model = load_model(arguments.model)
    model = replace(model, card=replace(model.card, calibration={}))  # which may be of an older version
    predictor = Predictor(model, recycles=arguments.recycles)
    labels = labels_for(predictor.model.card.level)
    shares = element_shares(load_pairs(arguments.data, labels=labels).in_split("train"))

    def predictions(split: str) -> tuple[Predicted, RelaxationPairs, dict[str, np.ndarray]]:
        parts, predicted, family = [], [], []
        for file in arguments.data:
            pairs = load_pairs(file, labels=labels).in_split(split)
            pairs = thinned(pairs, arguments.thin)
            cache = arguments.cache and arguments.cache / f"{predictor.model_name}-{file.stem}-{split}.npz"
            predicted.append(predict(predictor, crystals_of(pairs, "initial"), cache))
            parts.append(pairs)
            family += [file.stem] * len(pairs)
        pairs = concatenate(parts)
        groups = {name: mask.numpy() for name, mask in crystal_groups(pairs, shares).items()}
        groups |= {file.stem: np.array(family) == file.stem for file in arguments.data}
        groups["DFT-labelled"] = pairs.dft.numpy()
        return _join(predicted), pairs, groups

    predicted, pairs, groups = predictions("validation")
    if len(pairs) < _FEWEST:
        parser.error(
            f"{len(pairs)} pairs for validation are too few for bounds that hold nine times in ten; {_FEWEST} are the "
            "least, some hundred are better. `deeprelax data convert --fractions` splits otherwise"
        )
    true = crystal_errors(pairs, predicted.crystals)
    calibration = fit_calibration(
        predicted.error_features(),
        true["coordinates"],
        true["relative_volume"],
        predicted.oxides(),
        recycles=predictor.recycles,
    )
    report = {"validation": coverage(calibration, predicted, pairs, groups)}
    report["test"] = coverage(calibration, *predictions("test"))
    for split, rows in report.items():
        if rows:  # there are none of fewer crystals than can be told about
            _show(split, rows)
    if arguments.write:
        replace(predictor.model.card, calibration=calibration.to_dict()).write(card_file_of(arguments.model))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _join(parts: Sequence[Predicted]) -> Predicted:
    return Predicted(
        [crystal for part in parts for crystal in part.crystals],
        np.concatenate([part.uncertainty for part in parts]),
        np.concatenate([part.features for part in parts]),
    )


def _show(split: str, rows: dict[str, dict[str, float]]) -> None:
    table = Table(title=f"{split}: errors below their {COVERAGE:.0%} bounds")
    columns = list(next(iter(rows.values())))
    for column in ("group", *columns):
        table.add_column(column, justify="left" if column == "group" else "right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.4g}" for column in columns))
    Console(width=200).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deeprelax_ase.evaluation.calibrate", description=__doc__)
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs")
    parser.add_argument("--model", default="DeepRelax-PBE", help="name, or path of a card (default %(default)s)")
    parser.add_argument("--recycles", type=int, help="of the network; the card's number by default")
    parser.add_argument("--thin", type=int, default=1, help="of those without DFT label take every N-th (default all)")
    parser.add_argument("--cache", type=Path, help="folder to keep predictions in")
    parser.add_argument("--write", action="store_true", help="write the calibration into the model's card")
    parser.add_argument("--json", type=Path, help="write the coverage here")
    return parser


if __name__ == "__main__":
    main()
