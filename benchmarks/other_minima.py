"""Whether a jump under a calculator leads to a higher minimum than small steps, and what might tell before it is made.

DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/other_minima.py pairs_universal.npz pairs_xmno.npz \\
    --cache other_minima.jsonl --json benchmarks/results/other_minima.json

FIRE under M3GNet, positions and cell, from the unrelaxed crystal and from where ``DeepRelax-M3GNet`` puts it, each also
rattled by 0.01 Å, and from the prediction for the rattled one. A jump that raises the energy is rejected, as the
optimizer does, at the price of a call; force-informed steps are left out. Where FIRE ends from the unrelaxed crystal is
what the others are held against.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from ase.stress import full_3x3_to_voigt_6_stress
from shared import options

from deeprelax_ase import Crystal, Predictor
from deeprelax_ase.calculators.m3gnet_batch import m3gnet_of
from deeprelax_ase.data import crystals_of, load_pairs
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.geometry.strain import logarithmic_strain
from deeprelax_ase.models.registry import M3GNET_RELAX_MODEL
from deeprelax_ase.prediction.record import Prediction

#: Where FIRE begins.
STARTS = ("unrelaxed", "jump", "jump, rattled", "jump from rattled", "unrelaxed, rattled")
#: eV/Å: until which calls are counted, and until which energies are minima's. Most calls.
COUNTED, FMAX, CALLS = 0.05, 0.02, 300
#: Å, standard deviation; of strains a tenth of it.
RATTLE = 0.01
ATOMS_AT_ONCE = 120


def choose(files: list[Path], number: int, largest: int) -> dict[str, Crystal]:
    """So many unrelaxed test crystals of each file, evenly spaced, by file and place in it."""
    chosen: dict[str, Crystal] = {}
    for file in files:
        pairs = load_pairs([file])
        found = ((pairs.split == SPLITS["test"]) & (pairs.counts <= largest)).nonzero().squeeze(1)
        index = found[torch.linspace(0, len(found) - 1, min(number, len(found))).round().long()]
        made = crystals_of(pairs.take(index), "initial")
        chosen |= {
            f"{file.stem.removeprefix('pairs_')}/{int(i)}": crystal for i, crystal in zip(index, made, strict=True)
        }
    return chosen


def rattled(crystal: Crystal, seed: int) -> Crystal:
    """``crystal`` without its symmetry."""
    generator = np.random.default_rng(seed)
    cell = crystal.cell @ (np.eye(3) + generator.normal(0, RATTLE / 10, (3, 3)))
    moves = generator.normal(0, RATTLE, (len(crystal), 3))
    return crystal.with_geometry(crystal.fractional_positions @ cell + moves, cell)


def features(prediction: Prediction) -> dict[str, float]:
    """What is known of a jump before forces are."""
    error, step = prediction.error, np.linalg.norm(prediction.displacements, axis=1)
    strain = logarithmic_strain(prediction.initial.cell, prediction.relaxed.cell)
    assert error is not None
    assert error.volume is not None
    assert error.novelty is not None
    return {
        "expected error": error.coordinates,
        "expected error, volume": error.volume,
        "novelty": error.novelty,
        "odds worse": float(error.odds_worse or 0),
        "mean step": float(step.mean()),
        "largest step": float(step.max()),
        "strain": float(np.linalg.norm(strain)),
        "volume change": abs(prediction.volume_change),
        "step over expected error": float(step.mean() / max(error.coordinates, 1e-4)),
    }


@dataclass(eq=False)
class Descent:
    """FIRE on one crystal; energies in eV/atom."""

    crystal: Crystal

    def __post_init__(self) -> None:
        self.atoms = self.crystal.to_atoms()
        self.filtered = FrechetCellFilter(self.atoms)
        self.optimizer = FIRE(self.filtered, logfile=None)
        self.found: dict[str, Any] = {"calls": 0, "over": False, "converged": False}

    def take(self, results: dict[str, Any]) -> None:
        """Go on with these results for where the atoms are."""
        self.atoms.calc = SinglePointCalculator(self.atoms, **results)
        found, fmax = self.found, float(np.linalg.norm(self.filtered.get_forces(), axis=1).max())
        found["calls"] += 1
        found["energy"] = float(results["energy"]) / len(self.atoms)
        found.setdefault("first", {"energy": found["energy"], "fmax": fmax})
        if fmax < COUNTED:
            found.setdefault("counted", {"energy": found["energy"], "calls": found["calls"]})
        found["converged"] = fmax < FMAX
        found["over"] = found["converged"] or found["calls"] >= CALLS
        if not found["over"]:
            self.optimizer.step()


def compute(given: list[Atoms]) -> list[dict[str, Any]]:
    """What ASE's optimizers ask for, by M3GNet, of crystals with elements that it knows."""
    return [
        {"energy": one.energy, "forces": one.forces, "stress": full_3x3_to_voigt_6_stress(one.stress)}
        for one in m3gnet_of(given)
    ]


def descend(starts: dict[str, Crystal]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What FIRE finds from each of ``starts``, in batches; those that the potential fails on are left out."""
    waiting, active = deque(starts.items()), dict[str, Descent]()
    while waiting or active:
        while waiting and sum(len(d.crystal) for d in active.values()) + len(waiting[0][1]) <= ATOMS_AT_ONCE:
            name, crystal = waiting.popleft()
            active[name] = Descent(crystal)
        for descent, results in zip(active.values(), compute([d.atoms for d in active.values()]), strict=True):
            descent.take(results)
        for name in [name for name, descent in active.items() if descent.found["over"]]:
            yield name, active.pop(name).found


def main() -> None:
    """Measure, and write JSON."""
    number = {"type": int, "default": 40, "help": "crystals of each file, evenly spaced (default %(default)s)"}
    largest = {"type": int, "default": 20, "help": "most atoms of a crystal (default %(default)s)"}
    cache = {"required": True, "help": "file to keep relaxations in, and to go on with"}
    given = options(__doc__, "data", "--cache", "--json", cache=cache, number=number, largest=largest).parse_args()
    torch.set_num_threads(1)
    crystals = choose(given.data, given.number, given.largest)
    predictor = Predictor(M3GNET_RELAX_MODEL, device="cpu")
    lines = given.cache.read_text(encoding="utf-8").splitlines() if given.cache.exists() else []
    ends = {(line["crystal"], line["start"]): line["found"] for line in map(json.loads, lines)}
    made: dict[str, dict[str, Prediction]] = {}
    shaken = {name: rattled(crystal, seed) for seed, (name, crystal) in enumerate(crystals.items())}
    for key, given_crystals in (("plain", crystals), ("rattled", shaken)):
        predicted = predictor.predict_many(list(given_crystals.values()))
        made[key] = {n: p for n, p in zip(crystals, predicted, strict=True) if isinstance(p, Prediction)}
    jumps = {name: p.relaxed for name, p in made["plain"].items()}
    begun = {
        "unrelaxed": crystals,
        "jump": jumps,
        "jump, rattled": {name: rattled(c, seed) for seed, (name, c) in enumerate(jumps.items())},
        "unrelaxed, rattled": shaken,
        "jump from rattled": {name: p.relaxed for name, p in made["rattled"].items()},
    }
    with given.cache.open("a", encoding="utf-8") as cache:
        for start in STARTS:
            left = {name: crystal for name, crystal in begun[start].items() if (name, start) not in ends}
            for name, found in descend(left):
                ends[name, start] = found
                cache.write(json.dumps({"crystal": name, "start": start, "found": found}) + "\n")
                cache.flush()
    rows = [
        {
            "crystal": name,
            "atoms": len(crystals[name]),
            "unchanged": prediction.unchanged,
            "features": features(prediction),
            "ends": {start: ends[name, start] for start in STARTS if (name, start) in ends},
        }
        for name, prediction in made["plain"].items()
    ]
    how = {"counted to": COUNTED, "minimum at": FMAX, "most calls": CALLS, "rattled by": RATTLE}
    write_json(given.json, {"environment": environment(), "model": predictor.model_name, "how": how, "rows": rows})


if __name__ == "__main__":
    main()
