"""Which network, loss and augmentation: short trainings under one budget, compared on the validation split.

python benchmarks/study.py DATA.npz... --variant base --seconds 90 --device cuda --json results/study-base.json

Variants are rows of VARIANTS; each changes what its name says and nothing else. The test split is not looked at.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs, load_pairs
from deeprelax_ase.nn import DeepRelaxE3
from deeprelax_ase.training import train
from deeprelax_ase.training.evaluate import errors, relax_pairs
from deeprelax_ase.training.presets import departing, training_pairs
from deeprelax_ase.training.values import setting

#: Where the variants depart from: what was usual when they were compared.
BASE = {
    "tempering": 0.5,
    "weight_decay": 0.01,
    "borrowed": 0.0,
    "interpolated": 0.2,
    "relaxed": 0.05,
    "perturbed": 0.15,
}

#: What each variant changes: fields of the network, of the training and of the augmentation.
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "narrow": {"channels": 128},
    "wide": {"channels": 256},
    "no tensor messages": {"tensor_messages": False},
    "one block": {"num_blocks": 1, "layers_per_block": 6},
    "two blocks": {"num_blocks": 2, "layers_per_block": 3},
    "six blocks": {"num_blocks": 6, "layers_per_block": 1},
    "four layers": {"num_blocks": 2},
    "eight layers": {"num_blocks": 4},
    "cutoff 5": {"cutoff": 5.0},
    "20 neighbours": {"max_neighbors": 20},
    "likelihood": {"tempering": 0.0},
    "absolute errors": {"tempering": 1.0},
    "rate 1e-3": {"learning_rate": 1e-3},
    "rate 4e-3": {"learning_rate": 4e-3},
    "no augmentation": dict.fromkeys(("interpolated", "relaxed", "perturbed", "strained", "rattled", "recycled"), 0.0),
    "more augmentation": {"perturbed": 0.3, "interpolated": 0.35, "recycled": 0.4},
    "no replay": {"recycled": 0.0},
    "weight decay 0.1": {"weight_decay": 0.1},
    "last block supervised": {"all_blocks": False},
    "half the data": {"share": 0.5},
    "quarter of the data": {"share": 0.25},
    "borrowed": {"borrowed": 0.5},
    "more arrived": {"relaxed": 0.15},
}


def assess(network: DeepRelaxE3, files: list[Path], device: str) -> dict[str, dict[str, float]]:
    """Errors on the validation split after one, two and three passes, for each file, labels and level."""
    result = {}
    for file in files:
        for labels, level in (("relaxed", "PBE"), ("m3gnet", "M3GNet")):
            pairs = load_pairs(file, labels=labels, dtype=torch.float32).in_split("validation").to(device)
            for recycles in (0, 1, 2, 3):
                found = errors(pairs, *relaxed_after([network], pairs, level, recycles))
                for part, chosen in (("DFT", pairs.dft), ("all", torch.ones_like(pairs.dft))):
                    key = f"{file.stem} {level} {part} pass {recycles}"
                    result[key] = {name: value[chosen].mean().item() for name, value in found.items()}
                    result[key]["median_relative_volume"] = found["relative_volume"][chosen].median().item()
    return result


def relaxed_after(
    networks: list[DeepRelaxE3], pairs: RelaxationPairs, level: str, recycles: int
) -> tuple[Tensor, Tensor]:
    """Fractional coordinates and cells after so many passes."""
    if not recycles:
        return pairs.fractional_initial, pairs.cell_initial
    relaxed = relax_pairs(networks, pairs, level, recycles=recycles)
    return relaxed.fractional, relaxed.cell


def main() -> None:
    """Train one variant and print its validation errors."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    config, settings, chosen = departing(BASE | VARIANTS[arguments.variant] | dict(arguments.set))
    settings = replace(
        settings, seconds=arguments.seconds, max_steps=arguments.max_steps, compile=arguments.compile, log_every=500
    )
    pairs = training_pairs(arguments.data, chosen).to(arguments.device)
    with TemporaryDirectory() as folder:
        if arguments.compile:  # so that compiling does not eat into the budget
            train(pairs, config, replace(settings, seconds=1.0, max_steps=None), Path(folder) / "warm")
            gc.collect()
            torch.cuda.empty_cache()  # others may share the device
        network = train(pairs, config, settings, Path(folder) / "run")
        steps = json.loads((Path(folder) / "run" / "settings.json").read_text())["steps"]
    result = assess(network, arguments.data, arguments.device)
    parameters = sum(p.numel() for p in network.parameters())
    report = {"variant": arguments.variant, "steps": steps, "parameters": parameters, "validation": result}
    for key, row in result.items():
        print(f"{arguments.variant:20s} {key:40s} " + " ".join(f"{k} {v:.4f}" for k, v in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs with both kinds of labels")
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="base")
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="change the base too; repeatable"
    )
    parser.add_argument("--seconds", type=float, default=90.0, help="budget (default %(default)s)")
    parser.add_argument("--max-steps", type=int, help="budget in steps instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


if __name__ == "__main__":
    main()
