"""``deeprelax report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from deeprelax_ase.cli.common import INTERRUPTED, OK, SOME_FAILED, errors, refuse_taken, require, stop, terminal
from deeprelax_ase.cli.completion import models
from deeprelax_ase.cli.options import Device, DeviceOption, Overwrite, Quiet, argument, option
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.progress import progress as bar_on
from deeprelax_ase.progress import told_count

EXAMPLES = """\
Examples:

    deeprelax report screened -o screened.html
    deeprelax report relaxed.extxyz --initial candidates.extxyz
    deeprelax report screened --reference dft.extxyz --figures figures

The page holds all it needs: it opens in any browser, without a network.

Exit code 1: the page could not be written.
"""


Results = Annotated[
    Path,
    argument(
        "OUT", "Folder that `deeprelax screen` wrote, or file that `deeprelax relax` wrote; @0:10 after it for a part."
    ),
]
Page = Annotated[Path | None, option("HTML file.", "-o", "--output", metavar="PAGE", default="OUT.html")]
Initial = Annotated[
    str | None, option("The unrelaxed crystals, in the same order; a screening knows its own.", metavar="FILE")
]
Reference = Annotated[
    str | None, option("Truly relaxed crystals, by id or in the same order, to tell the errors.", metavar="FILE")
]
Show = Annotated[int, option("Crystals to draw: failures, the most uncertain, the most moved.", metavar="N", min=0)]
ModelName = Annotated[
    str | None,
    option("Draws them.", "-m", "--model", metavar="NAME", default="that of the results", completes=models),
]
Figures = Annotated[Path | None, option("Also write figures for papers there, as PNG and SVG.", metavar="DIR")]


def report(
    results: Results,
    output: Page = None,
    initial: Initial = None,
    reference: Reference = None,
    show: Show = 12,
    model: ModelName = None,
    figures: Figures = None,
    device: DeviceOption = Device.AUTO,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Show what became of many crystals: one page with failures, structures and statistics."""
    require("plotly", "report")
    require("jinja2", "report")
    require("matplotlib", "report")
    if results.is_dir() or results.suffix == ".parquet":
        require("pyarrow", "screening")
    from deeprelax_ase.report import write_report

    page = output or results.with_name(f"{results.name}.html")
    drawn = [] if figures is None else sorted(figures.glob("*.svg"))
    refuse_taken(page, *drawn, overwrite=overwrite)
    try:
        with bar_on(errors(), visible=not quiet) as bar:
            doing = bar.add_task("reading", total=None)
            outcome = write_report(
                results,
                page,
                initial=initial,
                reference=reference,
                show=show,
                model=model,
                figures=figures,
                device=device.value,
                advance=lambda text: bar.update(doing, description=text),
            )
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except DeepRelaxError as error:
        stop(str(error))
    except OSError as error:
        stop(f"{page} cannot be written: {error}", SOME_FAILED)
    if not quiet:
        size = page.stat().st_size / 1e6
        told = "" if figures is None else f"; figures in {escape(str(figures))}"
        crystals = told_count(len(outcome), "crystal")
        terminal().print(f"{crystals} in {escape(str(page))} ({size:.1f} MB){told}", soft_wrap=True)
    raise typer.Exit(OK)
