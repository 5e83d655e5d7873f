"""``deeprelax learn``."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deeprelax_ase.cli.common import OK, SOME_FAILED, errors, going_on_with, plain_warnings, require, stopping, terminal
from deeprelax_ase.cli.completion import models, one_of
from deeprelax_ase.cli.label import Calculator, Finish, Fmax, Steps, Workers
from deeprelax_ase.cli.options import (
    FINISH,
    STEPS,
    TRAINING,
    Device,
    DeviceOption,
    Quiet,
    RelaxCell,
    argument,
    option,
    out_option,
)
from deeprelax_ase.cli.pair_options import Changes, LearntLevel, TrainedMembers, group_by_option
from deeprelax_ase.progress import progress as bar_on

if TYPE_CHECKING:
    from deeprelax_ase.learning import LearnSettings, Round

EXAMPLES = """\
Examples:

    deeprelax candidates my_cifs/ --number 5000 -o pool.extxyz
    deeprelax learn DeepRelax-PBE pool.extxyz --calculator my_dft:make \\
        --budget 400 --out learnt
    deeprelax learn DeepRelax-PBE pool.extxyz -c m3gnet \\
        --target 0.05 --budget 2000 --each 100 --out learnt
    deeprelax learn DeepRelax-PBE pool.extxyz -c m3gnet \\
        --choose random --beside learnt --out by-chance

The same command goes on with a run that was interrupted, whatever interrupted it; with a larger budget or a lower
target it goes on with one that ended.

Exit code 1: there is a target, and it is not reached.
"""

ROUNDS = "Rounds"

Pool = Annotated[
    list[str],
    argument("CANDIDATE...", "Crystals to choose from: files, folders, archives, databases; file@0:10 takes a part."),
]
Choose = Annotated[
    str,
    option(
        "Choice of what is labelled: both (expected error and novelty), error, novelty, cover (what leaves the least "
        "expected error far from any label), or random, to compare.",
        "--choose",
        metavar="RULE",
        group=ROUNDS,
        completes=one_of("both", "error", "novelty", "cover", "random"),
    ),
]
Spread = Annotated[
    int,
    option(
        "A round takes those furthest apart among so many times as many; 1 for those alone.",
        metavar="N",
        min=1,
        group=ROUNDS,
    ),
]
HeldBy = Annotated[str, group_by_option("Held out whole")]
Target = Annotated[
    float | None,
    option("Error of coordinates and lattice on the test crystals that ends it.", metavar="Å", min=0.0, group=ROUNDS),
]
Beside = Annotated[
    list[Path] | None, option("Folder of another run, whose curve the page shows too; repeatable.", metavar="DIR")
]
Budget = Annotated[int, option("Crystals to label, beside those that are held out.", metavar="N", min=1, group=ROUNDS)]
Each = Annotated[int, option("Crystals that a round labels.", metavar="N", min=1, group=ROUNDS)]
Held = Annotated[
    int, option("Crystals that are labelled first, to validate and test on.", metavar="N", min=4, group=ROUNDS)
]
Epochs = Annotated[float | None, option("Most epochs of a round.", metavar="N", default="60", min=0.0, group=TRAINING)]


def learn(
    model: Annotated[str, argument("MODEL", "Model to start from, by name or path.", completes=models)],
    candidates: Pool,
    calculator: Calculator,
    out: Annotated[Path, out_option("Folder of the run.")] = Path("learnt"),
    budget: Budget = 300,
    target: Target = None,
    each: Each = 50,
    held: Held = 60,
    group_by: HeldBy = "composition",
    choice: Choose = "both",
    spread: Spread = 4,
    finish: Finish = FINISH,
    fmax: Fmax = 0.02,
    steps: Steps = STEPS,
    relax_cell: RelaxCell = None,
    level: LearntLevel = None,
    members: TrainedMembers = None,
    epochs: Epochs = None,
    changes: Changes = None,
    seed: Annotated[int, option("Of all that is drawn, and of training.", metavar="N", min=0)] = 0,
    workers: Workers = None,
    device: DeviceOption = Device.AUTO,
    beside: Beside = None,
    quiet: Quiet = False,
) -> None:
    """Teach a model the minima of a potential, by labels for the crystals that teach it most.

    Some crystals are held out, with all of their compositions. Each round predicts the others, labels those that the
    model is expected to be wrong about, tunes the model on all labels so far, calibrates it and measures it. DIR keeps
    every round and a page with the curve; the model of the last one goes wherever a model is asked for.
    """
    for module, extra in (("lightning", "training"), ("crepes", "training"), ("pyarrow", "screening")):
        require(module, extra)
    from deeprelax_ase.io.source import open_source
    from deeprelax_ase.labelling import LabelOptions, label_level
    from deeprelax_ase.learning import LearnSettings

    with stopping():
        for name in candidates:  # before the potential is fetched
            open_source(name)
        options = LabelOptions(
            calculator, finish=finish, fmax=fmax, steps=steps, relax_cell=relax_cell, device=device.value
        )
        settings = LearnSettings(
            options,
            model=model,
            level=level or label_level(calculator),
            held=held,
            group_by=group_by,
            each=each,
            budget=budget,
            target=target,
            choice=choice,
            spread=spread,
            seed=seed,
            members=members,
            epochs=epochs,
            changes=tuple(changes or ()),
            device=device.value,
        )
        others = _others(beside or [])
    rounds = _run(candidates, out, settings, others, workers=workers, quiet=quiet)
    if not quiet:
        last = rounds[-1]
        terminal().print(f"use it with --model {last.model}", soft_wrap=True, markup=False)
    raise typer.Exit(SOME_FAILED if target is not None and rounds[-1].error > target else OK)


def _others(folders: list[Path]) -> dict[str, list[Round]]:
    from deeprelax_ase.learning import read_rounds

    return {str(folder): rounds for folder in folders if (rounds := read_rounds(folder))}


def _run(
    candidates: list[str],
    out: Path,
    settings: LearnSettings,
    others: dict[str, list[Round]],
    *,
    workers: int | None,
    quiet: bool,
) -> list[Round]:
    """The loop, with a line for each round; ends the command where it cannot go on."""
    from deeprelax_ase.learning import learn as run_learn

    shown = terminal()
    logging.getLogger("lightning").setLevel(logging.WARNING)
    with going_on_with(out), plain_warnings(), bar_on(errors(), visible=not quiet) as bar:
        warnings.filterwarnings("ignore", module=r"(lightning|torch)\b")  # nothing a user could mend
        task = bar.add_task("reading", total=settings.budget)

        def observe(doing: str, number: int) -> None:
            bar.update(task, description=f"round {number}, {doing}")

        def finished(rounds: list[Round]) -> None:
            bar.update(task, completed=rounds[-1].labelled)
            if not quiet:
                shown.print(_told(rounds), soft_wrap=True)
            if find_spec("plotly") is not None:
                from deeprelax_ase.report.learning import write_learning_page

                write_learning_page({str(out): rounds, **others}, out / "learning.html")

        return run_learn(candidates, out, settings, workers=workers, observe=observe, finished=finished)


def _told(rounds: list[Round]) -> str:
    last: Any = rounds[-1]
    errors_told = f"error {last.error:.4g} Å (unrelaxed {last.unrelaxed:.4g} Å), volume {last.volume:.4g} Å³"
    if not last.number:
        return f"as it is: {errors_told}"
    calls = sum(one.force_calls for one in rounds)
    return (
        f"round {last.number}: {last.labelled:,} labelled, {last.pairs:,} pairs, {calls:,} force calls; {errors_told}"
    )
