"""Where a relaxation with the jump ends, against FIRE from the same start: test crystals, and hostile ones.

DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/never_worse.py ../shared/data/pairs_universal.npz \\
    ../shared/data/pairs_xmno.npz --cache never_worse_runs.json --json benchmarks/results/never_worse.json

All are relaxed under M3GNet, positions and cell. Hostile are test crystals that are rattled by 0.5 Å, strained by 20 %
or have two elements swapped, and those with an element that fewer than one in a hundred training crystals have.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from files import write_json
from relaxing import Run, Task, choose, relax_all
from rich.console import Console
from rich.table import Table

from deeprelax_ase import Crystal
from deeprelax_ase.evaluation.machine import environment
from deeprelax_ase.models.registry import M3GNET_RELAX_MODEL as MODEL

#: eV/atom, by which an energy must be above another to count as higher.
SAME = 1e-3
#: Å, standard deviation of each coordinate; size of the strain's eigenvalues.
RATTLE, STRAIN = 0.5, 0.2


def rattled(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The crystal with its atoms displaced at random."""
    return crystal.with_geometry(crystal.positions + rng.normal(scale=RATTLE, size=(len(crystal), 3)), crystal.cell)


def strained(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The crystal stretched or compressed along each of three axes that are turned at random."""
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    deformation = (axes * (1 + STRAIN * rng.choice((-1, 1), size=3))) @ axes.T
    return crystal.with_geometry(crystal.positions @ deformation, crystal.cell @ deformation)


def swapped(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The crystal with two of its elements, if it has two, in each other's places."""
    kinds = np.unique(crystal.numbers)
    if len(kinds) == 1:
        return crystal
    one, other = rng.choice(kinds, size=2, replace=False)
    numbers = crystal.numbers.copy()
    numbers[crystal.numbers == one], numbers[crystal.numbers == other] = other, one
    return Crystal(numbers, crystal.positions, crystal.cell)


def starts(files: Sequence[Path], limit: int, hostile: int, seed: int) -> dict[str, dict[str, Crystal]]:
    """Unrelaxed crystals of each kind, by name."""
    rng = np.random.default_rng(seed)
    few = choose(files, "test", hostile)
    kinds = {"rattled": rattled, "strained": strained, "swapped": swapped}
    return {
        "test": choose(files, "test", limit),
        **{kind: {f"{kind} {i}": make(c, rng) for i, c in few.items()} for kind, make in kinds.items()},
        "rare": {f"rare {i}": c for i, c in choose(files, "test", hostile, rare=True).items()},
    }


def figures(runs: Sequence[tuple[Run, Run]], key: str) -> dict[str, Any]:
    """What became of pairs of runs, by FIRE and by the optimizer with the jump."""
    both = [(old.reached[key], new.reached[key]) for old, new in runs if key in old.reached and key in new.reached]
    change = np.array([new.energy - old.energy for old, new in both])
    worse = np.flatnonzero(change > SAME)
    lost = [new for old, new in runs if key in old.reached and key not in new.reached]
    names = [new.crystal for old, new in runs if key in old.reached and key in new.reached]
    return {
        "crystals": len(runs),
        "fire_relaxed": sum(key in old.reached for old, _ in runs),
        "jump_relaxed": sum(key in new.reached for _, new in runs),
        "taken_back": sum(new.jump == "rejected" for _, new in runs),
        "same": int((abs(change) <= SAME).sum()),
        "lower": int((change < -SAME).sum()),
        "higher": len(worse),
        "lost": [f"{run.crystal}: {run.error or 'out of steps'}" for run in lost],
        "mean_change": float(change.mean()) if len(change) else 0.0,
        "calls": {
            "fire": float(np.mean([old.calls for old, _ in both])) if both else 0.0,
            "jump": float(np.mean([new.calls for _, new in both])) if both else 0.0,
        },
        "worst": {names[i]: round(float(change[i]), 4) for i in worse[np.argsort(-change[worse])][:20]},
    }


def main() -> None:
    """Relax, print a table and write JSON."""
    args = _parser().parse_args()
    kinds = starts(args.data, args.limit, args.hostile, args.seed)
    tasks = {
        Task(name, "fire" if not model else args.finish, model): crystal
        for crystals in kinds.values()
        for name, crystal in crystals.items()
        for model in ("", args.model)
    }
    runs = relax_all(tasks, workers=args.workers, fmaxes=[args.fmax], settings={}, cache_file=args.cache)
    found = {
        kind: figures(
            [(runs[Task(n, "fire", "")], runs[Task(n, args.finish, args.model)]) for n in crystals], f"{args.fmax:g}"
        )
        for kind, crystals in kinds.items()
    }
    _show(found)
    if args.json:
        content = {"data": [file.name for file in args.data], "fmax": args.fmax, "seed": args.seed, "figures": found}
        header = {"finish": args.finish, "model": args.model}
        write_json(args.json, {"environment": environment(), **header, **content})


def _show(found: dict[str, dict[str, Any]]) -> None:
    columns = ("crystals", "fire_relaxed", "jump_relaxed", "taken_back", "same", "lower", "higher")
    table = Table("start", *(name.replace("_", " ") for name in columns), "meV/atom", "calls FIRE", "calls jump")
    for kind, of in found.items():
        calls = [f"{of['calls'][key]:.1f}" for key in ("fire", "jump")]
        table.add_row(kind, *(str(of[name]) for name in columns), f"{1e3 * of['mean_change']:+.1f}", *calls)
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs, with m3gnet_ok")
    parser.add_argument("--model", default=MODEL, help="of the jump (default %(default)s)")
    parser.add_argument("--finish", default="fire", help="of the jump (default %(default)s)")
    parser.add_argument("--fmax", type=float, default=0.05, help="eV/Å (default %(default)s)")
    parser.add_argument("--limit", type=int, default=300, help="test crystals, evenly spaced (default %(default)s)")
    parser.add_argument("--hostile", type=int, default=40, help="crystals of each hostile kind (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the hostile ones (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default %(default)s)")
    parser.add_argument("--cache", type=Path, help="keep the relaxations here, and go on with them")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


if __name__ == "__main__":
    main()
