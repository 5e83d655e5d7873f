"""Whether novelty tells crystals of kinds that a model has not learnt from, by kind, and what it costs.

python benchmarks/novelty.py DATA_FOLDER --json benchmarks/results/novelty-PBE.json

The folder holds pairs_universal.npz, pairs_xmno.npz and pairs_generated_*.npz. Molecules are those of ASE's G2 set;
wires, interstitial atoms and pressure are made of relaxed test crystals. Pairs of elements that no crystal of the first
two files holds are held by generated ones. AUROC: the probability that a crystal of the kind is more novel than an
unrelaxed one of the universal test split.

A model that learnt no layers, slabs and defects (kinds 6 to 9) has ``--model CARD.json``: its novelty must be fitted to
the same training pairs. It needs no calibration.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import molecule
from ase.collections import g2
from scipy.stats import rankdata
from shared import options, read

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.evaluation.novelty import atom_scalars_of
from deeprelax_ase.evaluation.outliers import interstitial, scaled, wire
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.models.model import Model
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.uncertainty.novelty import Novelty

#: Kinds by the number in the files of generated pairs. Those of the first row are bulk crystals like the known ones.
ORDINARY = {0: "substituted", 4: "strained, rattled", 5: "shared sites", 10: "PBE's own elements", 11: "ionic"}
STRANGE = {7: "layers", 8: "slabs", 9: "defects, cell kept", 6: "defects, cell free"}

#: Volumes over those at rest.
PRESSED = (0.8, 0.7, 0.6)

#: Causes of ``ood`` in the order in which they count, all together, and all that is uncertain.
CAUSES = ("geometry", "novelty", "error features", "ood", "uncertain")

#: Crystals whose predictions are timed, and times that they are.
TIMED, ROUNDS = 20, 3


def kinds(folder: Path, model: Model, number: int, rng: np.random.Generator) -> Iterator[tuple[str, list[Crystal]]]:
    """Crystals by the name of their kind, at most so many of each."""
    known = set(model.card.elements)
    bulk = load_pairs([folder / "pairs_universal.npz", folder / "pairs_xmno.npz"])
    universal, xmno = (load_pairs(folder / f"pairs_{name}.npz").in_split("test") for name in ("universal", "xmno"))
    yield "universal test", crystals_of(drawn(universal, 4 * number, rng), "initial")
    yield (
        "X-Mn-O test",
        crystals_of(drawn(xmno, number, rng), "initial"),
    )
    relaxed = crystals_of(drawn(universal, number, rng), "relaxed")
    yield "universal test, relaxed", relaxed
    generated = load_pairs(sorted(folder.glob("pairs_generated_*.npz")))
    usable = torch.tensor([known.issuperset(z.tolist()) for z in generated.numbers.split(generated.counts.tolist())])
    unseen = holds_unseen_pair(generated, bulk.in_split("train")) & usable
    held_out = (generated.split > 0) & usable & ~unseen
    for kind, name in {**ORDINARY, **STRANGE}.items():
        yield name, crystals_of(drawn(chosen(generated, held_out & (generated.kind == kind)), number, rng), "initial")
    ordinary = torch.isin(generated.kind, torch.tensor(list(ORDINARY)))
    new = crystals_of(drawn(chosen(generated, unseen & ordinary), number, rng), "initial")
    yield "pairs of elements in generated crystals alone", new
    yield "wires", [made for crystal in relaxed if (made := wire(crystal, rng)) is not None]
    yield "molecules", [c for c in molecules() if known.issuperset(c.numbers.tolist())]
    yield "interstitial atoms", [made for crystal in relaxed if (made := interstitial(crystal, rng)) is not None]
    for ratio in PRESSED:
        yield f"pressed to {ratio:.0%} of the volume", [scaled(crystal, ratio) for crystal in relaxed]


def molecules() -> list[Crystal]:
    """Those of the G2 set that have more than one atom, with 6 Å of vacuum on every side."""
    made = []
    for name in g2.names:
        atoms = molecule(name)
        if len(atoms) > 1:
            atoms.center(vacuum=6.0)
            made.append(Crystal(atoms.numbers, atoms.positions, atoms.cell.array))
    return made


def holds_unseen_pair(pairs: RelaxationPairs, training: RelaxationPairs) -> torch.Tensor:
    """(G,) bool, crystals of which two elements are in no crystal of ``training`` together."""
    seen = np.zeros((119, 119), dtype=bool)
    for numbers in training.numbers.split(training.counts.tolist()):
        seen[np.ix_(numbers, numbers)] = True
    each = pairs.numbers.split(pairs.counts.tolist())
    return torch.tensor([not seen[np.ix_(numbers, numbers)].all() for numbers in each])


def chosen(pairs: RelaxationPairs, mask: torch.Tensor) -> RelaxationPairs:
    """The pairs of the ``mask`` (G,)."""
    return pairs.take(mask.nonzero().squeeze(1))


def drawn(pairs: RelaxationPairs, number: int, rng: np.random.Generator) -> RelaxationPairs:
    """So many of the ``pairs`` at random, in their order."""
    index = np.sort(rng.choice(len(pairs), size=min(number, len(pairs)), replace=False))
    return pairs.take(torch.from_numpy(index))


def auroc(ordinary: np.ndarray, strange: np.ndarray) -> float:
    """The probability that one of the ``strange`` is above one of the ``ordinary``."""
    ranks = rankdata(np.concatenate([ordinary, strange]))[len(ordinary) :]
    return float((ranks.mean() - (len(strange) + 1) / 2) / len(ordinary))


def causes(model: Model, folder: Path, number: int) -> dict[str, float]:
    """Shares of universal test crystals that are out of distribution, by the first cause of each, and uncertain."""
    universal = load_pairs(folder / "pairs_universal.npz").in_split("test")
    crystals = crystals_of(drawn(universal, number, np.random.default_rng(0)), "initial")
    counts, handed_out = Counter[str](), 0
    for made in Predictor(model, device="cpu").predict_many(crystals):
        if not isinstance(made, Prediction) or made.error is None:
            continue
        handed_out += 1
        counts["uncertain"] += made.judgement.uncertain
        if made.error.ood:
            counts["ood"] += 1
            counts["geometry" if made.doubt else "novelty" if (made.error.novelty or 0) > 1 else "error features"] += 1
    return {"crystals": handed_out} | {cause: counts[cause] / handed_out for cause in CAUSES}


def cost(model: Model, novelty: Novelty, crystals: list[Crystal]) -> Mapping[str, float]:
    """Milliseconds that a crystal's prediction takes, and its novelty once that is made; the best of some."""
    predictor = Predictor(model)
    atoms = atom_scalars_of(predictor.model, crystals, "timed")
    per_crystal: dict[str, float] = {}
    calls = {"prediction": lambda: list(predictor.predict_many(crystals)), "novelty": lambda: novelty.of(*atoms)}
    for name, call in calls.items():
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        per_crystal[f"{name}_ms"] = 1000 * min(times) / len(crystals)
    return per_crystal


def measure(folder: Path, model: Model, number: int) -> dict[str, Any]:
    """AUROC and the share beyond the limit, by kind, and the cost."""
    if model.novelty is None:
        raise SystemExit(f"{model.card.name} has no novelty: deeprelax calibrate --write")
    novelty, rng, found = Novelty.from_tensors(model.novelty), np.random.default_rng(0), {}
    rows: dict[str, dict[str, Any]] = {}
    for name, crystals in kinds(folder, model, number, rng):
        atoms = atom_scalars_of(model, crystals, name)
        values = novelty.of(*atoms).numpy()
        found[name] = values
        rows[name] = {"crystals": len(values), "flagged": float((values > 1).mean())}
        if name != "universal test":
            rows[name]["auroc"] = auroc(found["universal test"], values)
        else:
            timed = crystals[:TIMED]
    return {"kinds": rows, "cost": cost(model, novelty, timed)}


def main() -> None:
    """Measure one model."""
    number = {"type": int, "default": 150, "help": "crystals of each kind at most (default %(default)s)"}
    folder = {"nargs": None, "help": "folder of the pairs"}
    keep = {"action": "store_true", "help": "kinds stand in the JSON already: causes alone"}
    given = options(__doc__, "data", "--model", "--json", data=folder, number=number, keep_kinds=keep).parse_args()
    torch.set_num_threads(1)
    model = load_model(given.model)
    found = {"model": model.card.name, "sha256": model.card.sha256, "novelty": model.card.novelty}
    before = read(given.json.parent, given.json.stem) if given.keep_kinds else {}
    if before and before["sha256"] != model.card.sha256:
        raise SystemExit(f"{given.json} is of other weights: measure the kinds too")
    found |= before or measure(given.data, model, given.number) | {"environment": environment()}
    found["causes"] = causes(model, given.data, 4 * given.number) if model.card.calibration else {}
    print(json.dumps(found["kinds"] | found["cost"] | found["causes"], indent=1))
    write_json(given.json, found)


if __name__ == "__main__":
    main()
