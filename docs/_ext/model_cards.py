"""The page of models, made of the cards of those that ship with the package."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from deeprelax_ase.models.registry import DEFAULT_MODEL, WEIGHTS, ModelCard, available_models, card_page

#: The line that the cards take the place of.
HERE = "<!-- model cards -->"


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the cards into the page that has a place for them."""
    if HERE in source[0]:
        source[0] = source[0].replace(HERE, cards_as_markdown(available_models()))


def cards_as_markdown(cards: list[ModelCard]) -> str:
    """A table of all, and a section for each."""
    cards = sorted(cards, key=lambda card: card.name != DEFAULT_MODEL)
    return "\n\n".join([overview(cards), *map(section, cards)])


def overview(cards: list[ModelCard]) -> str:
    """What there is, a row each."""
    rows = [
        (
            f"`{card.name}`" + (" (default)" if card.name == DEFAULT_MODEL else ""),
            card.level_of_theory,
            f"`{card.architecture}`",
            f"{card.members} × {card.parameters / 1e6:.1f} M",
            str(card.recycles),
            str(len(card.elements)),
            f"`{card.weights or card.name + '.safetensors'}`",
        )
        for card in cards
    ]
    heading = ("model", "relaxes to", "network", "members × parameters", "recycles", "elements", "weights")
    return table(heading, rows)


def section(card: ModelCard) -> str:
    """The page of one model, its headings one level deeper."""
    page = card_page(card.name)
    if page is None:
        raise ExtensionError(f"{card.name} has no page beside its card: run `make pages`")
    return re.sub(r"^#", "##", page, flags=re.MULTILINE).strip()


def table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """In Markdown."""
    heading = list(heading)
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.connect("source-read", fill)
    app.add_config_value("model_cards", str(WEIGHTS), "env")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
