"""``deeprelax data``: ``check``, ``convert`` and ``forces``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deeprelax_ase.cli.common import OK, SOME_FAILED, errors, refuse_taken, stop, stopping, terminal
from deeprelax_ase.cli.completion import models
from deeprelax_ase.cli.help import HelpCommand, HelpGroup
from deeprelax_ase.cli.options import (
    PAIRS,
    Device,
    DeviceOption,
    NoProgress,
    Overwrite,
    argument,
    option,
    workers_option,
)
from deeprelax_ase.cli.pair_options import Fractions, GroupBy, PairFormat, PairKey, PairLevel
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.models.card import MOST_RECYCLES
from deeprelax_ase.progress import progress, told_count

if TYPE_CHECKING:
    from deeprelax_ase.data import PairDataset
    from deeprelax_ase.data.checks import DatasetReport


_CHECK_EXAMPLES = """\
Examples:

    deeprelax data check pairs.npz
    deeprelax data check my_cifs/ --json report.json
    deeprelax data check unrelaxed.db relaxed.db --key uid
    deeprelax data check relaxations.extxyz --key material_id

Exit code 1: pairs are refused, duplicate or suspicious.
"""

_CONVERT_EXAMPLES = """\
Examples:

    deeprelax data convert my_cifs/ -o pairs.npz
    deeprelax data convert runs/ --format trajectory \\
        --fractions 0.7 0.15 0.15 -o pairs.npz

Exit code 1: some pairs are refused.
"""

_FORCES_EXAMPLES = """\
Examples:

    export DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES
    deeprelax data forces pairs.npz -o forces.npz
    deeprelax train run.yaml --set data.forces=[forces.npz]
"""

#: What is counted by name, and its title.
_COUNTED = {"splits": "splits", "levels": "learnt as", "matched": "matched"}

#: So many names are listed for each thing that is suspicious.
_NAMES = 5

app = typer.Typer(
    help="Look into relaxation pairs, bring them into one file, or compute forces for them.",
    cls=HelpGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Sources = Annotated[
    list[Path],
    argument(
        "SOURCE...",
        "npz files; a folder of NAME_unrelaxed.cif and NAME_relaxed.cif; ASE databases; trajectories; relaxation "
        "documents; MPF.2021.2.8's pickles. SOURCE@0:10 for a part.",
    ),
]
SplitSeed = Annotated[int, option("Of the split.", metavar="N", group=PAIRS)]
Report = Annotated[Path | None, option("Write the report here.", "--json", metavar="OUT")]


@app.command(cls=HelpCommand, epilog=_CHECK_EXAMPLES)
def check(
    sources: Sources,
    data_format: PairFormat = "auto",
    key: PairKey = None,
    level: PairLevel = "PBE",
    fractions: Fractions = (0.8, 0.1, 0.1),
    group_by: GroupBy = "composition",
    seed: SplitSeed = 0,
    output: Report = None,
    overwrite: Overwrite = False,
    quiet: NoProgress = False,
) -> None:
    """Counts, elements, distributions, duplicates, leakage between the splits, and suspicious pairs."""
    refuse_taken(output, overwrite=overwrite)
    from deeprelax_ase.data.checks import check as checked

    dataset = _read(sources, data_format, key, level, fractions, group_by, seed, quiet)
    with progress(errors(), visible=not quiet) as bar:
        task = bar.add_task("looking at crystals", total=2 * len(dataset))
        report = checked(dataset, lambda count: bar.advance(task, count))
    show(terminal(), report)
    if output:
        output.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    raise typer.Exit(OK if report.clean else SOME_FAILED)


@app.command(cls=HelpCommand, epilog=_CONVERT_EXAMPLES)
def convert(
    sources: Sources,
    output: Annotated[Path, option("File to write.", "-o", "--output", metavar="OUT.npz")],
    data_format: PairFormat = "auto",
    key: PairKey = None,
    level: PairLevel = "PBE",
    fractions: Fractions = (0.8, 0.1, 0.1),
    group_by: GroupBy = "composition",
    seed: SplitSeed = 0,
    overwrite: Overwrite = False,
    quiet: NoProgress = False,
) -> None:
    """Match the pairs once, and keep them in a file that is read in a moment."""
    if output.suffix != ".npz":
        stop(f"{output} must end in .npz")
    from deeprelax_ase.io.source import path_of

    refuse_taken(output, overwrite=overwrite)
    paths = [path_of(source) for source in sources]
    if output.exists() and any(path.exists() and output.samefile(path) for path in paths):
        stop(f"{output} would overwrite its source. Give another name.")
    dataset = _read(sources, data_format, key, level, fractions, group_by, seed, quiet)
    try:
        dataset.save(output)
    except OSError as error:
        stop(f"{output} cannot be written: {error.strerror}", SOME_FAILED)
    console = terminal()
    for refused in dataset.refused:
        console.print(f"{refused.name}: {refused.reason}", markup=False, soft_wrap=True)
    pairs = told_count(len(dataset), "pair")
    console.print(f"{pairs}, {len(dataset.refused)} refused; written to {output}", soft_wrap=True)
    raise typer.Exit(SOME_FAILED if dataset.refused else OK)


def _read(
    sources: list[Path],
    data_format: str,
    key: str | None,
    level: str,
    fractions: tuple[float, float, float],
    group_by: str,
    seed: int,
    quiet: bool,
) -> PairDataset:
    from deeprelax_ase.data import PairDataset

    shown = errors()
    with progress(shown, visible=not quiet) as bar:
        task = bar.add_task("reading pairs", total=None)
        try:
            return PairDataset.read(
                sources,
                format=data_format,
                key=key,
                level=level,
                fractions=fractions,
                group_by=group_by,
                seed=seed,
                advance=lambda: bar.advance(task),
                expect=lambda total: bar.update(task, total=total),
            )
        except (DeepRelaxError, ValueError, OSError) as error:
            stop(str(error))


def show(console: Console, report: DatasetReport) -> None:
    """The report as tables and lines."""
    counts = report.counts
    found = ", ".join(told_count(counts[f"{what}s"], what) for what in ("pair", "atom"))
    console.print(f"{found}, {counts['refused']:,} refused")
    for kind, title in _COUNTED.items():
        console.print(f"{title}: " + ", ".join(f"{name} {number:,}" for name, number in counts[kind].items()))
    elements = sorted(report.elements.items(), key=lambda item: -item[1])
    listed = " ".join(f"{symbol} {number:,}" for symbol, number in elements)
    console.print(f"{len(elements)} elements, with the pairs that hold them: {listed}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    columns = list(next(iter(report.distributions.values())))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in report.distributions.items():
        table.add_row(name, *(f"{values[column]:.4g}" for column in columns))
    console.print(table)
    for part, row in report.leakage.items():
        shares = ", ".join(f"{kind} {row[kind]:,}" for kind in row if kind != "pairs")
        console.print(f"{part}, {told_count(row['pairs'], 'pair')}, in common with training: {shares}")
    more = sum(map(len, report.duplicates)) - len(report.duplicates)
    if report.duplicates:
        _names(console, f"{more:,} duplicates", [" = ".join(group) for group in report.duplicates])
    for kind, names in report.suspicious.items():
        _names(console, f"{told_count(len(names), 'pair')}: {kind}", names)
    for reason, names in report.refused.items():
        _names(console, f"{len(names):,} refused: {reason}", names)
    if report.clean:
        console.print("nothing suspicious")


def _names(console: Console, title: str, names: list[str]) -> None:
    more = "" if len(names) <= _NAMES else f", and {len(names) - _NAMES:,} more"
    console.print(f"[bold]{escape(title)}[/]", soft_wrap=True)
    console.print("  " + ", ".join(names[:_NAMES]) + more, markup=False, soft_wrap=True)


Workers = Annotated[int | None, workers_option("one for each core")]
Model = Annotated[str, option("Its last member predicts.", "-m", "--model", metavar="NAME", completes=models)]
Recycles = Annotated[int, option("Of the prediction.", metavar="N", min=1, max=MOST_RECYCLES)]


@app.command(cls=HelpCommand, epilog=_FORCES_EXAMPLES)
def forces(
    data: Annotated[Path, argument("PAIRS.npz", "Relaxation pairs with M3GNet's labels; those for training count.")],
    output: Annotated[Path, option("File to write.", "-o", "--output", metavar="FORCES.npz")],
    model: Model = "DeepRelax-M3GNet",
    recycles: Recycles = 1,
    workers: Workers = None,
    seed: Annotated[int, option("Of the points.", metavar="N")] = 0,
    device: DeviceOption = Device.AUTO,
    overwrite: Overwrite = False,
    quiet: NoProgress = False,
) -> None:
    """Compute M3GNet's forces between predictions and its minima, for a network to learn to read them.

    They are for training: `data.forces` of the file that `deeprelax train` takes.
    """
    refuse_taken(output, overwrite=overwrite)
    import torch

    from deeprelax_ase.labelling.forces import label_forces
    from deeprelax_ase.progress import silent

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers: BLAS has threads of its own
    with stopping(also=KeyError), silent(quiet):
        written, points = label_forces(
            data, output, model=model, recycles=recycles, device=device.value, workers=workers, seed=seed
        )
    typer.echo(f"{written} of {points} points written to {output}")
