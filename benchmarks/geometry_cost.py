"""What it costs a prediction to look for vacuum and collisions, in one run.

python benchmarks/geometry_cost.py --json benchmarks/results/geometry_cost.json
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from ase.build import mx2
from shared import options

from deeprelax_ase import Predictor
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.geometry.contacts import colliding
from deeprelax_ase.geometry.vacuum import vacuum_of
from deeprelax_ase.graph import build_graph


def rattled(atoms: Atoms, count: int) -> list[Crystal]:
    """So many of them, rattled by 0.05 Å each."""
    made = []
    for seed in range(count):
        copy = atoms.copy()
        copy.rattle(0.05, seed=seed)
        made.append(Crystal.of(copy))
    return made


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """On a CPU those of the process, which other processes do not lengthen."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def shares(predictor: Predictor, crystals: list[Crystal], rounds: int) -> dict[str, float]:
    """Of the time of a prediction, round by round; medians."""
    graph = build_graph(crystals, settings=predictor.model.config.graph, device=predictor.device)
    works = {
        "prediction (ms)": lambda: list(predictor.predict_many(crystals)),
        "vacuum (ms)": lambda: vacuum_of(graph),
        "collisions (ms)": lambda: colliding(graph.numbers, graph.positions, graph.cell, graph.batch),
    }
    for work in works.values():
        work()
    times = np.array([[1e3 * seconds(work, predictor.device) for work in works.values()] for _ in range(rounds)])
    ratio = (times[:, 1] + times[:, 2]) / times[:, 0]
    return {**dict(zip(works, np.median(times, axis=0).tolist(), strict=True)), "share": float(np.median(ratio))}


def main() -> None:
    given = options(__doc__, "--rounds", "--json").parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    oxide = Atoms("SrTiO3", scaled_positions=sites, cell=[3.95] * 3, pbc=True).repeat((2, 2, 1))
    layer = mx2("MoS2", vacuum=7.5).repeat((2, 2, 1))
    layer.pbc = True
    for members, recycles in ((1, 1), (None, None)):
        predictor = Predictor(members=members, recycles=recycles, keep_symmetry=False)
        for name, atoms in (("crystals", oxide), ("layers", layer)):
            for count in (1, 10) if predictor.device.type == "cpu" else (1, 1000):
                key = f"{predictor.recycles} x {len(predictor.model.networks)}, {count} {name}"
                found[key] = shares(predictor, rattled(atoms, count), given.rounds)
                print(key, found[key], flush=True)
    write_json(given.json, {"environment": environment(), "results": found})


if __name__ == "__main__":
    main()
