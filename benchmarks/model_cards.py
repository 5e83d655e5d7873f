"""What the cards of the models tell: errors, coverage and failures by kind of crystal, and how often elements occur.

python benchmarks/model_cards.py pairs_universal.npz pairs_xmno.npz --model DeepRelax-PBE --every 4 \\
    --layers examples/monolayers.npz --write

Of the test crystals without DFT label every N-th is predicted, and stands for N; those with one, and those of a
chemistry that is rare in their file, are all predicted. ``--write`` keeps the figures in ``benchmarks/results`` and the
card beside the weights; ``make pages`` makes the cards anew of what was measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from model_card_page import write_card
from shared import RESULTS, options, read

from deeprelax_ase import Predictor
from deeprelax_ase.data import RelaxationPairs, concatenate, crystals_of, load_pairs
from deeprelax_ase.data.pairs import SPLITS, displacement_sizes
from deeprelax_ase.evaluation.cached_predictions import predict
from deeprelax_ase.evaluation.calibrate import labels_for
from deeprelax_ase.evaluation.groups import RARE, chemistry, element_shares
from deeprelax_ase.evaluation.metrics import crystal_errors, prediction_errors
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.models.registry import WEIGHTS

#: Chemistries of fewer crystals in a file's test split are all predicted.
RARE_CHEMISTRY = 100

#: Of fewer predicted crystals no errors are told.
FEWEST = 10

#: An element is in so many predicted crystals before its errors are told.
FEWEST_WITH_ELEMENT = 30

#: Upper bounds of the bins of the number of atoms, of the largest displacement of an atom (Å) and of the volume change.
ATOMS = (4, 8, 15, np.inf)
DISPLACEMENTS = (0.02, 0.1, 0.2, 0.5, np.inf)
VOLUMES = (0.05, 0.1, 0.2, 0.4, np.inf)

#: A prediction is further off than the start if its error is larger by this: Å, and of the volume.
MARGIN = 1e-3


@dataclass(frozen=True, eq=False)
class Found:
    """What is known of n predicted crystals.

    Attributes:
        pairs: the crystals.
        weights: (n,) how many crystals of the test split each stands for.
        before, after: errors (n,) of the unrelaxed and the predicted crystals, by name.
        within: (n,) bool by name, whether the errors are below their bounds; empty for a model without calibration.
        ood: (n,) bool, crystals unlike those that the calibration knows; all False likewise.
        universal: (n,) bool, crystals of the first file.
    """

    pairs: RelaxationPairs
    weights: np.ndarray
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    within: dict[str, np.ndarray]
    ood: np.ndarray
    universal: np.ndarray


def sample(pairs: RelaxationPairs, every: int) -> tuple[RelaxationPairs, np.ndarray]:
    """Every so many of the ``pairs`` without DFT label, all others, and how many each stands for."""
    whole = pairs.dft.clone()
    for mask in chemistry(pairs).values():
        if mask.sum() < RARE_CHEMISTRY:
            whole |= mask
    rest = (~whole).nonzero().squeeze(1)
    taken = whole.clone()
    taken[rest[::every]] = True
    weights = torch.where(whole, 1.0, len(rest) / max(len(rest[::every]), 1))
    return pairs.take(taken.nonzero().squeeze(1)), weights[taken].numpy()


def find(predictor: Predictor, files: list[Path], labels: str, every: int, cache: Path | None) -> Found:
    """Predict the test splits of the ``files``."""
    parts, weights, results, universal = [], [], [], []
    for number, file in enumerate(files):
        pairs, weight = sample(load_pairs(file, labels=labels).in_split("test"), every)
        results.append(predict(predictor, crystals_of(pairs, "initial"), cache, allow_refused=True))
        parts.append(pairs)
        weights.append(weight)
        universal += [number == 0] * len(pairs)
    pairs = concatenate(parts)
    made = [crystal_errors(part, result.crystals) for result, part in zip(results, parts, strict=True)]
    after = {name: np.concatenate([part[name] for part in made]) for name in made[0]}
    start = prediction_errors(pairs, pairs.fractional_initial, pairs.cell_initial)
    before = {name: values.numpy() for name, values in start.items()}
    within, ood = {}, np.zeros(len(pairs), dtype=bool)
    if (calibration := predictor.calibration) is not None:
        read = [error for result in results for error in calibration.read(result.error_features())]
        within = {
            "coordinates": after["coordinates"] <= [e.coordinates_bound for e in read],
            "relative_volume": after["relative_volume"] <= [e.volume_bound for e in read],
        }
        ood = np.array([e.ood for e in read])
    return Found(pairs, np.concatenate(weights), before, after, within, ood, np.array(universal))


def row(found: Found, chosen: np.ndarray) -> dict[str, Any]:
    """Weighted means over the ``chosen`` crystals; no more than their number where they are few."""
    weights = found.weights[chosen]
    result: dict[str, Any] = {"crystals": round(float(weights.sum())), "predicted": int(chosen.sum())}
    if result["predicted"] < FEWEST:
        return result

    def mean(values: np.ndarray) -> float:
        return round(float(np.average(values[chosen], weights=weights)), 5)

    for name in ("coordinates", "relative_volume"):
        before, after = found.before[name], found.after[name]
        result[name] = {"unrelaxed": mean(before), "predicted": mean(after)}
        result[name]["further_off"] = mean(after > before + MARGIN)
        spread = weights * (after[chosen] - np.average(after[chosen], weights=weights))
        result[name]["standard_error"] = round(float(np.sqrt((spread**2).sum()) / weights.sum()), 5)
        if name in found.within:
            result[name]["within_bound"] = mean(found.within[name])
    if found.within:
        result["ood"] = mean(found.ood)
    return result


def groups(found: Found, shares: torch.Tensor) -> dict[str, dict[str, np.ndarray]]:
    """Masks (n,) by kind of group and name; ``shares`` of the training crystals hold each element."""
    pairs, universal = found.pairs, found.universal
    dft = pairs.dft.numpy()
    change = (torch.linalg.det(pairs.cell_relaxed) / torch.linalg.det(pairs.cell_initial) - 1).abs().numpy()
    rare = np.zeros(len(pairs), dtype=bool)
    rare[pairs.batch[shares[pairs.numbers] < RARE].numpy()] = True
    return {
        "all": {"all": np.ones(len(pairs), dtype=bool)},
        "test set": {
            "universal, DFT-labelled": universal & dft,
            "universal, other labels": universal & ~dft,
            "X-Mn-O, DFT-labelled": ~universal & dft,
            "X-Mn-O, other labels": ~universal & ~dft,
        },
        "chemistry, universal": {name: mask.numpy() & universal for name, mask in chemistry(pairs).items()},
        "elements": {f"some in less than {RARE:.0%} of the training crystals": rare, "all in more": ~rare},
        "atoms in the cell": binned(pairs.counts.numpy(), ATOMS, "{:g}"),
        "largest displacement (Å)": binned(displacement_sizes(pairs).numpy(), DISPLACEMENTS, "{:g}"),
        "change of the volume": binned(change, VOLUMES, "{:.0%}"),
        **({"distribution": {"ood": found.ood, "inside": ~found.ood}} if found.within else {}),
    }


def binned(values: np.ndarray, bounds: tuple[float, ...], form: str) -> dict[str, np.ndarray]:
    """Masks (n,) of the values above each bound and up to the next one."""
    masks = {f"up to {form.format(bounds[0])}": values <= bounds[0]}
    for low, high in pairwise(bounds):
        name = f"over {form.format(low)}" + (f", up to {form.format(high)}" if np.isfinite(high) else "")
        masks[name] = (values > low) & (values <= high)
    return masks


class Trained(NamedTuple):
    """What a model has learnt from.

    Attributes:
        data: pairs of each split of each file, and how many of them DFT relaxed.
        every, labelled: (120,) number of the training crystals that hold each element, and of those that DFT relaxed.
    """

    data: dict[str, dict[str, Any]]
    every: torch.Tensor
    labelled: torch.Tensor

    @classmethod
    def of(cls, files: list[Path], labels: str) -> Trained:
        """Count the pairs of ``files``."""
        pairs = load_pairs(files, labels=labels).in_split("train")
        dft = pairs.take(pairs.dft.nonzero().squeeze(1))
        return cls(sizes(files, labels), counted(pairs), counted(dft))

    @classmethod
    def as_told(cls, before: dict[str, Any], files: list[Path], labels: str) -> Trained:
        """As a result ``before`` has it, with the validation and test pairs of ``files``."""
        data = {
            name: splits | {"train": before["data"][name]["train"]} for name, splits in sizes(files, labels).items()
        }
        counts = torch.zeros(2, 120, dtype=torch.long)
        for name, seen in before["elements"].items():
            counts[:, atomic_numbers[name]] = torch.tensor([seen["trained"], seen["trained_dft"]])
        return cls(data, *counts)

    @property
    def shares(self) -> torch.Tensor:
        """(120,) of the training crystals hold each element."""
        return self.every / sum(splits["train"]["pairs"] for splits in self.data.values())


def elements(found: Found, trained: Trained) -> dict[str, dict[str, Any]]:
    """For each element of the training crystals: how many hold it, how many of them DFT relaxed, and its errors."""
    every, labelled = trained.every, trained.labelled
    result = {}
    for number in every.nonzero().squeeze(1).tolist():
        holds = np.zeros(len(found.pairs), dtype=bool)
        holds[found.pairs.batch[found.pairs.numbers == number].numpy()] = True
        seen: dict[str, Any] = {"trained": int(every[number]), "trained_dft": int(labelled[number])}
        seen["tested"] = round(float(found.weights[holds].sum()))
        if holds.sum() >= FEWEST_WITH_ELEMENT:
            seen["coordinates"] = row(found, holds)["coordinates"]
        result[chemical_symbols[number]] = seen
    return result


def counted(pairs: RelaxationPairs) -> torch.Tensor:
    """(120,) number of the crystals of ``pairs`` that hold each element, by atomic number."""
    return (element_shares(pairs) * len(pairs)).round().long()


def sizes(files: list[Path], labels: str) -> dict[str, dict[str, Any]]:
    """Pairs of each split of each file, and how many of them DFT relaxed."""
    result = {}
    for file in files:
        pairs = load_pairs(file, labels=labels)
        parts = {split: pairs.in_split(split) for split in SPLITS}
        result[file.stem] = {split: {"pairs": len(p), "dft": int(p.dft.sum())} for split, p in parts.items()}
    return result


def measure(
    model: str,
    files: list[Path],
    layers: Path | None,
    every: int,
    cache: Path | None,
    *,
    also: list[Path],
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the card of ``model`` tells beyond its JSON and ``accuracy.py``."""
    predictor = Predictor(model)
    labels = labels_for(predictor.model.card.level)
    both = [*files, *also]
    trained = Trained.of(both, labels) if before is None else Trained.as_told(before, both, labels)
    found = find(predictor, files, labels, every, cache)
    named = groups(found, trained.shares)
    report = {
        "environment": environment(),
        "model": predictor.model_name,
        "sha256": predictor.model.card.sha256,
        "recycles": predictor.recycles,
        "labels": labels,
        "every": every,
        "margin": MARGIN,
        "data": trained.data,
        "groups": {kind: {name: row(found, m) for name, m in masks.items()} for kind, masks in named.items()},
        "elements": elements(found, trained),
    }
    if layers is not None:
        flat = find(predictor, [layers], "relaxed", 1, cache)
        report["layers"] = row(flat, np.ones(len(flat.pairs), dtype=bool))
    return report


def main() -> None:
    """Measure, print, and keep."""
    also = {"nargs": "+", "type": Path, "default": [], "help": "further pairs that it has learnt from"}
    layers = {"type": Path, "help": "npz file of pairs of layers, labelled by M3GNet"}
    write = {"action": "store_true", "help": "keep the figures, and make the card of them"}
    as_before = {
        "action": "store_true",
        "help": "training crystals as the result tells them that is there: not at hand",
    }
    files = {"help": "npz files of pairs: universal ones first, then X-Mn-O"}
    names = ("data", "--model", "--every", "--cache")
    arguments = options(
        __doc__, *names, data=files, also=also, layers=layers, as_before=as_before, write=write
    ).parse_args()
    given = arguments.data, arguments.layers, arguments.every, arguments.cache
    name = f"card-{arguments.model.removeprefix('DeepRelax-')}"
    before = read(RESULTS, name) if arguments.as_before else None
    report = measure(arguments.model, *given, also=arguments.also, before=before)
    print(json.dumps(report["groups"], indent=1))
    if arguments.write:
        write_json(RESULTS / f"{name}.json", report)
        write_card(arguments.model, WEIGHTS)


if __name__ == "__main__":
    main()
