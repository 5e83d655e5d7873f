"""The page of models, made of the cards of those that ship with the package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sphinx.application import Sphinx

from deeprelax_ase.models import DEFAULT_MODEL, WEIGHTS, ModelCard, available_models

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
            str(card.passes),
            str(len(card.elements)),
            f"`{card.weights or card.name + '.safetensors'}`",
        )
        for card in cards
    ]
    heading = ("model", "relaxes to", "network", "members × parameters", "passes", "elements", "weights")
    return table(heading, rows)


def section(card: ModelCard) -> str:
    """One card: what a user must know before trusting it."""
    from ase.data import chemical_symbols

    elements = " ".join(chemical_symbols[z] for z in card.elements)
    facts = {
        "Trained on": card.training_data,
        "Split": card.split,
        f"{len(card.elements)} elements": elements,
        "Licence of the weights": card.licence,
        "Commit that trained it": f"`{card.commit}`",
        "SHA-256 of the weights": f"`{card.sha256}`",
    }
    parts = [f"## {card.name}", card.description, metrics(card.metrics)]
    training = card.training
    for name, key in (
        ("Licences of the data", "data_licences"),
        ("Rarest elements in training", "rarest_elements"),
        ("Time and carbon", "cost"),
    ):
        if key in training:
            facts[name] = training[key]
    parts.append("\n".join(f"- **{name}.** {text}" for name, text in facts.items()))
    if commands := training.get("commands") or [c for c in [training.get("command")] if c]:
        parts.append("To reproduce it, at that commit:\n\n```text\n" + "\n".join(commands) + "\n```")
    if card.limits:
        parts.append("Known limits:\n\n" + "\n".join(f"- {limit}" for limit in card.limits))
    return "\n\n".join(parts)


def metrics(values: Mapping[str, Any]) -> str:
    """A table for the test sets that share their figures, and a list of what else was measured."""
    sets = {name.rstrip(":"): row for name, row in values.items() if isinstance(row, Mapping)}
    tested = {name: row for name, row in sets.items() if "crystals" in row}
    names = list(dict.fromkeys(key for row in tested.values() for key in row))
    rows = [[key, *(number(row.get(key)) for row in tested.values())] for key in names]
    others = {name: row for name, row in sets.items() if name not in tested}
    other = [f"- {name}: {key} {number(value)}" for name, row in others.items() for key, value in row.items()]
    return "\n\n".join([table(["", *tested], rows), "\n".join(other)]).strip()


def number(value: Any) -> str:
    """As the card has it."""
    return "" if value is None else f"{value:g}"


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
