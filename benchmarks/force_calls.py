"""Force calls that a relaxation takes under M3GNet, positions and cell: from the unrelaxed crystal and from the jump.

DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/force_calls.py ../shared/data/pairs_universal.npz \\
    ../shared/data/pairs_xmno.npz --cache force_baseline.json --json benchmarks/results/force_calls.json

A call is one of the calculator's ``calculate``: energy, forces and stress together. A jump counts as the calls that
take as long on the same thread; with --corrections there are further jumps, which know the forces where the last one
landed, counted alike. DeepRelaxOptimizer makes one call more, before the jump, and strains from the unrelaxed cell.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from environment import environment
from latency import seconds
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deeprelax_ase import Crystal, Predictor
from deeprelax_ase.calculators import M3GNET_MODEL, M3GNET_VARIABLE, get_calculator
from deeprelax_ase.data import crystals_of, load_pairs
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.models import DEFAULT_MODEL, load_model
from deeprelax_ase.optimizers.correction import Correction

FINISHES: dict[str, tuple[type, dict[str, Any]]] = {
    "fire": (FIRE, {}),
    "bfgs": (BFGS, {"alpha": 30}),
    "lbfgs": (LBFGS, {"alpha": 30}),
}
MAX_STEPS, TIMED_CRYSTALS, TIMED_ROUNDS = 300, 15, 3
#: Index of a crystal and name of a finish.
Task = tuple[int, str]


@dataclass(frozen=True)
class Run:
    """One relaxation: calls of the potential, final energy in eV/atom, and what was raised if anything was.

    ``corrections`` is how often the network jumped again.
    """

    crystal: int
    finish: str
    calls: int
    converged: bool
    energy: float | None = None
    error: str | None = None
    corrections: int = 0


class CountedM3GNet:
    """M3GNet on the CPU; ``calls`` is how often its ``calculate`` was called."""

    def __init__(self) -> None:
        self.calculator = get_calculator("m3gnet")
        self._calculate, self.calculator.calculate = self.calculator.calculate, self._counted
        self.calls = 0

    def _counted(self, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        self._calculate(*args, **kwargs)


#: One of each in a process.
potential = cache(CountedM3GNet)
predictor = cache(partial(Predictor, device="cpu", graph_backend="torch"))


def jump(crystal: Crystal, model: str, passes: int | None) -> Crystal:
    """The crystal that ``model`` predicts in so many ``passes``."""
    return predictor(model, passes=passes).predict(crystal).relaxed


def relax(task: Task, crystal: Crystal, *, model: str | None, passes: int | None, corrections: int, fmax: float) -> Run:
    """Relax positions and cell from the jump of ``model``, or from ``crystal`` itself where that is None."""
    counted = potential()
    counted.calculator.reset()
    counted.calls = 0
    optimizer, options = FINISHES[task[1]]
    corrected = 0
    try:
        atoms = (crystal if model is None else jump(crystal, model, passes)).to_atoms()
        atoms.calc = counted.calculator
        if model is not None and corrections:
            correction = Correction(atoms, predictor(model, passes=passes), corrections)
            while np.linalg.norm(FrechetCellFilter(atoms).get_forces(), axis=1).max() > fmax and correction.step():
                corrected += 1
        converged = optimizer(FrechetCellFilter(atoms), logfile=None, **options).run(fmax=fmax, steps=MAX_STEPS)
        energy = float(atoms.get_potential_energy()) / len(atoms)
    except Exception as error:  # far from its training data a potential may raise anything
        return Run(*task, counted.calls, False, error=f"{type(error).__name__}: {error}", corrections=corrected)
    return Run(*task, counted.calls, bool(converged), energy, corrections=corrected)


def relax_all(pool: Executor, work: partial[Run], tasks: dict[Task, Crystal]) -> Iterator[tuple[Task, Run]]:
    """The ``tasks`` with their runs, as they are done."""
    jobs = {pool.submit(work, task, crystal): task for task, crystal in tasks.items()}
    for job in track(as_completed(jobs), f"from {work.keywords['model'] or 'unrelaxed'}", len(jobs), transient=True):
        yield jobs[job], job.result()


class Costs(NamedTuple):
    """Of the jump and of each of its corrections, in calls of the potential."""

    jump: float
    correction: float


def costs(crystals: list[Crystal], model: str, passes: int | None) -> Costs:
    """Median times over that of a call of the potential, timed in turn, crystal by crystal.

    A correction is one pass of the same networks; it is timed as a jump of one pass.
    """
    calculator, times = potential().calculator, []
    for crystal in crystals * (1 + TIMED_ROUNDS):
        calculator.reset()
        jumps = [seconds(partial(jump, model=model, passes=count), crystal) for count in (passes, 1)]
        times.append((*jumps, seconds(calculator.get_stress, crystal.to_atoms())))
    whole, once, call = np.median(np.reshape(times[len(crystals) :], (-1, 3)), axis=0)  # the first round warms caches
    return Costs(float(whole / call), float(once / call))


def summarise(runs: Sequence[tuple[Run, Run]], cost: Costs) -> dict[str, dict]:
    """Figures of the ``runs`` from the unrelaxed crystal and from its jump."""
    both = [(before, after) for before, after in runs if before.converged and after.converged]
    old, new = np.array([(before.calls, after.calls) for before, after in both], dtype=float).reshape(-1, 2).T
    extra = np.array([cost.jump + cost.correction * after.corrections for _, after in both])
    change = 1e3 * np.array([after.energy - before.energy for before, after in both])
    same = np.abs(change) <= 1
    rows = {
        "crystals": (len(runs), "relaxed", "crystals"),
        "converged_unrelaxed": (np.mean([before.converged for before, _ in runs]), "converged from unrelaxed", "share"),
        "converged_jump": (np.mean([after.converged for _, after in runs]), "converged from jump", "share"),
        "raised_unrelaxed": (sum(before.error is not None for before, _ in runs), "raised from unrelaxed", "crystals"),
        "raised_jump": (sum(after.error is not None for _, after in runs), "raised from jump", "crystals"),
        "compared": (len(both), "converged from both, counted below", "crystals"),
        "unrelaxed": (old.mean(), "from unrelaxed, mean", "calls"),
        "unrelaxed_median": (np.median(old), "from unrelaxed, median", "calls"),
        "jump": (new.mean(), "from jump, mean", "calls"),
        "jump_median": (np.median(new), "from jump, median", "calls"),
        "corrections": (np.mean([after.corrections for _, after in both]), "corrections, mean", ""),
        "with_jump": ((new + extra).mean(), "from jump with its cost, mean", "calls"),
        "with_jump_median": (np.median(new + extra), "from jump with its cost, median", "calls"),
        "ratio": (new.mean() / old.mean(), "ratio of means", ""),
        "ratio_with_jump": ((new + extra).mean() / old.mean(), "ratio of means with the jump's cost", ""),
        "ratio_same_minimum": ((new + extra)[same].mean() / old[same].mean(), "the same, within 1 meV/atom only", ""),
        "energy_change": (change.mean(), "energy, jump minus unrelaxed, mean", "meV/atom"),
        "within": (same.mean(), "within 1 meV/atom", "share"),
        "lower": ((change < -1).mean(), "lower by more than 1 meV/atom", "share"),
        "higher": ((change > 1).mean(), "higher by more than 1 meV/atom", "share"),
    }
    return {key: dict(zip(("value", "description", "unit"), row, strict=True)) for key, row in rows.items()}


def failures(start: str, runs: Iterable[Run]) -> list[str]:
    """A line for each of the ``runs`` that did not converge."""
    lost = sorted((run.crystal, run.finish, run.error or "not converged") for run in runs if not run.converged)
    return [f"crystal {crystal}, {finish} from {start}: {reason}" for crystal, finish, reason in lost]


def spaced(items: Sequence, count: int) -> list:
    """At most ``count`` of the ``items``, evenly spaced."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]


def choose(files: Sequence[Path], split: str, limit: int) -> dict[int, Crystal]:
    """At most ``limit`` unrelaxed crystals of that split of the files, by index, whose M3GNet minimum is known."""
    pairs = load_pairs(files)
    known = np.concatenate([np.load(file, allow_pickle=False)["m3gnet_ok"] for file in files])
    index = spaced(np.flatnonzero((pairs.split.numpy() == SPLITS[split]) & known).tolist(), limit)
    return dict(zip(index, crystals_of(pairs.take(torch.tensor(index)), "initial"), strict=True))


def read_cache(file: Path | None, settings: dict[str, Any]) -> dict[Task, Run]:
    """The runs in ``file``; none if there is no file yet."""
    if file is None or not file.exists():
        return {}
    stored = json.loads(file.read_text(encoding="utf-8"))
    if stored["settings"] != settings:
        raise ValueError(f"{file} holds runs with {stored['settings']}, not with {settings}; name another --cache")
    return {(run["crystal"], run["finish"]): Run(**run) for run in stored["runs"]}


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write ``content``; an interrupted call leaves the old file whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)


def main() -> None:
    """Relax, print a table for each model and write JSON."""
    args = _parser().parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers: DGL and BLAS have threads of their own
    names = {model: load_model(model).card.name for model in args.model or [DEFAULT_MODEL]}
    settings = {
        "data": [file.name for file in args.data],
        "potential": Path(os.environ.get(M3GNET_VARIABLE, M3GNET_MODEL)).name,
        "fmax": args.fmax,
        "max_steps": MAX_STEPS,
        "finishes": {finish: options for finish, (_, options) in FINISHES.items()},
    }
    baseline = read_cache(args.cache, settings)
    crystals = choose(args.data, args.split, args.limit)
    tasks = {(i, finish): crystal for i, crystal in crystals.items() for finish in args.finish}
    work = partial(relax, passes=args.passes, corrections=args.corrections, fmax=args.fmax)
    report = {"environment": environment(), **settings, "passes": args.passes, "corrections": args.corrections}
    report["results"] = []
    pool = ProcessPoolExecutor(args.workers, get_context("spawn"), torch.set_num_threads, (1,))
    try:
        missing = {task: crystal for task, crystal in tasks.items() if task not in baseline}
        for task, run in relax_all(pool, partial(work, model=None), missing):
            baseline[task] = run
            if args.cache:
                write_json(args.cache, {"settings": settings, "runs": [asdict(run) for run in baseline.values()]})
        before = {task: baseline[task] for task in tasks}
        for model, name in names.items():
            after = dict(relax_all(pool, partial(work, model=model), tasks))
            raised = {run.crystal for run in (*before.values(), *after.values()) if run.error}
            timed = [crystals[i] for i in spaced([i for i in crystals if i not in raised], TIMED_CRYSTALS)]
            cost = pool.submit(costs, timed, model, args.passes).result()  # while the other workers rest
            figures = {f: summarise([(before[i, f], after[i, f]) for i in crystals], cost) for f in args.finish}
            prices = f"a jump takes as long as {cost.jump:.2f} calls, a correction {cost.correction:.2f}"
            _show(f"{name}, passes: {args.passes or 'by the card'}; {prices}", figures)
            lost = failures("unrelaxed", before.values()) + failures("jump", after.values())
            report["results"].append({"model": name, "cost": cost._asdict(), "finishes": figures, "failures": lost})
    finally:
        pool.shutdown(cancel_futures=True)
    if args.json:
        write_json(args.json, report)


def _show(title: str, figures: dict[str, dict]) -> None:
    table = Table("", *figures, "unit", title=title)
    for key, row in next(iter(figures.values())).items():
        table.add_row(row["description"], *(f"{of[key]['value']:.4g}" for of in figures.values()), row["unit"])
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs, with m3gnet_ok")
    parser.add_argument("--model", action="append", help=f"may be given several times (default {DEFAULT_MODEL})")
    parser.add_argument("--passes", type=int, help="of an end-to-end network; the card's number by default")
    parser.add_argument("--corrections", type=int, default=0, help="most further jumps (default %(default)s)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="to take crystals from (default %(default)s)")
    parser.add_argument("--finish", nargs="+", choices=FINISHES, default=list(FINISHES), help="default: all")
    parser.add_argument("--fmax", type=float, default=0.05, help="eV/Å (default %(default)s)")
    parser.add_argument("--limit", type=int, default=100, help="crystals, evenly spaced (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default %(default)s)")
    parser.add_argument("--cache", type=Path, help="keep the relaxations from the unrelaxed crystals here")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


if __name__ == "__main__":
    main()
