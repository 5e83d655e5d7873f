"""``deeprelax report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from deeprelax_ase.cli.common import INTERRUPTED, OK, SOME_FAILED, Device, errors, require, stop
from deeprelax_ase.errors import DeepRelaxError

EXAMPLES = """\
Examples:

    deeprelax report screened -o screened.html
    deeprelax report relaxed.extxyz --initial candidates.extxyz
    deeprelax report screened --reference dft.extxyz --figures figures/

The page holds all it needs: it opens in any browser, without a network.

Exit code: 0 the page is written; 1 it could not be; 2 there is nothing to tell of; 130 interrupted.
"""


def report(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Folder that `deeprelax screen` wrote, or file that `deeprelax relax` wrote.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PAGE", help="HTML file. Default: OUT.html.", show_default=False),
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The unrelaxed crystals, in the same order; a screening knows its own."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Truly relaxed crystals, by id or in the same order, to tell the errors."),
    ] = None,
    show: Annotated[
        int, typer.Option(min=0, help="Crystals to draw: failures, the most uncertain, the most moved.")
    ] = 12,
    model: Annotated[
        str | None, typer.Option("-m", "--model", metavar="NAME", help="That draws them. Default: that of the results.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write figures for papers there, as PNG and SVG.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.AUTO,
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
