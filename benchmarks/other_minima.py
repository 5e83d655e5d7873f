"""Whether a jump under a calculator leads to a higher minimum than small steps.

DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/other_minima.py pairs_universal.npz pairs_xmno.npz \\
    pairs_generated_?.npz --each 150 --cache other_minima.jsonl --json benchmarks/results/other_minima.json

Positions and cell of unrelaxed test crystals are relaxed under M3GNet in batches, from there and from where
``DeepRelax-M3GNet`` puts them, each also rattled, and from the prediction for the rattled one. A jump that raises the
energy is rejected, as the optimizer does, at the price of a call; force-informed steps are left out. Calls are counted
until the first fmax; there the optimizer begins anew, and goes on to the second. Where FIRE ends from the unrelaxed
crystal is what the others are held against.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from never_worse import KINDS
from other_minima_page import APART, SAME
from shared import options

from deeprelax_ase import Crystal, Predictor
from deeprelax_ase.calculators import BatchedPotential, get_batched
from deeprelax_ase.data import crystals_of, load_pairs
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.labelling.relaxer import evaluated
from deeprelax_ase.models.registry import M3GNET_RELAX_MODEL
from deeprelax_ase.optimizers import BatchedStart, JumpCriteria, KnownResults, relax_in_batches
from deeprelax_ase.optimizers.acceptance import EnergyForces
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from deeprelax_ase.prediction.record import Prediction

#: Relaxations: where they begin, and by which optimizer. The first is what others are held against.
RUNS = {
    "the unrelaxed crystal, FIRE": ("unrelaxed", "fire"),
    "the unrelaxed crystal, the fast finish": ("unrelaxed", "fast"),
    "the unrelaxed crystal, rattled, FIRE": ("unrelaxed, rattled", "fire"),
    "the jump, FIRE": ("jump", "fire"),
    "the jump, the fast finish": ("jump", "fast"),
    "the jump, rattled, FIRE": ("jump, rattled", "fire"),
    "the jump of the rattled crystal, FIRE": ("jump from rattled", "fire"),
}
#: The first of them, that whose jumps a calculator judges, and the name of what it judges.
AGAINST, JUMP, JUDGED = next(iter(RUNS)), "the jump, FIRE", "judged"
#: Generated kinds that are no layers, and whose cells are free.
BULK = (0, 4, 5, 6, 10, 11)
#: eV/Å: until which calls are counted, and until which energies are minima's. Most calls to each.
COUNTED, FMAX, CALLS = 0.05, 0.02, 300
#: Å, standard deviation; of strains a tenth of it.
RATTLE = 0.01
#: Most atoms of a crystal.
LARGEST = 20

#: Names of a relaxation and of a crystal.
Key = tuple[str, str]


def choose(files: Sequence[Path], each: int) -> dict[str, Crystal]:
    """So many unrelaxed test crystals of each kind, evenly spaced, by kind and place among them."""
    generated = [file for file in files if "generated" in file.stem]
    groups = [([file], {-1: file.stem.removeprefix("pairs_")}) for file in files if file not in generated]
    groups += [(generated, {kind: KINDS[kind] for kind in BULK})] if generated else []
    chosen: dict[str, Crystal] = {}
    for sources, kinds in groups:
        pairs = load_pairs(sources)
        for kind, name in kinds.items():
            wanted = (pairs.split == SPLITS["test"]) & (pairs.counts <= LARGEST) & (pairs.kind == kind)
            found = wanted.nonzero().squeeze(1)
            index = found[torch.linspace(0, len(found) - 1, min(each, len(found))).round().long()]
            made = crystals_of(pairs.take(index), "initial")
            chosen |= {f"{name}/{place}": crystal for place, crystal in enumerate(made)}
    return chosen


def rattled(crystals: dict[str, Crystal]) -> dict[str, Crystal]:
    """The ``crystals`` without their symmetry."""
    made: dict[str, Crystal] = {}
    for seed, (name, crystal) in enumerate(crystals.items()):
        generator = np.random.default_rng(seed)
        cell = crystal.cell @ (np.eye(3) + generator.normal(0, RATTLE / 10, (3, 3)))
        moves = generator.normal(0, RATTLE, (len(crystal), 3))
        made[name] = crystal.with_geometry(crystal.fractional_positions @ cell + moves, cell)
    return made


def jumps_of(crystals: dict[str, Crystal], predictor: Predictor) -> dict[str, Prediction]:
    """The predictions for those of the ``crystals`` that are predicted with cells of their own, no slabs."""
    made = zip(crystals, predictor.predict_many(list(crystals.values())), strict=True)
    found = {name: one for name, one in made if isinstance(one, Prediction)}
    return {name: one for name, one in found.items() if one.error is not None and one.error.volume is not None}


def descend(
    crystals: dict[Key, Crystal], optimizer: str, potential: BatchedPotential
) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Where each of the ``crystals`` ends; those that the potential fails on are left out."""
    names, found, further = list(crystals), dict[Key, dict[str, Any]](), dict[Key, BatchedStart]()
    how: dict[str, Any] = {"optimizer": optimizer, "steps": CALLS - 1}
    starts = [BatchedStart(c.numbers, c.positions, c.cell, AllowedStrain()) for c in crystals.values()]
    for place, end in relax_in_batches(starts, potential, fmax=COUNTED, **how):
        if end.results is not None:
            name, start = names[place], starts[place]
            found[name] = {"calls": end.calls, "converged": end.converged}
            further[name] = replace(start, positions=end.positions, cell=end.cell, known=end.results)
    names = list(further)
    for place, end in relax_in_batches(list(further.values()), potential, fmax=FMAX, **how):
        if end.results is not None:
            yield names[place], found[names[place]] | {"energy": end.results.energy / len(end.positions)}


def judged(jumps: dict[str, Prediction], potential: BatchedPotential) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Whether the optimizer would keep each jump, and the calls that tell it."""
    ends = [crystal for one in jumps.values() for crystal in (one.initial, one.relaxed)]
    found = list(evaluated(ends, potential))
    for k, (name, one) in enumerate(jumps.items()):
        before, after = (_seen(found[n], ends[n]) for n in (2 * k, 2 * k + 1))
        kept = not one.unchanged and JumpCriteria().judge(before, after, len(one.initial)).kept
        yield (JUDGED, name), {"kept": kept, "calls": 1 + (not one.unchanged)}


def _seen(found: KnownResults | Exception, crystal: Crystal) -> EnergyForces:
    """Energy and largest force as an optimizer of positions and cell sees them; NaN where the potential fails."""
    if isinstance(found, Exception):
        return EnergyForces(np.nan, np.nan)
    virial = found.stress * crystal.volume / len(crystal)
    return EnergyForces(found.energy, float(np.linalg.norm([*found.forces, *virial], axis=1).max()))


def figures(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All that the page tells of ``rows``: relaxations, and how the jump was judged, by crystal."""
    rows = {name: row for name, row in rows.items() if {AGAINST, JUMP, JUDGED} <= row.keys()}
    kinds = dict.fromkeys(name.partition("/")[0] for name in rows)
    alone = [run for run in RUNS if run.startswith("the unrelaxed")]
    spread = [np.ptp([row[run]["energy"] for run in alone]) for row in rows.values() if row.keys() >= {*alone}]
    of_kind = {kind: [row for name, row in rows.items() if name.startswith(f"{kind}/")] for kind in kinds}
    return {
        "runs": {run: _cells(list(rows.values()), run) for run in RUNS if run != AGAINST},
        "by kind": {kind: _cells(own, JUMP) for kind, own in of_kind.items()},
        "kept": float(np.mean([row[JUDGED]["kept"] for row in rows.values()])),
        "starts disagree": float((np.array(spread) > SAME).mean()),
    }


def _cells(rows: Sequence[dict[str, Any]], run: str) -> dict[str, float]:
    """Of the crystals that have this run; a jump that is not kept ends where FIRE does, and costs its call."""
    rows, jumps = [row for row in rows if run in row], run.startswith("the jump")
    taken = [AGAINST if jumps and not row[JUDGED]["kept"] else run for row in rows]
    changes = np.array([row[way]["energy"] - row[AGAINST]["energy"] for way, row in zip(taken, rows, strict=True)])
    calls = [row[way]["calls"] for way, row in zip(taken, rows, strict=True)]
    if jumps:  # the results at the end of a jump that is kept are the finish's too
        calls = [
            n + (1 if row[JUDGED]["kept"] else row[JUDGED]["calls"] - 1) for n, row in zip(calls, rows, strict=True)
        ]
    sides = {"higher": changes > SAME, "higher by 5": changes > APART}
    sides |= {"lower": changes < -SAME, "lower by 5": changes < -APART}
    told = {name: float(side.mean()) for name, side in sides.items()} | {"mean": float(changes.mean())}
    own = float(np.mean([row[AGAINST]["calls"] for row in rows]))
    return {"crystals": len(rows), **told, "calls": float(np.mean(calls)), "FIRE's": own}


def main() -> None:
    """Measure, and write JSON."""
    each = {"default": 150, "help": "crystals of each kind, evenly spaced (default %(default)s)"}
    cache = {"required": True, "help": "file to keep relaxations in, and to go on with"}
    names = ("data", "--each", "--cache", "--device", "--json")
    given = options(__doc__, *names, each=each, cache=cache).parse_args()
    torch.set_num_threads(1)
    crystals = choose(given.data, given.each)
    predictor, potential = (
        Predictor(M3GNET_RELAX_MODEL, device=given.device),
        get_batched("m3gnet", device=given.device),
    )
    shaken = rattled(crystals)
    jumps, others = jumps_of(crystals, predictor), jumps_of(shaken, predictor)
    ends = {name: one.relaxed for name, one in jumps.items()}
    begun = {
        "unrelaxed": crystals,
        "unrelaxed, rattled": shaken,
        "jump": ends,
        "jump, rattled": rattled(ends),
        "jump from rattled": {name: one.relaxed for name, one in others.items()},
    }
    lines = given.cache.read_text(encoding="utf-8").splitlines() if given.cache.exists() else []
    found = {(line["run"], line["crystal"]): line["found"] for line in map(json.loads, lines)}
    with given.cache.open("a", encoding="utf-8") as stream:

        def keep(made: Iterator[tuple[Key, dict[str, Any]]]) -> None:
            for (run, name), told in made:
                found[run, name] = told
                print(json.dumps({"run": run, "crystal": name, "found": told}), file=stream, flush=True)

        keep(judged({name: one for name, one in jumps.items() if (JUDGED, name) not in found}, potential))
        for optimizer in dict.fromkeys(optimizer for _, optimizer in RUNS.values()):
            runs = [run for run, (_, by) in RUNS.items() if by == optimizer]
            todo = {(run, name): crystal for run in runs for name, crystal in begun[RUNS[run][0]].items()}
            keep(descend({key: crystal for key, crystal in todo.items() if key not in found}, optimizer, potential))
    how = {"counted to": COUNTED, "minimum at": FMAX, "most calls": CALLS, "rattled by": RATTLE, "atoms": LARGEST}
    head = {"environment": environment(), "model": predictor.model_name, "how": how}
    rows = {name: {run: found[run, name] for run in (JUDGED, *RUNS) if (run, name) in found} for name in jumps}
    write_json(given.json, head | figures(rows))


if __name__ == "__main__":
    main()
