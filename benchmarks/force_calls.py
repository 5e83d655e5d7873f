"""Force calls and time that a relaxation takes under M3GNet, positions and cell, with and without the jump.

DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/force_calls.py ../shared/data/pairs_universal.npz \\
    ../shared/data/pairs_xmno.npz --cache force_calls_runs.jsonl --json benchmarks/results/force_calls.json

Seconds are those of the processor, so that a busy machine may measure them.
With ``--calls-only`` times are left out, as where --cache holds runs of several machines.
With ``--potential gpaw --finish bfgs fire fast --fmax 0.05`` it does so under GPAW, see dft.py, on crystals of
pairs_generated_?.npz that are cheap there; --kept-only makes the results of a run that was stopped, for each finish of
the crystals that it has relaxed both with and without the jump.

A call is one of the calculator's ``calculate``: energy, forces and stress together. With the jump, DeepRelaxOptimizer
runs as it comes: its calls are the one before the jump, those that judge it, and the finish's; its time holds the
network's. Each relaxation goes to the first fmax, and on to the next.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from counted_relaxations import Run, Task, choose, relax_all
from dft import SPACINGS, choose_cheap
from dft import settings as settings_of
from shared import options

from deeprelax_ase.calculators import M3GNET_POTENTIAL, M3GNET_VARIABLE
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.models.registry import M3GNET_RELAX_MODEL as MODEL

FINISHES = ("fire", "bfgs", "lbfgs", "fast")
FMAXES = (0.05, 0.01)
#: eV/atom, within which two energies are those of one minimum.
SAME = 1e-3


def compare(runs: Sequence[tuple[Run, Run]], fmax: float, *, timed: bool) -> dict[str, Any]:
    """Figures at ``fmax`` of pairs of runs without and with the jump; means over crystals that both have relaxed."""
    key = f"{fmax:g}"
    reached = [(old, new) for old, new in runs if key in old.reached and key in new.reached]
    both = [(old.reached[key], new.reached[key]) for old, new in reached]
    calls = np.array([(old.calls, new.calls) for old, new in both], dtype=float).reshape(-1, 2)
    measured = {"calls": calls}
    if timed:
        measured["seconds"] = np.array([(old.seconds, new.seconds) for old, new in both]).reshape(-1, 2)
    change = np.array([new.energy - old.energy for old, new in both])
    return {
        "crystals": len(runs),
        "reached_without": sum(key in old.reached for old, _ in runs),
        "reached_with": sum(key in new.reached for _, new in runs),
        "compared": len(both),
        **{what: {"without": _spread(v[:, 0]), "with": _spread(v[:, 1])} for what, v in measured.items()},
        "ratio_of_means": {what: _ratio(values) for what, values in measured.items()},
        "fewer_calls": float((calls[:, 1] < calls[:, 0]).mean()),
        "taken_back": float(np.mean([new.jump == "rejected" for _, new in runs])),
        "energy": {
            "mean": float(change.mean()),
            "same": float((abs(change) <= SAME).mean()),
            "lower": float((change < -SAME).mean()),
            "higher": float((change > SAME).mean()),
        },
        "per_crystal": {
            "names": [old.crystal for old, _ in reached],
            "calls_without": calls[:, 0].astype(int).tolist(),
            "calls_with": calls[:, 1].astype(int).tolist(),
            "energy_change": change.round(6).tolist(),
        },
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    names = ("p10", "median", "p90")
    return {"mean": float(values.mean()), **dict(zip(names, np.percentile(values, (10, 50, 90)).tolist(), strict=True))}


def _ratio(values: np.ndarray) -> float:
    return float(values[:, 1].mean() / values[:, 0].mean())


def failures(runs: Sequence[Run], fmax: float) -> list[str]:
    """A line for each of the ``runs`` that did not come to ``fmax``."""
    lost = [run for run in runs if f"{fmax:g}" not in run.reached]
    return [
        f"{r.crystal}, {r.finish}, {r.model or 'no jump'}: {r.error or 'out of steps'}" for r in sorted(lost, key=str)
    ]


def _pairs(runs: Mapping[Task, Run], finish: str, crystals: Iterable[str], model: str) -> list[tuple[Run, Run]]:
    """Runs without and with the jump, of the crystals that have both."""
    tasks = [(Task(i, finish, ""), Task(i, finish, model)) for i in crystals]
    return [(runs[old], runs[new]) for old, new in tasks if old in runs and new in runs]


def main() -> None:
    """Relax, and write JSON."""
    args = _arguments()
    crystals = (choose_cheap if args.potential in SPACINGS else choose)(args.data, args.split, args.limit)
    model = load_model(args.model).card.name
    # with and without the jump one after the other, so that the times compare when the machine's speed drifts
    tasks = {Task(i, f, m): crystal for i, crystal in crystals.items() for f in args.finish for m in ("", args.model)}
    fmaxes = sorted(args.fmax, reverse=True)
    settings = {} if args.force_informed_steps is None else {"force_informed_steps": args.force_informed_steps}
    how = {"potential": args.potential, "fmaxes": fmaxes, "settings": settings}
    runs = relax_all(tasks, workers=args.workers, journal=args.cache, kept_only=args.kept_only, **how)
    both = {finish: _pairs(runs, finish, crystals, args.model) for finish in args.finish}
    both = {finish: pairs for finish, pairs in both.items() if pairs}
    timed = not args.calls_only
    figures = {f"{fmax:g}": {f: compare(both[f], fmax, timed=timed) for f in both} for fmax in fmaxes}
    results = {
        "environment": environment() | {"workers": str(args.workers)},
        "data": [file.name for file in args.data],
        "split": args.split,
        "potential": settings_of(args.potential)
        if args.potential in SPACINGS
        else Path(os.environ.get(M3GNET_VARIABLE, M3GNET_POTENTIAL)).name,
        "model": model,
        "weights": " and ".join(sorted({run.weights for run in runs.values()} - {""})),
        "settings": settings,
        "chosen": args.limit,
        "figures": figures,
        "failures": failures(list(runs.values()), min(fmaxes)),
    }
    write_json(args.json, results)


def _arguments() -> Namespace:
    return options(
        __doc__,
        "data",
        "--model",
        "--cache",
        "--json",
        model={"default": MODEL},
        cache={"help": "file to keep the relaxations in, a line each as they end, and to go on with"},
        potential={"choices": ("m3gnet", *SPACINGS), "default": "m3gnet", "help": "default %(default)s"},
        calls_only={"action": "store_true", "help": "leave times out, which compare only within one run"},
        kept_only={"action": "store_true", "help": "take the crystals whose relaxations --cache holds, and make none"},
        force_informed_steps={"type": int, "help": "further jumps (default: the optimizer's)"},
        split={"default": "test", "help": "to take crystals from (default %(default)s)"},
        finish={"nargs": "+", "default": list(FINISHES), "help": "default: all"},
        fmax={"nargs": "+", "type": float, "default": list(FMAXES), "help": "eV/Å (default %(default)s)"},
        limit={"type": int, "default": 100, "help": "crystals, evenly spaced (default %(default)s)"},
        workers={"type": int, "default": os.cpu_count(), "help": "processes (default %(default)s)"},
    ).parse_args()


if __name__ == "__main__":
    main()
