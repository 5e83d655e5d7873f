"""``deeprelax calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rich.markup import escape
from rich.table import Table

from deeprelax_ase.cli.common import errors, refuse_taken, require, stop, stopping, terminal
from deeprelax_ase.cli.completion import models
from deeprelax_ase.cli.options import PAIRS, Device, DeviceOption, NoProgress, Overwrite, argument, option
from deeprelax_ase.models.card import MOST_RECYCLES

EXAMPLES = """\
Examples:

    deeprelax calibrate tuned/DeepRelax-PBE-tuned.json --data pairs.npz --write
    deeprelax calibrate DeepRelax-PBE --data 'pairs_*.npz' \\
        --recycles 1 --recycles 2 --each 32
    deeprelax calibrate DeepRelax-M3GNet --data examples/monolayers.npz \\
        --thin 4 --json coverage.json

`deeprelax data convert` makes npz files of whatever else holds relaxation pairs.
"""

Files = Annotated[
    list[str],
    option("npz files of relaxation pairs; repeatable.", "--data", metavar="FILE.npz", group=PAIRS),
]
Odds = Annotated[
    list[str] | None,
    option("Further pairs, to fit odds and novelty to; repeatable.", "--odds", metavar="FILE.npz", group=PAIRS),
]
Numbers = Annotated[
    list[int] | None,
    option(
        "Calibrate for so many; repeatable.",
        "--recycles",
        metavar="N",
        default="the card's",
        min=1,
        max=MOST_RECYCLES,
    ),
]
Thin = Annotated[int, option("Take every N-th of those without DFT label.", metavar="N", min=1, group=PAIRS)]
Each = Annotated[
    int | None,
    option("Take at most so many of each kind in a file.", metavar="N", default="all", min=1, group=PAIRS),
]
Novelty = Annotated[int, option("Training crystals to fit novelty to; 0 for none.", metavar="N", min=0)]
Write = Annotated[bool, option("Write it all into the card, and beside it, in place of what it said.", "--write")]
Cache = Annotated[Path | None, option("Folder to keep predictions in.", metavar="DIR")]
Output = Annotated[Path | None, option("Write the coverage here.", "--json", metavar="OUT")]


def calibrate(
    model: Annotated[str, argument("MODEL", "Model, by name or path.", completes=models)],
    data: Files,
    odds: Odds = None,
    recycles: Numbers = None,
    thin: Thin = 1,
    each: Each = None,
    novelty: Novelty = 4000,
    write: Write = False,
    cache: Cache = None,
    device: DeviceOption = Device.AUTO,
    output: Output = None,
    overwrite: Overwrite = False,
    quiet: NoProgress = False,
) -> None:
    """Fit the expected errors of a model to the validation pairs, and show how they hold on the test pairs.

    A card that is calibrated tells expected errors with bounds for nine in ten crystals, the odds that a prediction
    ends further off than it began, and which crystals are unlike those that the model has learnt from.
    """
    require("crepes", "training")
    refuse_taken(output, overwrite=overwrite)
    from deeprelax_ase.data.dataset import expanded
    from deeprelax_ase.evaluation.calibrate import calibrate as fit
    from deeprelax_ase.evaluation.calibrate import write_calibration, write_novelty
    from deeprelax_ase.evaluation.results import write_json
    from deeprelax_ase.io.source import path_of
    from deeprelax_ase.models.loading import load_model
    from deeprelax_ase.models.registry import card_file_of
    from deeprelax_ase.progress import silent

    with stopping():
        files, more = ([path for name in names for path in expanded(name)] for names in (data, odds or []))
        for other in (file for file in (*files, *more) if path_of(file).suffix != ".npz"):
            stop(
                f"{other} is no npz file of relaxation pairs; `deeprelax data convert {other} -o pairs.npz` makes one."
            )
        loaded = load_model(model)
        options: dict[str, Any] = {"thin": thin, "each": each, "cache": cache, "device": device.value}
        numbers = recycles or [loaded.card.recycles]
        with silent(quiet):
            made = {number: fit(loaded, files, recycles=number, odds=more, **options) for number in numbers}
        for number, found in made.items():
            _show(number, found.coverage, found.without_odds)
        if output:
            write_json(output, made.get(loaded.card.recycles, next(iter(made.values()))).coverage)
        if write:
            write_calibration(card_file_of(model), loaded, made)
    if write and novelty:
        try:
            with silent(quiet):
                write_novelty(card_file_of(model), loaded, files, odds=more, crystals=novelty, device=device.value)
        except ValueError as error:
            errors().print(f"novelty is not told: {error}", markup=False, soft_wrap=True)


#: What is told of each quantity: title, unit, and how its errors are written.
_QUANTITIES = {"coordinates": ("coordinates, Å", ".4f"), "volume": ("volume", ".2%")}


def _show(recycles: int, coverage: dict[str, dict[str, Any]], without_odds: str) -> None:
    from deeprelax_ase.uncertainty.calibration import COVERAGE

    console = terminal()
    if without_odds:
        console.print(f"no odds: {without_odds}", markup=False, soft_wrap=True)
    for split, rows in coverage.items():
        if not rows:  # of fewer crystals than can be told about
            continue
        console.print(f"{split}, {recycles} recycles: errors below their {COVERAGE:.0%} bounds", soft_wrap=True)
        for quantity, (title, form) in _QUANTITIES.items():
            console.print(_table(title, rows, quantity, form))


def _table(title: str, rows: dict[str, dict[str, Any]], quantity: str, form: str) -> Table:
    """A row for each group: how many of its errors are within their bounds, and how well errors are expected."""
    table = Table(box=None, pad_edge=False)
    table.add_column(title, overflow="fold")
    columns = {"crystals": ",d", "ood": ".1%"}
    told = {"coverage": ("within", ".1%"), "error": ("error", form), "expected": ("expected", form)}
    told["rank correlation"] = ("rank corr.", ".2f")
    columns |= {f"{quantity} {what}": form for what, (_, form) in told.items()}
    for name in ("crystals", "ood", *(name for name, _ in told.values())):
        table.add_column(name, justify="right", no_wrap=True)
    for group, row in rows.items():
        values = [(row.get(column), form) for column, form in columns.items()]
        table.add_row(escape(group), *("" if value is None else format(value, form) for value, form in values))
    return table
