"""DFT energies of unrelaxed, predicted and relaxed crystals, and DFT calls of relaxations with and without the jump.

python benchmarks/dft.py ../shared/data/pairs_universal.npz ../shared/data/pairs_xmno.npz --cache dft_runs.json \\
    --fast --json benchmarks/results/dft.json

The crystals are those of the test split with a DFT label, few atoms and main-group elements up to strontium alone, one
non-metal or metalloid at least: the first of each formula of the unit cell. DFT is PBE in GPAW, with plane waves up to
a fixed cutoff and, for each crystal, one mesh of k-points, so that its energies compare. A call is energy, forces and
stress of one geometry. Positions and cell are relaxed by the same BFGS from the unrelaxed crystal and in
DeepRelaxOptimizer, whose calls are all counted, those before the jump and those of rejected jumps included.

Every calculation that is done is kept in --cache, so that an interrupted run goes on; --again makes those anew that
depend on the network and its optimizer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.spacegroup.symmetrize import refine_symmetry
from ase.symbols import symbols2numbers
from dft_runs import JUMP, JUMP_FAST, PREDICTED, UNRELAXED, UNRELAXED_FAST, Cache, Run, measure
from files import write_json
from rich.console import Console
from rich.table import Table

from deeprelax_ase import DeepRelaxOptimizer, Predictor
from deeprelax_ase.data import crystals_of, load_pairs
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.evaluation.machine import environment
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.optimizers.model_hessian import ModelHessianBFGS

NON_METALS = frozenset(symbols2numbers("HBCNOFSiPSClGeAsSeBr"))
ELEMENTS = NON_METALS | frozenset(symbols2numbers("LiBeNaMgAlKCaGaRbSr"))
BFGS_OPTIONS = {"alpha": 30}
MAX_STEPS = 60
#: Å. Files of pairs hold single precision; GPAW sees a symmetry to 1e-7 only, and takes many times longer without it.
SYMPREC = 1e-3


def choose(files: Sequence[Path], max_atoms: int) -> dict[int, Atoms]:
    """The unrelaxed crystals, by index in the files; their symmetry is exact."""
    pairs = load_pairs(files)
    index = torch.nonzero((pairs.split == SPLITS["test"]) & pairs.dft & (pairs.counts <= max_atoms)).squeeze(1)
    first: dict[str, int] = {}
    made = {}
    for i, crystal in zip(index.tolist(), crystals_of(pairs.take(index), "initial"), strict=True):
        elements = set(crystal.numbers.tolist())
        atoms = crystal.to_atoms()
        formula = atoms.symbols.formula.format("metal")
        if len(elements) > 1 and elements <= ELEMENTS and elements & NON_METALS and first.setdefault(formula, i) == i:
            refine_symmetry(atoms, SYMPREC)
            made[i] = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
    return made


def relax(atoms: Atoms, fmax: float, optimizer: type[BFGS], **options: Any) -> bool:
    """From the atoms as they are."""
    return bool(optimizer(FrechetCellFilter(atoms), logfile=None, **options).run(fmax=fmax, steps=MAX_STEPS))


def predict(atoms: Atoms, predictor: Predictor) -> bool:
    """DFT of the predicted crystal."""
    relaxed = predictor.predict(atoms).relaxed
    atoms.set_cell(relaxed.cell)
    atoms.set_positions(relaxed.positions)
    atoms.get_potential_energy()
    return True


def jump(atoms: Atoms, predictor: Predictor, fmax: float, **finish: Any) -> bool:
    """A relaxation with the jump before it; ``finish`` are options of the optimizer."""
    return DeepRelaxOptimizer(atoms, predictor=predictor, logfile=None, **finish).run(fmax=fmax, steps=MAX_STEPS)


def summarise(runs: Iterable[Sequence[Run]]) -> dict[str, dict]:
    """Figures over those crystals whose three runs, ``unrelaxed``, ``predicted`` and with a jump, all converged."""
    done = [three for three in runs if all(run.converged for run in three)]
    if not done:
        return {}
    start, guess, plain_end, jump_end = (
        1e3 * np.array(values)
        for values in zip(
            *((p.energies[0], g.energies[0], p.energies[-1], j.energies[-1]) for p, g, j in done), strict=True
        )
    )
    plain, jumped = (np.array([three[k].calls for three in done]) for k in (0, 2))
    seconds = np.array([(three[0].seconds, three[2].seconds) for three in done])
    rows = {
        "crystals": (len(done), "converged from both, counted below", "crystals"),
        "energy_unrelaxed": (
            np.abs(start - plain_end).mean(),
            "energy, unrelaxed - relaxed, mean absolute",
            "meV/atom",
        ),
        "energy_predicted": (
            np.abs(guess - plain_end).mean(),
            "energy, predicted - relaxed, mean absolute",
            "meV/atom",
        ),
        "energy_unrelaxed_median": (np.median(np.abs(start - plain_end)), "the same, median, unrelaxed", "meV/atom"),
        "energy_predicted_median": (np.median(np.abs(guess - plain_end)), "the same, median, predicted", "meV/atom"),
        "unrelaxed": (plain.mean(), "DFT calls from unrelaxed, mean", "calls"),
        "jump": (jumped.mean(), "DFT calls with the jump, mean", "calls"),
        "ratio": (jumped.mean() / plain.mean(), "ratio of means", ""),
        "time_ratio": (seconds[:, 1].sum() / seconds[:, 0].sum(), "ratio of CPU times", ""),
        "within": (np.mean(np.abs(jump_end - plain_end) <= 1), "final energies within 1 meV/atom", "share"),
        "energy_change": (np.mean(jump_end - plain_end), "final energy, jump - unrelaxed, mean", "meV/atom"),
    }
    return {
        key: {"value": float(value), "description": description, "unit": unit}
        for key, (value, description, unit) in rows.items()
    }


def main() -> None:
    """Calculate, print a table and write JSON."""
    args = _parser().parse_args()
    torch.set_num_threads(1)
    model = load_model(args.model).card.name
    settings = {
        "data": [file.name for file in args.data],
        "dft": f"GPAW {version('gpaw')}, data {version('gpaw-data')}, PBE, plane waves to {args.ecut:g} eV",
        "k-points per 1/Å": args.density,
        "fmax": args.fmax,
        "max_steps": MAX_STEPS,
        "finish": {"bfgs": BFGS_OPTIONS},
    }
    cache, console = Cache(args.cache, settings), Console()
    crystals = dict(list(choose(args.data, args.max_atoms).items())[: args.limit])
    predictor = Predictor(args.model, device="cpu", graph_backend="torch")
    work: dict[str, Callable[[Atoms], bool]] = {
        UNRELAXED: lambda atoms: relax(atoms, args.fmax, BFGS, **BFGS_OPTIONS),
        PREDICTED: lambda atoms: predict(atoms, predictor),
        JUMP: lambda atoms: jump(atoms, predictor, args.fmax, finish="bfgs", finish_kwargs=dict(BFGS_OPTIONS)),
    }
    if args.fast:
        work[UNRELAXED_FAST] = lambda atoms: relax(atoms, args.fmax, ModelHessianBFGS)
        work[JUMP_FAST] = lambda atoms: jump(atoms, predictor, args.fmax, finish="fast")
    starts = {JUMP: UNRELAXED, JUMP_FAST: UNRELAXED_FAST}
    tasks = {kind: (kind, None if kind in starts.values() else model) for kind in work}
    if args.again:
        cache.runs = {key: run for key, run in cache.runs.items() if key[2] != model}
    for kind, task in tasks.items():
        for index, atoms in crystals.items():
            if (index, *task) not in cache.runs:
                run = measure((index, *task), atoms, work[kind], ecut=args.ecut, density=args.density)
                cache.add(run)
                ended = run.error or ("converged" if run.converged else "not converged")
                console.print(f"{run.formula}, {kind}: {run.calls} calls, {run.seconds:.0f} s, {ended}", markup=False)
    runs = {kind: [cache.runs[index, *task] for index in crystals] for kind, task in tasks.items()}
    threes = {kind: (runs[starts[kind]], runs[PREDICTED], runs[kind]) for kind in starts if kind in work}
    figures = {kind: summarise(zip(*three, strict=True)) for kind, three in threes.items()}
    for kind, three in threes.items():
        console.print(_table(f"{kind}; {model}; {settings['dft']}", *three))
        console.print(_summary(figures[kind]))
    if args.json:
        report = {"environment": environment(), **settings, "model": model, "results": figures}
        write_json(args.json, {**report, "runs": [asdict(run) for of_kind in runs.values() for run in of_kind]})


def _table(title: str, *runs: Sequence[Run]) -> Table:
    table = Table("crystal", title=title)
    for column in ("energy above relaxed (meV/atom)", "largest gradient (eV/Å)", "DFT calls", "CPU time (s)"):
        table.add_column(column, justify="right")
    table.add_column("final energies, jump - unrelaxed (meV/atom)", justify="right")
    for three in zip(*runs, strict=True):
        plain, guess, jumped = three
        errors = [run.error for run in three if run.error]
        if errors:
            table.add_row(plain.formula, errors[0])
            continue
        end = plain.energies[-1]
        table.add_row(
            plain.formula,
            f"{1e3 * (plain.energies[0] - end):.1f} → {1e3 * (guess.energies[0] - end):.1f}",
            f"{plain.gradients[0]:.2f} → {guess.gradients[0]:.2f}",
            f"{plain.calls} → {jumped.calls}",
            f"{plain.seconds:.0f} → {jumped.seconds:.0f}",
            f"{1e3 * (jumped.energies[-1] - end):.1f}",
        )
    return table


def _summary(figures: dict[str, dict]) -> Table:
    table = Table("", "value", "unit")
    for row in figures.values():
        table.add_row(row["description"], f"{row['value']:.4g}", row["unit"])
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="default %(default)s")
    parser.add_argument("--max-atoms", type=int, default=6, help="in a crystal (default %(default)s)")
    parser.add_argument("--limit", type=int, help="the first so many crystals only")
    parser.add_argument("--ecut", type=float, default=500, help="eV, of the plane waves (default %(default)s)")
    parser.add_argument("--density", type=float, default=2, help="k-points in 1/Å of the cell (default %(default)s)")
    parser.add_argument("--fmax", type=float, default=0.05, help="eV/Å (default %(default)s)")
    parser.add_argument("--fast", action="store_true", help="the optimizer's fast finish too, with and without a jump")
    parser.add_argument("--cache", type=Path, help="keep every calculation here")
    parser.add_argument("--again", action="store_true", help="anew what depends on the network and its optimizer")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


if __name__ == "__main__":
    main()
