"""How far predictions are off by chemistry, for the cards of the models.

python benchmarks/by_chemistry.py pairs_universal.npz --model DeepRelax-PBE --every 3 --write

Of the test crystals every third is taken; ``--write`` keeps the figures in the card of the model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from files import write_json
from rich.console import Console

from deeprelax_ase import Predictor
from deeprelax_ase.data import crystals_of, load_pairs
from deeprelax_ase.data.groups import chemistry
from deeprelax_ase.models import WEIGHTS
from deeprelax_ase.prediction import Prediction
from deeprelax_ase.progress import track
from deeprelax_ase.training.calibrate import labels_for
from deeprelax_ase.training.evaluate import errors

#: Name of the rows in a card.
TITLE = "universal test, {}"


def measure(data: Path, model: str, every: int) -> dict[str, dict[str, float]]:
    """Mean errors of each chemistry, unrelaxed and predicted."""
    predictor = Predictor(model, graph_backend="torch")
    pairs = load_pairs(data, labels=labels_for(predictor.model.card.level), dtype=torch.float64).in_split("test")
    pairs = pairs.take(torch.arange(0, len(pairs), every))
    given = crystals_of(pairs, "initial")
    made = list(track(predictor.predict_many(given, bonds=False), "predicting", total=len(given)))
    predicted = [p.relaxed if isinstance(p, Prediction) else c for p, c in zip(made, given, strict=True)]
    sides = {"": predicted, " unrelaxed": given}
    found = {}
    for side, crystals in sides.items():
        scaled = torch.from_numpy(np.concatenate([c.scaled_positions for c in crystals]))
        found[side] = errors(pairs, scaled, torch.from_numpy(np.stack([c.cell for c in crystals])))
    rows: dict[str, dict[str, float]] = {}
    for name, mask in chemistry(pairs).items():
        row: dict[str, float] = {"crystals": int(mask.sum())}
        for side, values in found.items():
            row[f"coordinates MAE{side} (Å)"] = round(float(values["coordinates"][mask].mean()), 4)
            row[f"relative volume error{side}, mean"] = round(float(values["relative_volume"][mask].mean()), 4)
        worse = found[""]["coordinates"][mask] > found[" unrelaxed"]["coordinates"][mask] + 1e-3
        row["share further off than the unrelaxed"] = round(float(worse.double().mean()), 3)
        rows[TITLE.format(name)] = row
    return rows


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="npz file of pairs")
    parser.add_argument("--model", default="DeepRelax-PBE", help="name (default %(default)s)")
    parser.add_argument("--every", type=int, default=3, help="take every N-th test crystal (default %(default)s)")
    parser.add_argument("--write", action="store_true", help="into the card of the model")
    arguments = parser.parse_args()
    rows = measure(arguments.data, arguments.model, arguments.every)
    Console().print(rows)
    if arguments.write:
        file = WEIGHTS / f"{arguments.model}.json"
        card = json.loads(file.read_text(encoding="utf-8"))
        card["metrics"] = {**card["metrics"], **rows}
        write_json(file, card)


if __name__ == "__main__":
    main()
