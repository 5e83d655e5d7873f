"""Time of building graphs by each backend, and what the first graph of a process costs. On one CPU thread.

python benchmarks/graphs.py --json benchmarks/results/graphs.json

The backends take turns in one process, so that the ratio holds when the machine's speed drifts. Costs of the first
graph are those of processes of their own (Linux).
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import torch
from ase.spacegroup import crystal as ase_crystal
from shared import options

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.graph import BACKENDS, build_graph

#: Cells of BaZrO3, of five atoms each, along the axes of a crystal; and how many such crystals are built at once.
CASES = {
    "5 atoms": ((1, 1, 1), 1),
    "20 atoms": ((2, 2, 1), 1),
    "135 atoms": ((3, 3, 3), 1),
    "64 crystals of 20 atoms": ((2, 2, 1), 64),
}

_FIRST = """
import time
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph import build_graph
start = time.perf_counter()
build_graph([Crystal([84], [[0, 0, 0]], [[3, 0, 0], [0, 3, 0], [0, 0, 3]])], backend="{backend}")
seconds = time.perf_counter() - start
status = open("/proc/self/status").read()
print(seconds, int(status.partition("VmHWM:")[2].split()[0]) / 1024)
"""


def crystals(cells: tuple[int, int, int], count: int) -> list[Crystal]:
    """Rattled by 0.05 Å, so that no two neighbours are equally far."""
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    atoms = ase_crystal("BaZrO", sites, spacegroup=221, cellpar=[4.19] * 3 + [90] * 3).repeat(cells)
    made = []
    for seed in range(count):
        rattled = atoms.copy()
        rattled.rattle(0.05, seed=seed)
        made.append(Crystal.of(rattled))
    return made


def milliseconds(given: list[Crystal], rounds: int) -> dict[str, float]:
    """The median time of each backend, and of how many times as long as torch's MatGL's takes."""
    times: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for _ in range(rounds + 2):  # the first rounds warm caches
        for backend in BACKENDS:
            start = time.perf_counter()
            build_graph(given, backend=backend)
            times[backend].append(1e3 * (time.perf_counter() - start))
    found = {backend: np.array(values[2:]) for backend, values in times.items()}
    ratio = np.median(found["matgl"] / found["torch"])
    return {**{backend: float(np.median(values)) for backend, values in found.items()}, "ratio": float(ratio)}


def first_graph(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds and MiB of the first graph in a process, imports of MatGL and DGL included."""
    found: dict[str, list[list[float]]] = {backend: [] for backend in BACKENDS}
    for _ in range(rounds):
        for backend in BACKENDS:
            command = [sys.executable, "-c", _FIRST.format(backend=backend)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[backend].append([float(word) for word in done.stdout.split()])
    medians = {backend: np.median(values, axis=0) for backend, values in found.items()}
    return {backend: {"seconds": float(s), "peak_memory_MiB": float(m)} for backend, (s, m) in medians.items()}


def main() -> None:
    """Measure, and write JSON."""
    given = options(__doc__, "--rounds", "--json", rounds={"default": 30}).parse_args()
    torch.set_num_threads(1)
    results = {name: milliseconds(crystals(*case), given.rounds) for name, case in CASES.items()}
    write_json(given.json, {"environment": environment(), "results_ms": results, "first_graph": first_graph(5)})


if __name__ == "__main__":
    main()
