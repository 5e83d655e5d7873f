"""``deeprelax report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from deeprelax_ase.cli.common import INTERRUPTED, OK, SOME_FAILED, errors, require, stop
from deeprelax_ase.cli.options import Device, DeviceOption, argument, optional
from deeprelax_ase.errors import DeepRelaxError

EXAMPLES = """\
Examples:

    deeprelax report screened -o screened.html
    deeprelax report relaxed.extxyz --initial candidates.extxyz
    deeprelax report screened --reference dft.extxyz --figures figures/

The page holds all it needs: it opens in any browser, without a network.

Exit code: 0 the page is written; 1 it could not be; 2 there is nothing to tell of; 130 interrupted.
"""


Results = Annotated[
    Path,
    argument(
        "OUT", "Folder that `deeprelax screen` wrote, or file that `deeprelax relax` wrote; @0:10 after it for a part."
    ),
]
Page = Annotated[Path | None, optional("HTML file. Default: OUT.html", "-o", "--output", metavar="PAGE")]
Initial = Annotated[
    str | None, optional("The unrelaxed crystals, in the same order; a screening knows its own.", metavar="FILE")
]
Reference = Annotated[
    str | None, optional("Truly relaxed crystals, by id or in the same order, to tell the errors.", metavar="FILE")
]
Show = Annotated[int, typer.Option(min=0, help="Crystals to draw: failures, the most uncertain, the most moved.")]
ModelName = Annotated[
    str | None, optional("That draws them. Default: that of the results", "-m", "--model", metavar="NAME")
]
Figures = Annotated[Path | None, optional("Also write figures for papers there, as PNG and SVG.", metavar="DIR")]


def report(
    results: Results,
    output: Page = None,
    initial: Initial = None,
    reference: Reference = None,
    show: Show = 12,
    model: ModelName = None,
    figures: Figures = None,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Show what became of many crystals: one page with failures, structures and statistics."""
    require("plotly", "report")
    require("jinja2", "report")
    require("matplotlib", "report")
    from deeprelax_ase.report import write_report

    page = output or results.with_name(f"{results.name}.html")
    try:
        with errors().status("reading", spinner="dots") as status:
            outcome = write_report(
                results,
                page,
                initial=initial,
                reference=reference,
                show=show,
                model=model,
                figures=figures,
                device=device.value,
                advance=lambda doing: status.update(doing),
            )
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except DeepRelaxError as error:
        stop(str(error))
    except OSError as error:
        stop(f"{page} cannot be written: {error}", SOME_FAILED)
    size = page.stat().st_size / 1e6
    told = "" if figures is None else f"; figures in {escape(str(figures))}"
    Console(highlight=False).print(
        f"{len(outcome):,} crystals in {escape(str(page))} ({size:.1f} MB){told}", soft_wrap=True
    )
    raise typer.Exit(OK)
