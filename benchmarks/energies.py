"""Energies of unrelaxed, predicted and relaxed crystals, as figure 4 of the paper has them of DFT; here of M3GNet.

python benchmarks/energies.py pairs_xmno.npz --json benchmarks/results/energies.json
python benchmarks/energies.py --json benchmarks/results/energies.json --figure benchmarks/energies.svg

The first call predicts test crystals with DeepRelax-M3GNet and computes energies; the second one draws them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from files import write_json
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console

from deeprelax_ase import Crystal, Predictor
from deeprelax_ase.calculators import get_calculator
from deeprelax_ase.data import crystals_of, load_pairs
from deeprelax_ase.evaluation.machine import environment
from deeprelax_ase.progress import track

#: The model whose minima are M3GNet's.
MODEL = "DeepRelax-M3GNet"


def energies(crystals: list[Crystal], description: str) -> list[float]:
    """eV/atom under M3GNet."""
    calculator = get_calculator("m3gnet")
    found = []
    for crystal in track(crystals, description):
        atoms = crystal.to_atoms()
        atoms.calc = calculator
        found.append(atoms.get_potential_energy() / len(atoms))
    return found


def measure(data: Path, number: int) -> dict[str, Any]:
    """Energies of evenly taken test crystals."""
    pairs = load_pairs(data, labels="m3gnet", dtype=torch.float64).in_split("test")
    pairs = pairs.take(torch.linspace(0, len(pairs) - 1, min(number, len(pairs))).long())
    unrelaxed, relaxed = crystals_of(pairs, "initial"), crystals_of(pairs, "relaxed")
    made = Predictor(MODEL, graph_backend="torch").predict_many(unrelaxed, bonds=False)
    predicted = [getattr(p, "relaxed", c) for p, c in zip(made, unrelaxed, strict=True)]
    stages = {"unrelaxed": unrelaxed, "predicted": predicted, "relaxed": relaxed}
    found: dict[str, Any] = {name: energies(crystals, name) for name, crystals in stages.items()}
    end = np.array(found["relaxed"])
    errors = {name: float(np.abs(np.array(found[name]) - end).mean()) for name in ("unrelaxed", "predicted")}
    medians = {name: float(np.median(np.abs(np.array(found[name]) - end))) for name in ("unrelaxed", "predicted")}
    facts = {"environment": environment(), "model": MODEL, "data": data.name, "crystals": len(end)}
    return {**facts, "mean_absolute_error": errors, "median_absolute_error": medians, "energies": found}


def draw(report: dict[str, Any], file: Path) -> None:
    """Box plots of the energies above the relaxed crystal's, and of all energies."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    found = {name: np.array(values) for name, values in report["energies"].items()}
    left.boxplot(list(found.values()), tick_labels=list(found), showfliers=False)
    left.set(ylabel="energy (eV/atom)")
    above = [np.maximum(found[name] - found["relaxed"], 1e-5) for name in ("unrelaxed", "predicted")]
    right.boxplot(above, tick_labels=["unrelaxed", "predicted"])
    right.set(ylabel="above the relaxed crystal (eV/atom)", yscale="log")
    with rc_context({"svg.hashsalt": "energies"}):  # so that the same energies make the same file
        figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Measure, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="npz file of pairs, to measure")
    parser.add_argument("--number", type=int, default=100, help="of crystals (default %(default)s, as in the paper)")
    parser.add_argument("--json", type=Path, required=True, help="file of the energies")
    parser.add_argument("--figure", type=Path, help="SVG file to draw")
    arguments = parser.parse_args()
    if arguments.data:
        write_json(arguments.json, measure(arguments.data, arguments.number))
    report = json.loads(arguments.json.read_text(encoding="utf-8"))
    Console().print({name: report[name] for name in ("crystals", "mean_absolute_error", "median_absolute_error")})
    if arguments.figure:
        draw(report, arguments.figure)


if __name__ == "__main__":
    main()
