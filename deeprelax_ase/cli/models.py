"""``deeprelax models``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from deeprelax_ase.cli import completion, console
from deeprelax_ase.cli.common import stop
from deeprelax_ase.cli.options import option
from deeprelax_ase.errors import ModelError

EXAMPLES = """\
Examples:

    deeprelax models
    deeprelax models DeepRelax-PBE
    deeprelax models DeepRelax-PBE > card.md    # Markdown, to a file
    deeprelax models --json

Every model relaxes to the minima of one level of theory, and says so.
"""


Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Show this model's card whole.", autocompletion=completion.models),
]


def models(
    name: Name = None,
    as_json: Annotated[bool, option("Write JSON to the standard output.", "--json")] = False,
) -> None:
    """List the models that come with the package: what they relax to, for which elements, how well."""
    from deeprelax_ase.models.registry import DEFAULT_MODEL, available_models, card_page

    cards = available_models()
    if name is not None:
        known = [card.name for card in cards]
        cards = [card for card in cards if card.name.lower() == name.lower()]
        if not cards:
            stop(str(ModelError(f"Unknown model {name!r}, must be one of {known}")))
    if as_json:
        typer.echo(json.dumps([asdict(card) for card in cards] if name is None else asdict(cards[0]), indent=2))
    elif name is None:
        Console().print(console.model_table(cards, DEFAULT_MODEL))
    elif (page := card_page(cards[0].name)) is None:
        Console().print(console.model_card(cards[0]))
    elif (terminal := Console()).is_terminal:
        from rich.markdown import Markdown  # a parser, which no other command needs

        terminal.print(Markdown(page))
    else:
        typer.echo(page, nl=False)
