"""Relaxations under M3GNet or DFT that are counted and timed, for the benchmarks of the optimizer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.optimize.optimize import Optimizer
from dft import SPACINGS, gpaw

from deeprelax_ase import Crystal, DeepRelaxOptimizer, Predictor
from deeprelax_ase.calculators import get_calculator
from deeprelax_ase.calculators.counting import CallCounter
from deeprelax_ase.data import crystals_of, load_pairs
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.registry import card_file_of
from deeprelax_ase.optimizers.degrees_of_freedom import degrees_of_freedom
from deeprelax_ase.optimizers.finish import resolve_finish
from deeprelax_ase.prediction.parallel import map_in_processes
from deeprelax_ase.progress import track

MAX_STEPS = 500
#: Options of finishes that are not their own defaults.
OPTIONS: dict[str, dict[str, Any]] = {"bfgs": {"alpha": 30}, "lbfgs": {"alpha": 30}}


class Task(NamedTuple):
    """A relaxation to make: name of the crystal, name of the finish, model of the jump, empty for none."""

    crystal: str
    finish: str
    model: str


@dataclass(frozen=True)
class Reached:
    """When a relaxation first satisfied an fmax: calls and seconds of the processor until then, energy in eV/atom."""

    calls: int
    seconds: float
    energy: float


@dataclass(frozen=True)
class Run:
    """One relaxation.

    Attributes:
        crystal, finish, model: the task.
        reached: by fmax in eV/Å as text (JSON's keys are), in order; what it did not reach is absent.
        jump: what became of the jump, and why; empty where there was none.
        error: what was raised, if anything was.
        weights: checksum of those of the model; empty where there is none, or it is not known.
    """

    crystal: str
    finish: str
    model: str
    reached: dict[str, Reached] = field(default_factory=dict)
    jump: str = ""
    reason: str = ""
    error: str | None = None
    weights: str = ""

    @property
    def task(self) -> Task:
        return Task(self.crystal, self.finish, self.model)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Run:
        """The run that JSON holds."""
        return cls(**{**stored, "reached": {fmax: Reached(**one) for fmax, one in stored["reached"].items()}})


#: One of each in a process.
m3gnet = cache(partial(get_calculator, "m3gnet"))
predictor = cache(partial(Predictor, device="cpu"))


def relax(task: Task, crystal: Crystal, *, potential: str, fmaxes: Sequence[float], settings: dict[str, Any]) -> Run:
    """Relax positions and cell to one fmax after the other, by the jump of ``task.model`` and the finish, or it alone.

    Args:
        task: what to do.
        crystal: the start. Slabs keep their cell.
        potential: ``m3gnet``, or one of :data:`dft.SPACINGS`.
        fmaxes: eV/Å, falling.
        settings: further ones of :class:`DeepRelaxOptimizer`.
    """
    calculator = gpaw(crystal, SPACINGS[potential]) if potential in SPACINGS else m3gnet()
    if potential not in SPACINGS:  # those are new
        calculator.reset()
    atoms = crystal.to_atoms()
    atoms.calc = calculator
    options = OPTIONS.get(task.finish, {})
    reached: dict[str, Reached] = {}
    if task.model:
        predictor(task.model)  # loaded before the clock runs
    start, error, jump, reason = time.process_time(), None, "", ""
    try:
        with CallCounter(calculator) as counted:
            optimizer = _optimizer(atoms, task, options, settings)
            for fmax in fmaxes:
                if not optimizer.run(fmax=fmax, steps=MAX_STEPS - optimizer.nsteps):
                    break
                calls, seconds = counted.calls, time.process_time() - start
                reached[f"{fmax:g}"] = Reached(calls, seconds, float(atoms.get_potential_energy()) / len(atoms))
                counted.calls = calls  # the call for the energy is ours
    except Exception as raised:  # far from its training data a potential may raise anything
        error = f"{type(raised).__name__}: {raised}"
    if task.model:
        jump, reason = (atoms.info.get(key, "") for key in ("deeprelax_jump", "deeprelax_jump_reason"))
    return Run(*task, reached, jump, reason, error, weights_of(task.model))


def weights_of(model: str) -> str:
    """Checksum of the weights of ``model``; empty for none."""
    return ModelCard.read(card_file_of(model)).sha256 if model else ""


def _optimizer(atoms: Atoms, task: Task, options: dict[str, Any], settings: dict[str, Any]) -> Optimizer:
    if not task.model:
        return resolve_finish(task.finish)(degrees_of_freedom(atoms, relax_cell=None).target, logfile=None, **options)
    given = predictor(task.model)
    return DeepRelaxOptimizer(
        atoms, logfile=None, predictor=given, finish=task.finish, finish_kwargs=options, **settings
    )


def relax_all(
    tasks: dict[Task, Crystal],
    *,
    workers: int,
    potential: str,
    fmaxes: Sequence[float],
    settings: dict[str, Any],
    journal: Path | None,
    kept_only: bool = False,
) -> dict[Task, Run]:
    """The runs of all ``tasks``; those in ``journal`` are not made again, and each new one is added as it ends.

    Jumps by other weights than a model's of today are made again. With ``kept_only`` none is made, the latest in
    ``journal`` are taken whatever their weights, and those of other tasks are not returned.
    """
    header = {
        "potential": potential,
        "fmaxes": list(fmaxes),
        "max_steps": MAX_STEPS,
        "settings": settings,
        "options": OPTIONS,
    }
    runs = read_journal(journal, header)
    if kept_only:
        return {task: runs[task] for task in tasks if task in runs}
    if journal and not journal.exists():
        _append(journal, header)
    runs = {task: run for task, run in runs.items() if run.weights == weights_of(task.model)}
    missing = {task: crystal for task, crystal in tasks.items() if task not in runs}
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers: DGL and BLAS have threads of their own
    order = list(missing)
    made = map_in_processes(
        partial(_relaxer, potential=potential, fmaxes=fmaxes, settings=settings, journal=journal),
        missing.items(),
        failed=lambda number, reason: Run(*order[number], error=reason),
        workers=workers,
        device="cpu",
    )
    runs |= {run.task: run for run in track(made, total=len(missing))}
    return {task: runs[task] for task in tasks}


def _relaxer(device: str, journal: Path | None, **how: Any) -> Callable[[list[tuple[Task, Crystal]]], list[Run]]:
    def work(given: list[tuple[Task, Crystal]]) -> list[Run]:
        runs = [relax(task, crystal, **how) for task, crystal in given]
        if journal:
            _append(journal, *map(asdict, runs))
        return runs

    return work


def _append(journal: Path, *entries: dict[str, Any]) -> None:
    with journal.open("a", encoding="utf-8") as file:  # one write a call: processes share the file
        file.write("".join(json.dumps(entry) + "\n" for entry in entries))


def choose(files: Sequence[Path], split: str, limit: int) -> dict[str, Crystal]:
    """At most ``limit`` unrelaxed crystals of that split of the files whose M3GNet minimum is known, evenly spaced.

    Args:
        files: pairs.
        split: name of it.
        limit: how many.

    Returns:
        crystals by index among all pairs of the files.
    """
    pairs = load_pairs(files)
    known = np.concatenate([np.load(file, allow_pickle=False)["m3gnet_ok"] for file in files])
    wanted = (pairs.split.numpy() == SPLITS[split]) & known
    found = np.flatnonzero(wanted)
    index = found[np.linspace(0, len(found) - 1, min(limit, len(found))).round().astype(int)]
    crystals = crystals_of(pairs.take(torch.from_numpy(index)), "initial")
    return {str(i): crystal for i, crystal in zip(index, crystals, strict=True)}


def read_journal(file: Path | None, header: dict[str, Any]) -> dict[Task, Run]:
    """The runs in ``file``, a line each after that of the settings, the latest of a task; none if there is no file yet.

    Raises:
        ValueError: they were made with other settings.
    """
    if file is None or not file.exists():
        return {}
    stored, *runs = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    if stored != json.loads(json.dumps(header)):
        raise ValueError(f"{file} holds runs with {stored}, not with {header}; name another --cache")
    return {run.task: run for run in map(Run.of, runs)}
