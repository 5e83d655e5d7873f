"""Transfer learning to a family that a network has not seen: errors before and after, and whether the bounds hold.

deeprelax train examples/training/shipped.yaml --set 'data.sources=[pairs_universal.npz]' --set out=base \\
    --set members=1 --set training.seconds=90
python benchmarks/transfer.py pairs_universal.npz pairs_xmno.npz --base base/member0/weights.safetensors

The base network, trained on the first file alone, goes on with a few pairs of the second. Bounds are calibrated on
the validation split of the first file, and anew on that of the second; the share of errors below them is counted on the
test split of the second. X-Mn-O is split by prototype: its test split shares formulas with training.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from deeprelax_ase import Predictor
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.groups import crystal_groups, element_shares
from deeprelax_ase.evaluation.calibrate import coverage, thinned, true_errors
from deeprelax_ase.evaluation.environment import environment
from deeprelax_ase.evaluation.predicting import Predicted, predict
from deeprelax_ase.models.registry import load_model, save_model
from deeprelax_ase.nn import DeepRelaxE3
from deeprelax_ase.training import train
from deeprelax_ase.training.export import read_member
from deeprelax_ase.training.presets import PairSettings, departing, training_pairs
from deeprelax_ase.uncertainty.calibration import Calibration, fit_calibration

#: How fine-tuning departs from how the shipped models are trained.
CHANGES = {
    "learning_rate": 5e-4,
    "atoms_per_batch": 400,
    "average_decay": 0.98,
    "perturbed": 0.15,
    "interpolated": 0.2,
    "relaxed": 0.05,
}


def fine_tuned(base: Path, file: Path, pairs: int, steps: int, seed: int, out: Path) -> DeepRelaxE3:
    """The network in ``base``, trained on with so many of the ``pairs`` in ``file``."""
    known = training_pairs([file], PairSettings(dft_copies=1, borrowed=0.0))
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    _, settings, _ = departing(CHANGES)
    settings = replace(settings, max_steps=steps, seed=seed)
    network = train(known.take(order[:pairs]), read_member(base).config, settings, out, initial=base)
    assert isinstance(network, DeepRelaxE3)
    return network


def predictions(network: DeepRelaxE3, pairs: RelaxationPairs, recycles: int, folder: Path) -> Predicted:
    """What ``network`` alone predicts."""
    card = load_model().card
    about = {name: getattr(card, name) for name in ("level_of_theory", "training_data", "split", "elements")}
    save_model([network], folder, "network", description="", level="PBE", **about)
    predictor = Predictor(folder / "network.json", recycles=recycles, device="cpu")
    return predict(predictor, crystals_of(pairs, "initial"), atoms_per_batch=60)


def calibrated(predicted: Predicted, pairs: RelaxationPairs, recycles: int) -> Calibration:
    """Bounds that hold for these predictions."""
    true = true_errors(predicted, pairs)
    volumes = true["relative_volume"]
    return fit_calibration(
        predicted.error_features(), true["coordinates"], volumes, predicted.oxides(), recycles=recycles
    )


def main() -> None:
    """Fine-tune, predict, calibrate, print."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(arguments.threads)
    known, new = arguments.data
    shares = element_shares(load_pairs([known, new]).in_split("train"))
    at_home = thinned(load_pairs(known).in_split("validation"), arguments.thin)
    validation, test = (load_pairs(new).in_split(split) for split in ("validation", "test"))
    groups = {name: mask.numpy() for name, mask in crystal_groups(test, shares).items()}
    groups["DFT-labelled"] = test.dft.numpy()
    recycles, rows, errors = arguments.recycles, {}, {}
    with TemporaryDirectory() as folder:
        out = Path(folder)
        networks = {"before": read_member(arguments.base)}
        networks["after"] = fine_tuned(
            arguments.base, new, arguments.pairs, arguments.steps, arguments.seed, out / "tuned"
        )
        home = calibrated(predictions(networks["before"], at_home, recycles, out), at_home, recycles)
        for when, network in networks.items():
            tested = predictions(network, test, recycles, out)
            true = true_errors(tested, test)
            chosen = {"DFT-labelled": test.dft.numpy(), "all": np.ones(len(test), dtype=bool)}
            for part, mask in chosen.items():
                errors[f"{when}, {part}"] = {name: float(values[mask].mean()) for name, values in true.items()}
            anew = calibrated(predictions(network, validation, recycles, out), validation, recycles)
            for where, calibration in (("calibrated at home", home), ("calibrated anew", anew)):
                rows[f"{when}, {where}"] = coverage(calibration, tested, test, groups)
    _show(errors, rows)
    if arguments.json:
        settings = {name: str(value) for name, value in vars(arguments).items()} | CHANGES
        report = {"environment": environment(), "settings": settings, "errors": errors, "coverage": rows}
        arguments.json.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")


def _show(errors: dict, rows: dict) -> None:
    table = Table("", *next(iter(errors.values())), title="errors (Å, Å³)")
    for name, row in errors.items():
        table.add_row(name, *(f"{value:.4f}" for value in row.values()))
    Console(width=160).print(table)
    quantities = [
        f"{what} {figure}" for what in ("coordinates", "volume") for figure in ("coverage", "rank correlation")
    ]
    table = Table("", "group", "crystals", *quantities, title="test split: share of errors below their 90 % bounds")
    for name, groups in rows.items():
        for group, row in groups.items():
            table.add_row(name, group, str(row["crystals"]), *(f"{row[quantity]:.3f}" for quantity in quantities))
    Console(width=160).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs=2, type=Path, help="npz files: what the base learnt from, and the new family")
    parser.add_argument("--base", type=Path, required=True, help="weights.safetensors of the base network")
    parser.add_argument("--pairs", type=int, default=500, help="of the new family (default %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning (default %(default)s)")
    parser.add_argument("--recycles", type=int, default=3, help="of the network (default %(default)s)")
    parser.add_argument("--thin", type=int, default=4, help="of the base's validation crystals take every N-th")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pairs and the training")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


if __name__ == "__main__":
    main()
