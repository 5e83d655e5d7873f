"""Time of a one-shot relaxation on one CPU thread, against one energy+forces+stress call of a potential, and memory.

python benchmarks/latency.py --json benchmarks/results/latency.json

The two are timed in turn in one process, in processor time, so that the ratio holds when the machine's speed drifts and
on a busy one. Peak memory is that of a process of its own for each (Linux). M3GNet's weights are found by MatGL, or
where DEEPRELAX_M3GNET says. With --parts start the command alone is timed, from start to end, beside imports that it
cannot do without.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.spacegroup import crystal
from shared import options, read

from deeprelax_ase import Predictor
from deeprelax_ase.calculators import get_calculator
from deeprelax_ase.evaluation.results import environment, write_json


def ten_atoms(seed: int) -> Atoms:
    """Two cells of BaZrO3 in the lattice of SrTiO3, rattled by 0.05 Å so that no symmetry helps."""
    cubic = crystal(
        "BaZrO", [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[3.905] * 3 + [90] * 3
    )
    atoms = cubic.repeat((1, 1, 2))
    atoms.rattle(0.05, seed=seed)
    return atoms


#: What can be measured alone.
PARTS = ("calls", "start")

#: Model and preset of the relaxations that are timed, by the name of their row.
ONE_SHOTS: dict[str, tuple[str, str]] = {
    "DeepRelax-PBE": ("DeepRelax-PBE", "default"),
    "DeepRelax-PBE, fast": ("DeepRelax-PBE", "fast"),
    "DeepRelax-PBE-v0": ("DeepRelax-PBE-v0", "default"),
}


def one_shot(name: str) -> Callable[[Atoms], object]:
    """A relaxation without a calculator; ``name`` is a key of :data:`ONE_SHOTS`."""
    model, preset = ONE_SHOTS[name]
    return Predictor(model, one_shot=preset, device="cpu").predict


def single_point(name: str) -> Callable[[Atoms], object]:
    """Energy, forces and stress under the potential ``name``."""
    calculator = get_calculator(name, device="cpu")

    def call(atoms: Atoms) -> None:
        atoms.calc = calculator
        atoms.get_potential_energy()
        atoms.get_forces()
        atoms.get_stress()

    return call


def seconds(call: Callable[[Atoms], object], atoms: Atoms) -> float:
    """Processor time, which other processes on the machine take no part of."""
    start = time.process_time()
    call(atoms)
    return time.process_time() - start


def peak_memory(kind: str, name: str) -> float:
    """MiB that a process takes at most that loads the model and calls it once."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (kind, name))


def _peak_memory(kind: str, name: str) -> float:
    torch.set_num_threads(1)
    call = one_shot(name) if kind == "one-shot" else single_point(name)
    call(ten_atoms(0))
    status = Path("/proc/self/status").read_text(encoding="ascii")  # getrusage would count the parent's peak as well
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


#: Commands of a process each, by the name of their row.
STARTS = {
    "import torch": ["-c", "import torch"],
    "import torch and ase.io": ["-c", "import torch, ase.io"],
    "deeprelax relax POSCAR": ["-m", "deeprelax_ase.cli", "relax", "POSCAR", "-o", "CONTCAR", "--overwrite", "-q"],
}


def starts(rounds: int) -> dict[str, float]:
    """Median seconds of processor time of :data:`STARTS` from start to end, in turns, on one thread."""
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    with TemporaryDirectory() as folder:
        ten_atoms(0).write(Path(folder) / "POSCAR", format="vasp")
        for _ in range(rounds):
            for name, arguments in STARTS.items():
                before = _of_children()
                subprocess.run(
                    [sys.executable, *arguments], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True
                )
                times[name].append(_of_children() - before)
    return {name: float(np.median(values)) for name, values in times.items()}


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def calls(potential: str, rounds: int) -> dict[str, Any]:
    """Times and memory of the relaxations, and of the ``potential``."""
    torch.set_num_threads(1)
    made = {name: one_shot(name) for name in ONE_SHOTS}
    made[f"{potential} energy+forces+stress"] = single_point(potential)
    times: dict[str, list[float]] = {name: [] for name in made}
    for round_ in range(rounds + 5):
        for name, call in made.items():
            elapsed = seconds(call, ten_atoms(round_))
            if round_ >= 5:  # the first rounds warm caches
                times[name].append(elapsed)
    compared = times[f"{potential} energy+forces+stress"]
    stages = Predictor(device="cpu").predict(ten_atoms(0)).timings
    memory = {name: peak_memory("one-shot", name) for name in ONE_SHOTS}
    memory[f"{potential} energy+forces+stress"] = peak_memory("potential", potential)
    results = {
        name: {
            "median_ms": 1e3 * float(np.median(values)),
            "ratio_to_potential": float(np.median(np.array(values) / np.array(compared))),
            "peak_memory_MiB": memory[name],
        }
        for name, values in times.items()
    }
    return {"environment": environment(), "results": results, "stages_s": stages}


def main() -> None:
    """Measure, and add to the file."""
    given = options(
        __doc__,
        "--rounds",
        "--json",
        rounds={"default": 40},
        calculator={"default": "m3gnet", "help": "potential to compare with (default %(default)s)"},
        parts={"nargs": "+", "choices": PARTS, "default": PARTS, "help": "what to measure (default all)"},
        name={"default": "now", "help": "of this tree, for the start of the command (default %(default)s)"},
    ).parse_args()
    report = read(given.json.parent, given.json.stem) if given.json.exists() else {}
    if "calls" in given.parts:
        report |= calls(given.calculator, given.rounds)
    if "start" in given.parts:
        measured = {"environment": environment(), "seconds": starts(given.rounds)}
        report["start"] = {**report.get("start", {}), given.name: measured}
    write_json(given.json, report)


if __name__ == "__main__":
    main()
