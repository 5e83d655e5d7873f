"""Labels that a network needs to reach an error, chosen against drawn at random.

Minima that are stored stand for a potential's: looking one up is a label. A network that has seen nothing of the kind
learns the training pairs of a file in rounds as ``deeprelax learn`` does (choice, tuning, calibration, test), each of
the choices with several seeds, side by side. Weights are those of a member, as training writes them.

    python benchmarks/learning_curve.py pairs_xmno.npz --weights noxmno.safetensors --json learning-xmno.json
    python benchmarks/learning_curve.py pairs_generated_?.npz --kind 7 --weights bulk.safetensors \
        --json learning-layers.json

A chain writes what it has after each round, so that a run that is stopped keeps that.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import options

from deeprelax_ase.data import PairDataset, RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.pairs import SPLITS, concatenate
from deeprelax_ase.evaluation import write_json
from deeprelax_ase.learning import choose, cover, expected_error, recalibrate, tune, value_of
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model, save_model
from deeprelax_ase.prediction import Prediction
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.training.export import read_member
from deeprelax_ase.training.run import measure

#: Level in whose place all labels are learnt, validation pairs, and batches of an epoch at most.
LEVEL, HELD, BATCHES = "PBE", 60, 8

#: What is kept of a round. The start of the chosen: Å, how far their atoms are from their minima in the mean.
KEPT = (
    *("choice", "seed", "labels", "error", "coordinates", "lattice", "volume", "recycles", "steps", "seconds"),
    *("expected", "expected of all", "start of chosen"),
)


def drawn(pairs: RelaxationPairs, split: str, kind: int | None, most: int) -> RelaxationPairs:
    """At most so many of a split, evenly over the file; all at one level."""
    own = pairs.in_split(split)
    if kind is not None:
        own = own.take((own.kind == kind).nonzero().squeeze(1))
    own = own.take(torch.linspace(0, len(own) - 1, min(most, len(own))).round().long().unique())
    return replace(own, level=torch.zeros_like(own.level), dft=torch.zeros_like(own.dft))


def saved(parts: dict[str, RelaxationPairs], file: Path) -> Path:
    """Write pairs by their split."""
    pairs = concatenate(
        [replace(part, split=torch.full_like(part.split, SPLITS[name])) for name, part in parts.items() if len(part)]
    )
    PairDataset(pairs, tuple(map(str, range(len(pairs)))), ("as given",) * len(pairs)).save(file)
    return file


def start_model(weights: Path, held: Path, folder: Path, device: str) -> dict[str, Any]:
    """Write the network to start from as a model, calibrated on what is held out; return its errors."""
    pairs = PairDataset.read([held], dtype=torch.float32).pairs
    given = {"elements": sorted(set(pairs.numbers.tolist())), "level_of_theory": LEVEL, "level": LEVEL, "recycles": 2}
    text = {"description": "", "training_data": "", "split": ""}
    save_model([read_member(weights).to(device)], folder, "start", **given, **text)
    recalibrate(folder / "start.json", held, device=device)
    return measure(load_model(folder / "start.json"), pairs.in_split("test"), device, recycles=2)


def chosen(choice: str, card: Path, pool: list, taken: list[int], number: int, seed: int, device: str) -> dict:
    """Places of the next crystals to label, and the mean expected error of them and of all that are left."""
    left = [place for place in range(len(pool)) if place not in set(taken)]
    rng = np.random.default_rng([seed, number])
    if choice == "random":
        return {"places": rng.choice(left, number, replace=False).tolist()}
    predictor = Predictor(card, device=device, keep_symmetry=False)
    made = zip(left, predictor.predict_many([pool[place] for place in left], bonds=False), strict=True)
    found = [(place, one) for place, one in made if isinstance(one, Prediction)]
    crystals, known = [pool[place] for place, _ in found], [pool[place] for place in taken]
    errors = np.array([expected_error(one) for _, one in found])
    if choice == "cover":
        picked = cover(errors, crystals, known, number)
    else:
        picked = choose(value_of([one for _, one in found], choice, rng), crystals, known, number)
    places = [found[n][0] for n in picked]
    return {"places": places, "expected": float(errors[picked].mean()), "expected of all": float(errors.mean())}


def chain(choice: str, seed: int, work: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The rounds of one choice and seed, as far as there is time."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    device, folder, rows = settings["device"], work / f"{choice}-{seed}", []
    pool = load_pairs(work / "pool.npz", dtype=torch.float32)
    held = load_pairs(work / "held.npz", dtype=torch.float32)
    crystals, taken, card = crystals_of(pool, "initial"), [], work / "start" / "start.json"
    for number in settings["rounds"]:
        begun = time.monotonic()
        if time.time() > settings["until"]:
            break
        told = chosen(choice, card, crystals, taken, number - len(taken), seed, device)
        taken += told.pop("places")
        own = pool.take(torch.tensor(taken))
        parts = {"train": own, "validation": held.in_split("validation"), "test": held.in_split("test")}
        here = folder / str(number)
        here.mkdir(parents=True)
        file, atoms = saved(parts, here / "pairs.npz"), max(120, -(-int(own.counts.sum()) // BATCHES))
        chose = time.monotonic() - begun
        changes = (f"training.atoms_per_batch={atoms}", *settings["changes"])
        options = {"epochs": settings["epochs"], "device": device, "changes": changes}
        card = tune(work / "start" / "start.json", file, here, name="tuned", level=LEVEL, seed=seed, **options)
        trained = time.monotonic() - begun - chose
        recalibrate(card, file, device=device)
        found = ModelCard.read(card)
        start = unrelaxed(own)
        seconds = {"choose": chose, "train": trained, "calibrate": time.monotonic() - begun - chose - trained}
        row = {"choice": choice, "seed": seed, "labels": number, **told, "seconds": seconds, **found.metrics["test"]}
        row |= {"error": row["coordinates"] + row["lattice"], "recycles": found.recycles, "start of chosen": start}
        row["steps"] = found.training["members"][0].get("steps")
        rows.append({name: row[name] for name in KEPT if name in row})
        write_json(work / "rows" / f"{choice}-{seed}.json", rows)
    return rows


def unrelaxed(pairs: RelaxationPairs) -> float:
    """Å, mean distance of the pairs' atoms from their minima, in the relaxed cell."""
    apart = torch.einsum(
        "nk,nkx->nx", pairs.fractional_relaxed - pairs.fractional_initial, pairs.cell_relaxed[pairs.batch]
    ).norm(dim=1)
    return float(torch.zeros(len(pairs)).index_add(0, pairs.batch, apart).div(pairs.counts).mean())


def main() -> None:
    """Prepare what all chains share, run them side by side, and write their rows."""
    begun = time.time()
    parser = options(
        __doc__, "data", "--device", "--json", weights={"type": Path, "required": True, "help": "member to start from"}
    )
    parser.add_argument("--kind", type=int, help="pairs of that kind alone")
    parser.add_argument("--choices", nargs="+", default=["random", "both", "cover"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--pool", type=int, default=2500)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--change", nargs="*", default=[], help="settings of fine-tuning that differ, NAME=VALUE")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no round begins")
    parser.add_argument("--jobs", type=int, default=9)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="learning"))
    (work / "rows").mkdir()
    pairs = load_pairs(args.data, dtype=torch.float32)
    sizes = (("train", args.pool), ("validation", HELD), ("test", args.test))
    parts = {split: drawn(pairs, split, args.kind, most) for split, most in sizes}
    saved({"train": parts["train"]}, work / "pool.npz")
    held = saved({name: part for name, part in parts.items() if name != "train"}, work / "held.npz")
    first = start_model(args.weights, held, work / "start", args.device)
    told = {"start": first, "pairs": {name: len(part) for name, part in parts.items()}, "epochs": args.epochs}
    told["changes"] = args.change
    print(f"{time.time() - begun:.0f} s: start {first}", flush=True)
    settings = {"device": args.device, "rounds": args.rounds, "epochs": args.epochs, "until": begun + args.limit}
    settings["changes"] = args.change
    jobs = [(choice, seed) for seed in range(args.seeds) for choice in args.choices]
    with ProcessPoolExecutor(min(args.jobs, len(jobs)), mp_context=get_context("spawn")) as workers:
        waiting = [workers.submit(chain, choice, seed, work, settings) for choice, seed in jobs]
        for job, one in zip(jobs, waiting, strict=True):
            try:
                rows = one.result()
                print(f"{time.time() - begun:.0f} s: {job} {[round(row['error'], 4) for row in rows]}", flush=True)
            except Exception:  # the other chains go on
                print(job, traceback.format_exc(), flush=True)
            files = sorted((work / "rows").glob("*.json"))
            write_json(args.json, told | {"rows": [row for file in files for row in json.loads(file.read_text())]})


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
