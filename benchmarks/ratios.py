"""Times of fixed work over that of a fixed reference kernel in the same run: to be compared between commits.

python benchmarks/ratios.py --json ratios.json
python benchmarks/ratios.py --compare before.json after.json

The reference is a matrix product and a gather of fixed sizes. Each piece of work is timed in turns with it, on one
thread in processor time, and the ratio is that of the shortest times: so what else the machine does, and how fast it
is, hardly counts. ``make ratios`` prints one line.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write
from shared import options

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.graph import build_graph
from deeprelax_ase.io.source import open_source
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.screening.blocks import table_of
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import structures_table
from deeprelax_ase.screening.table_relaxer import TableRelaxer

#: Ratios that differ by less than this share are told as equal.
NOISE = 0.1


def crystals(number: int) -> list[Atoms]:
    """Rattled rock salts of eight atoms, the same everywhere."""
    made, random = [], np.random.default_rng(0)
    for n in range(number):
        metal, other, a = (("Na", "Cl", 5.6), ("Mg", "O", 4.2), ("Ca", "S", 5.7), ("Li", "F", 4.0))[n % 4]
        atoms = bulk(metal + other, "rocksalt", a=a, cubic=True)
        atoms.positions += 0.05 * random.normal(size=atoms.positions.shape)
        made.append(atoms)
    return made


def reference() -> Callable[[], None]:
    """The fixed kernel, some ten milliseconds: matrix products as the network's, and 16 MB gathered."""
    random = torch.Generator().manual_seed(0)
    atoms, weights = torch.rand(512, 256, generator=random), torch.rand(256, 1280, generator=random)
    rows, order = torch.rand(8192, 256, generator=random), torch.randint(8192, (16384,), generator=random)

    def work() -> None:
        for _ in range(3):
            torch.mm(atoms, weights)
        torch.index_select(rows, 0, order)

    return work


def work(folder: Path) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    given = crystals(16)
    made = [Crystal.of(atoms) for atoms in given]
    predictor, fast = Predictor(device="cpu"), Predictor(device="cpu", one_shot="fast")
    relaxer = TableRelaxer(RelaxOptions(device="cpu", one_shot="fast"), fast)
    write(folder / "given.extxyz", crystals(200))
    refs, table = list(open_source(folder / "given.extxyz").refs()), structures_table(given)
    settings = predictor.model.config.graph
    return {
        "graph of 16": lambda: build_graph(made, settings=settings),
        "one crystal": lambda: predictor.predict(made[0]),
        "16 crystals": lambda: list(predictor.predict_many(made)),
        "16 rows, fast": lambda: relaxer(table),
        "200 frames read": lambda: table_of(refs),
    }


def measured(pieces: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Of each piece the ratio of the shortest times, and its spread: how far those of two halves differ."""
    kernel, found = reference(), {}
    for name, piece in pieces.items():
        piece()
        spent = np.array([[_seconds(kernel), _seconds(piece)] for _ in range(rounds)])
        whole, *halves = (part[:, 1].min() / part[:, 0].min() for part in (spent, spent[::2], spent[1::2]))
        found[name] = {"ratio": float(whole), "spread": float(abs(halves[0] - halves[1]))}
    return found


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each piece of work that both have."""
    lines = []
    for name, row in after["ratios"].items():
        if (old := before["ratios"].get(name)) is None:
            continue
        change, doubt = row["ratio"] / old["ratio"], NOISE + (row["spread"] + old["spread"]) / old["ratio"]
        word = "equal" if abs(change - 1) <= doubt else "slower" if change > 1 else "faster"
        lines.append(f"{name}: {old['ratio']:.3g} -> {row['ratio']:.3g}, {change:.2f} times, {word}")
    return lines


def main() -> None:
    """Measure and print one line, or compare."""
    given = options(
        __doc__,
        "--rounds",
        json={"type": Path, "help": "write the ratios here"},
        compare={"type": Path, "nargs": 2, "help": "files to compare in place of measuring"},
    ).parse_args()
    if given.compare:
        print("\n".join(compared(*(json.loads(file.read_text(encoding="utf-8")) for file in given.compare))))
        return
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        found = measured(work(Path(folder)), given.rounds)
    told = ", ".join(f"{name} {row['ratio']:.3g} ± {row['spread']:.1g}" for name, row in found.items())
    print(f"times of the reference kernel: {told}")
    if given.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        write_json(given.json, {"environment": environment(), "commit": commit.stdout.strip(), "ratios": found})


if __name__ == "__main__":
    main()
