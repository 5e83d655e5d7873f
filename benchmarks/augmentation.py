"""What each augmentation is worth: short trainings that differ in one share, compared on the validation split.

python benchmarks/augmentation.py pairs_xmno.npz --json benchmarks/results/augmentation.json

Rows are those of the paper's network, for which other choices of the cell are other inputs, and of the end-to-end one,
which does not see them. Several calls with one --out share the work. The test split is not looked at.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from files import write_json
from rich.console import Console
from rich.table import Table
from shared_work import taken

from deeprelax_ase.data import RelaxationPairs, load_pairs
from deeprelax_ase.evaluation.environment import environment
from deeprelax_ase.models.registry import model_of
from deeprelax_ase.nn import ABLATIONS, DeepRelaxE3Config
from deeprelax_ase.training import TrainingSettings, train
from deeprelax_ase.training.augment import AugmentationSettings
from deeprelax_ase.training.presets import SETTINGS
from deeprelax_ase.training.run import measure

#: Nothing is changed.
STILL = AugmentationSettings(interpolated=0.0, relaxed=0.0, perturbed=0.0, strained=0.0, rattled=0.0, rewrapped=0.0)

#: What both networks are tried with: fields of the augmentation, and replay, the feeding back of predictions.
GEOMETRY: dict[str, dict[str, float]] = {
    "none": {},
    "strained": {"strained": 0.3},
    "rattled": {"rattled": 0.3},
    "on the way": {"interpolated": 0.3},
    "perturbed": {"perturbed": 0.3},
    "relaxed": {"relaxed": 0.1},
    "all of these": {"strained": 0.2, "rattled": 0.2, "interpolated": 0.25, "perturbed": 0.2, "relaxed": 0.1},
}

#: For the end-to-end network, which learns from what it predicted.
FEEDBACK = {"recycled": {"recycled": 0.3}, "all, and replayed": {**GEOMETRY["all of these"], "recycled": 0.3}}

#: For the paper's: the same crystal in other words.
RECHOICE: dict[str, dict[str, float]] = {
    "origin and images": {"rewrapped": 0.5},
    "sheared": {"sheared": 0.5},
    "permuted": {"permuted": 0.5},
    "supercell": {"supercell": 0.3},
    "all re-choices": {"rewrapped": 0.5, "sheared": 0.5, "permuted": 0.5, "supercell": 0.3},
}

ROWS = {
    "paper's": {**GEOMETRY, **RECHOICE},
    "end-to-end": {**GEOMETRY, **FEEDBACK},
}


def settings_of(network: str, changes: dict[str, float], arguments: argparse.Namespace) -> tuple[Any, TrainingSettings]:
    """Configuration and settings of one row."""
    shares = {name: value for name, value in changes.items() if name != "recycled"}
    common: dict[str, Any] = {
        "max_steps": arguments.steps,
        "atoms_per_batch": arguments.atoms_per_batch,
        "recycled": changes.get("recycled", 0.0),
        "augmentation": replace(STILL, **shares),
        "seed": arguments.seed,
    }
    if network == "end-to-end":
        return DeepRelaxE3Config(), replace(SETTINGS, **common)
    return ABLATIONS["DeepRelax"], TrainingSettings(learning_rate=1e-3, lattice_weight=1.0, **common)


def row(network: str, name: str, pairs: RelaxationPairs, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one row, and how far its predictions are from the validation crystals after one pass and after two."""
    config, settings = settings_of(network, ROWS[network][name], arguments)
    folder = arguments.out / f"{network}-{name}".replace(" ", "_")
    trained = train(pairs.in_split("train"), config, settings, folder)
    model = model_of([trained], name, level="PBE" if network == "end-to-end" else "")
    held = pairs.in_split("validation")
    recycles = (1, 2) if network == "end-to-end" else (1,)
    return {
        "network": network,
        "augmentation": name,
        "shares": ROWS[network][name],
        **{f"pass {n}": measure(model, held, arguments.device, recycles=n) for n in recycles},
    }


def main() -> None:
    """Train what no other call has taken, and gather what there is."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    arguments.out.mkdir(parents=True, exist_ok=True)
    pairs = load_pairs(arguments.data, dtype=torch.float32).to(arguments.device)
    pairs = replace(pairs, level=torch.zeros_like(pairs.level))
    for network, variants in ROWS.items():
        for name in variants:
            file = arguments.out / f"{network}-{name}.json".replace(" ", "_")
            with taken(file) as ours:
                if ours:
                    write_json(file, row(network, name, pairs, arguments))
                    print(network, name, "is done", flush=True)
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(arguments.out.glob("*.json"))]
    show(found)
    if arguments.json:
        budget = {name: getattr(arguments, name) for name in ("steps", "atoms_per_batch", "seed")}
        write_json(arguments.json, {"environment": environment(), "budget": budget, "rows": found})


def show(rows: list[dict[str, Any]]) -> None:
    """As a table."""
    table = Table("network", "augmentation", "pass", "coordinates (Å)", "lattice (Å)", "volume (Å³)", box=None)
    for found in rows:
        for key in ("pass 1", "pass 2"):
            if key in found:
                errors = (f"{found[key][name]:.4g}" for name in ("coordinates", "lattice", "volume"))
                table.add_row(found["network"], found["augmentation"], key[-1], *errors)
    Console(width=110).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/augmentation"), help="folder (default %(default)s)")
    parser.add_argument("--steps", type=int, default=1500, help="of each row (default %(default)s)")
    parser.add_argument("--atoms-per-batch", type=int, default=2000, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser


if __name__ == "__main__":
    main()
