"""``deeprelax label``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from deeprelax_ase.cli.common import OK, SOME_FAILED, errors, require, stopping, terminal, working_in
from deeprelax_ase.cli.options import (
    FINISH,
    STEPS,
    WORK,
    Device,
    DeviceOption,
    IdKey,
    OutFolder,
    Quiet,
    RelaxCell,
    Shard,
    argument,
    calculator_option,
    finish_option,
    fmax_option,
    option,
    rattle_option,
    steps_option,
    workers_option,
)
from deeprelax_ase.cli.pair_options import Fractions, GroupBy, LearntLevel

if TYPE_CHECKING:
    from deeprelax_ase.labelling import LabelReport
    from deeprelax_ase.screening import Progress

EXAMPLES = """\
Examples:

    deeprelax label candidates.extxyz --calculator m3gnet --out labelled
    deeprelax label candidates.db --calculator my_dft:make --fmax 0.03 \\
        --steps 200 --workers 4 --out labelled
    srun deeprelax label candidates.extxyz -c chgnet --out labelled \\
        --shard $((SLURM_ARRAY_TASK_ID + 1))/64
    deeprelax data check labelled
    deeprelax finetune DeepRelax-PBE --data labelled --out tuned

The same command goes on with a run that was interrupted, whatever interrupted it. Nothing is overwritten: a folder that
was begun with other inputs or options is refused.

Exit code 1: there are no pairs, or nothing more could be written.
"""

#: Reasons that are shown, the commonest first: those of failures may differ from crystal to crystal.
_MOST_REASONS = 20

Inputs = Annotated[
    list[str],
    argument("CANDIDATE...", "Crystals to relax: files, folders, archives, databases; file@0:10 takes a part."),
]
Calculator = Annotated[str, calculator_option("Potential whose minima are to be learnt:", default=False)]
Finish = Annotated[str, finish_option()]
Fmax = Annotated[float, fmax_option()]
Steps = Annotated[int, steps_option()]
Rattle = Annotated[float, rattle_option()]
Workers = Annotated[int | None, workers_option("one for each core, on GPUs two for each")]
BlockSize = Annotated[
    int | None,
    option(
        "Crystals that relax side by side: what an interruption costs.",
        metavar="N",
        default="50, on GPUs 1000",
        min=1,
        group=WORK,
    ),
]


def label(
    inputs: Inputs,
    calculator: Calculator,
    out: OutFolder,
    finish: Finish = FINISH,
    fmax: Fmax = 0.02,
    steps: Steps = STEPS,
    relax_cell: RelaxCell = None,
    rattle: Rattle = 0.0,
    shard: Shard = "1/1",
    workers: Workers = None,
    block_size: BlockSize = None,
    id_key: IdKey = None,
    level: LearntLevel = None,
    fractions: Fractions = (0.8, 0.1, 0.1),
    group_by: GroupBy = "composition",
    seed: Annotated[int, option("Of the split, and of --rattle.", metavar="N", min=0)] = 0,
    device: DeviceOption = Device.AUTO,
    quiet: Quiet = False,
) -> None:
    """Relax many crystals under a potential into pairs that a network can learn from.

    A crystal is dropped, and its reason counted, where the relaxation did not converge, failed, or left the basin that
    it began in, by the limits of `deeprelax data check`. DIR/pairs.npz holds the others with energies, and forces and
    stress at the start; DIR goes wherever pairs are asked for. A row for each crystal and a journal lie beside it.

    No network predicts anything here, so nothing is uncertain: `--model`, `--one-shot`, `--recycles`, `--members`,
    `--on-uncertain`, `--max-error` and the other limits of trust belong to relax and screen.
    """
    require("pyarrow", "screening")
    from deeprelax_ase.io.source import open_source
    from deeprelax_ase.labelling import LabelOptions, label_level

    with stopping():
        options = LabelOptions(
            calculator,
            finish=finish,
            fmax=fmax,
            steps=steps,
            relax_cell=relax_cell,
            device=device.value,
            rattle=rattle,
            rattle_seed=seed if rattle else 0,
        )
        for name in inputs:  # before the potential is fetched
            open_source(name)
        learnt = level or label_level(calculator)
    split: dict[str, Any] = {
        "level": learnt,
        "fractions": fractions,
        "group_by": group_by,
        "seed": seed,
    }
    work: dict[str, Any] = {"shard": shard, "workers": workers, "block_size": block_size, "id_key": id_key}
    start = time.perf_counter()
    report = _run(inputs, out, options, quiet=quiet, **work, **split)
    if not quiet:
        _show(report, out, time.perf_counter() - start)
        _tell_empty_parts(report, fractions, group_by)
    raise typer.Exit(OK if report.pairs else SOME_FAILED)


def _tell_empty_parts(report: LabelReport, fractions: tuple[float, ...], group_by: str) -> None:
    """Say which parts of the split were asked for and got no pair, and what helps."""
    from deeprelax_ase.data import SPLITS

    asked = [name for name, share in zip(SPLITS, fractions, strict=True) if share]
    if empty := [name for name in asked if report.pairs and not report.splits[name]]:
        together = "" if group_by == "pair" else f" Those of one {group_by} stay together; --group-by pair parts them."
        told = f"no pairs for {' and '.join(empty)}: label more candidates, or give other --fractions.{together}"
        errors().print(f"Note: {told}", soft_wrap=True)


def _run(inputs: list[str], out: str, options: Any, *, shard: str, quiet: bool, **work: Any) -> LabelReport:
    """The labelling, with a bar; ends the command where it cannot go on."""
    from deeprelax_ase.labelling import label as run_label
    from deeprelax_ase.screening import Shard as Share

    with working_in(out, quiet=quiet) as show:

        def observe(progress: Progress) -> None:
            show(progress, f"relaxing, {progress.statuses['labelled']:,} labelled")

        return run_label(inputs, out, options, shard=Share.parse(shard), observe=observe, **work)


def _show(report: LabelReport, out: str, seconds: float) -> None:
    """Print what came of the crystals, why the others were dropped, and where the pairs are."""
    console, progress = terminal(), report.progress
    total, labelled = report.counts.total(), report.counts["labelled"]
    made = progress.done - progress.before
    console.print(f"{labelled:,} labelled of {total:,}; {made:,} relaxed now, in {seconds:.1f} s", soft_wrap=True)
    dropped = [(reason, count) for reason, count in report.counts.most_common() if reason != "labelled"]
    for reason, count in dropped[:_MOST_REASONS]:
        console.print(f"{count:,} dropped: {escape(reason)}", soft_wrap=True)
    if rest := sum(count for _, count in dropped[_MOST_REASONS:]):
        console.print(f"{rest:,} dropped for other reasons, which the rows in {escape(out)} tell", soft_wrap=True)
    if report.missing:
        console.print(f"{report.missing:,} crystals of other shares are not done yet", soft_wrap=True)
    if report.pairs:
        parts = ", ".join(f"{name} {count:,}" for name, count in report.splits.items())
        console.print(f"pairs written to {escape(str(report.pairs))}: {parts}", soft_wrap=True)
