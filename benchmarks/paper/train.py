"""Train every row of the paper's tables 1 to 4 on our data, all under one budget, and predict the test splits.

python benchmarks/paper/train.py --data DIR --out runs/tables [--only xmno] [--steps 3000]

DIR holds pairs_xmno.npz (tables 1 and 4), pairs_universal.npz (table 2) and monolayers.npz (table 3). Rows that are
finished are left alone.
benchmarks/paper/measure.py measures the predictions.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import BASELINES
from baselines.direct import relax_direct
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deeprelax_ase.data import RelaxationPairs, load_pairs
from deeprelax_ase.evaluation.pair_predictions import predict_pairs
from deeprelax_ase.models.model import model_of
from deeprelax_ase.nn import ABLATIONS, DeepRelax, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training import TrainingSettings, train
from deeprelax_ase.training.run import best_recycles
from deeprelax_ase.training.settings import E3_TRAINING

#: File of each set of pairs.
DATA = {"xmno": "pairs_xmno.npz", "universal": "pairs_universal.npz", "monolayers": "monolayers.npz"}

#: The paper's networks and the direct ones are trained as in its section 4.8, with a cosine in place of the plateau,
#: which a budget this short would not reach, and a rate that goes with it.
PLAIN = TrainingSettings(
    atoms_per_batch=2000,
    learning_rate=1e-3,
    lattice_weight=1.0,
    augmentation=replace(
        E3_TRAINING.augmentation, interpolated=0.0, relaxed=0.0, perturbed=0.0, strained=0.0, rattled=0.0
    ),
    log_every=100,
    recycled=0.0,
)

#: The end-to-end network is trained as it always is, on as many steps and atoms.
OURS = replace(E3_TRAINING, atoms_per_batch=PLAIN.atoms_per_batch, log_every=100)

#: The paper's network with our heads: distances that follow the cell, projected vectors, an equivariant strain.
MENDED = "DeepRelax-mended"

#: Members of the ensembles that uncertainties come from.
MEMBERS = 5


@dataclass(frozen=True)
class Row:
    """One network to train.

    Attributes:
        data: name of the set of pairs.
        model: name in the tables.
        seed: of the run.
        start: data whose network of the same kind and seed it begins with.
    """

    data: str
    model: str
    seed: int = 0
    start: str = ""

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.data}-{self.model}-{self.seed}"

    @property
    def kind(self) -> str:
        """The network's."""
        return self.model.removesuffix("T") if self.start else self.model


def rows() -> list[Row]:
    """All rows; those that others begin with first."""
    seeds = range(MEMBERS)
    first = [Row("universal", model) for model in ("DeepRelax", "DeepRelaxE3")]
    direct = [Row(data, model) for data in DATA for model in BASELINES]
    ours = [Row(data, "DeepRelaxE3") for data in DATA if data != "universal"]
    ours += [Row(data, MENDED) for data in DATA if data != "monolayers"]
    papers = [Row(data, "DeepRelax", seed) for seed in seeds for data in DATA if (data, seed) != ("universal", 0)]
    ablations = [Row("xmno", model) for model in ABLATIONS if model != "DeepRelax"]
    transferred = [Row("monolayers", f"{model}T", start="universal") for model in ("DeepRelax", "DeepRelaxE3")]
    return [*first, *direct, *ours, *ablations, *papers, *transferred]


def network_of(row: Row) -> tuple[Any, TrainingSettings, dict[str, Any]]:
    """Configuration, settings and options of the training."""
    if row.kind in BASELINES:
        config, make_task = BASELINES[row.kind]
        return config, PLAIN, {"make_task": make_task}
    if row.kind == "DeepRelaxE3":
        return DeepRelaxE3Config(), OURS, {}
    return DeepRelaxConfig() if row.kind == MENDED else ABLATIONS[row.kind], PLAIN, {}


def pairs_of(folder: Path, data: str) -> RelaxationPairs:
    """The pairs under one level: which potential a label comes from is no matter of the tables."""
    pairs = load_pairs(folder / DATA[data], dtype=torch.float32)
    return replace(pairs, level=torch.zeros_like(pairs.level))


def train_row(row: Row, arguments: argparse.Namespace, deadline: float | None) -> bool:
    """Train one row and predict its test split; whether that was done before the ``deadline``."""
    pairs = pairs_of(arguments.data, row.data).to(arguments.device)
    config, settings, options = network_of(row)
    settings = replace(settings, max_steps=arguments.steps, seed=row.seed)
    start = None
    if row.start:
        start = load_file(arguments.out / f"{replace(row, data=row.start, model=row.kind, start='').name}.safetensors")
    began = time.monotonic()
    network = train(
        pairs.in_split("train"),
        config,
        settings,
        arguments.out / row.name,
        validation=pairs.in_split("validation"),
        deadline=deadline,
        initial=start,
        **options,
    )
    if network is None:
        return False
    summary = json.loads((arguments.out / row.name / "settings.json").read_text())
    test = pairs.in_split("test")
    fractional, cell, uncertainty, recycles = predict(network, config, test, pairs.in_split("validation"))
    save_file(
        {name: t.half().contiguous() for name, t in network.state_dict().items()}, _file(arguments, row, "weights")
    )
    kept = {
        "data": row.data,
        "model": row.model,
        "seed": row.seed,
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": summary["steps"],
        "seconds": round(time.monotonic() - began, 1),
        "best": summary["best"],
        "recycles": recycles,
        "curve": _curve(arguments.out / row.name / "log.jsonl"),
    }
    write(_file(arguments, row, "predictions"), fractional, cell, uncertainty, kept)
    return True


def predict(
    network: nn.Module, config: Any, test: RelaxationPairs, validation: RelaxationPairs
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Fractional coordinates, cells and, where there is one, the uncertainty; and the recycles that were best."""
    if not isinstance(network, DeepRelax | DeepRelaxE3):
        return *relax_direct(network, config, test), None, 1
    model = model_of([network], "row", level="PBE" if isinstance(network, DeepRelaxE3) else "")
    recycles = best_recycles(model, validation, str(test.counts.device))
    found = predict_pairs(model, test, recycles=recycles)
    return found.fractional, found.cell, found.uncertainty, recycles


def predict_ensemble(data: str, arguments: argparse.Namespace) -> None:
    """The paper's ensemble, for its uncertainties."""
    networks = []
    for seed in range(MEMBERS):
        network = DeepRelax(ABLATIONS["DeepRelax"])
        network.load_state_dict(load_file(_file(arguments, Row(data, "DeepRelax", seed), "weights")))
        networks.append(network)
    test = pairs_of(arguments.data, data).in_split("test").to(arguments.device)
    found = predict_pairs(model_of(networks, "ensemble"), test)
    kept = {"data": data, "model": f"DeepRelax x {MEMBERS}", "seed": 0, "recycles": 1}
    write(arguments.out / f"{data}-ensemble.npz", found.fractional, found.cell, found.uncertainty, kept)


def write(file: Path, fractional: Tensor, cell: Tensor, uncertainty: Tensor | None, kept: dict[str, Any]) -> None:
    """Predictions in single precision, and what is known of the run."""
    arrays = {"fractional": fractional, "cell": cell} | ({} if uncertainty is None else {"uncertainty": uncertainty})
    np.savez(file, about=json.dumps(kept), **{name: t.float().cpu().numpy() for name, t in arrays.items()})


def _curve(log: Path) -> list[list[float]]:
    """Steps and validation errors."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [[r["step"], r["validation error"]] for r in records if "validation error" in r]


def _file(arguments: argparse.Namespace, row: Row, what: str) -> Path:
    return arguments.out / f"{row.name}.{'npz' if what == 'predictions' else 'safetensors'}"


def _ready(row: Row, arguments: argparse.Namespace) -> bool:
    """Whether what the row begins with is there."""
    begins = replace(row, data=row.start, model=row.kind, start="")
    return not row.start or _file(arguments, begins, "predictions").exists()


def work(todo: Sequence[Row], arguments: argparse.Namespace, deadline: float | None) -> None:
    """Do what is not done yet."""
    for row in todo:
        if _file(arguments, row, "predictions").exists() or not _ready(row, arguments):
            continue
        print(row.name, "begins", flush=True)
        done = train_row(row, arguments, deadline)
        print(row.name, "is done" if done else "is not done in time", flush=True)
        if not done:
            return


def main() -> None:
    """Train what is not there yet."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    arguments.out.mkdir(parents=True, exist_ok=True)
    deadline = None if arguments.time_limit is None else time.monotonic() + arguments.time_limit
    chosen: Callable[[str], bool] = lambda name: any(part in name for part in arguments.only)  # noqa: E731
    todo = [row for row in rows() if not arguments.only or chosen(row.name)]
    work(todo, arguments, deadline)
    for data in DATA:
        members = [Row(data, "DeepRelax", seed) for seed in range(MEMBERS)]
        if all(_file(arguments, row, "weights").exists() for row in members):
            predict_ensemble(data, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the pairs")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and predictions")
    parser.add_argument("--only", nargs="+", default=[], help="rows whose names contain one of these")
    parser.add_argument("--steps", type=int, default=3000, help="budget of each row (default %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--time-limit", type=float, help="stop after so many seconds; the same call goes on")
    return parser


if __name__ == "__main__":
    main()
