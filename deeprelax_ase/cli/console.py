"""What the command line shows when it is done: a table and a summary; model cards."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from deeprelax_ase.models.registry import ModelCard
    from deeprelax_ase.optimizers.batch import Outcome

#: Up to so many crystals are listed one by one.
TABLE_ROWS = 30
#: Names of crystals are cut to so many characters there, from the left.
LABEL_WIDTH = 30
#: So many metrics of each model are listed; its card has them all.
KEY_METRICS = 4


@dataclass
class Tally:
    """Counts over a run, of any length: only the first rows and one number per crystal are kept.

    Attributes:
        written: crystals in the output, failed ones included.
        failed: crystals that could not be read, relaxed or written.
        not_converged: crystals that the calculator did not bring to fmax.
        total: all frames.
        uncertainties: Å, of each prediction.
        rows: label, formula, volume change, uncertainty and status of the first crystals.
    """

    written: int = 0
    failed: int = 0
    not_converged: int = 0
    total: int = 0
    uncertainties: array = field(default_factory=lambda: array("f"))
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.total += 1
        self.written += outcome.written
        self.failed += outcome.status == "failed"
        self.not_converged += outcome.status == "not converged"
        if outcome.uncertainty is not None:
            self.uncertainties.append(outcome.uncertainty)
        if self.total <= TABLE_ROWS:
            self.rows.append(_row(outcome))


def _row(outcome: Outcome) -> tuple[str, ...]:
    label = outcome.label if len(outcome.label) <= LABEL_WIDTH else "…" + outcome.label[1 - LABEL_WIDTH :]
    formula = "" if outcome.atoms is None else str(outcome.atoms.symbols.formula.reduce()[0].format("metal"))
    volume = "" if outcome.volume_change is None else f"{outcome.volume_change:+.1%}"
    uncertainty = "" if outcome.uncertainty is None else f"{outcome.uncertainty:.3f}"
    remark = f" ({outcome.reason})" if outcome.ok and outcome.reason else ""
    return label, formula, volume, uncertainty, outcome.status + remark


def failure(outcome: Outcome) -> str:
    """One line: which crystal, and why it failed or fell short."""
    known = outcome.reason.startswith(outcome.label)  # errors of reading name the file themselves
    reason = outcome.reason if outcome.status == "failed" else f"{outcome.status} after {outcome.reason}"
    return reason if known else f"{outcome.label}: {reason}"


def print_results(console: Console, tally: Tally, output: str, *, seconds: float) -> None:
    """A row for each crystal, where they are few, and a line for all."""
    if tally.total <= TABLE_ROWS:
        table = Table("crystal", "formula", box=None, pad_edge=False)
        table.add_column("volume", justify="right")
        table.add_column("uncertainty (Å)", justify="right")
        table.add_column("status")
        for row in tally.rows:
            table.add_row(*map(escape, row))
        console.print(table)
    console.print(summary(tally, output, seconds=seconds), markup=False, soft_wrap=True)


def summary(tally: Tally, output: str, *, seconds: float) -> str:
    """One line for the whole run."""
    parts = [f"{tally.total - tally.failed - tally.not_converged} relaxed", f"{tally.failed} failed"]
    if tally.not_converged:
        parts.insert(1, f"{tally.not_converged} not converged")
    parts.append(f"{seconds:.1f} s, {tally.total / max(seconds, 1e-9):.3g} crystals/s")
    if tally.uncertainties:
        parts.append(f"median deeprelax_uncertainty {statistics.median(tally.uncertainties):.3f} Å")
    if tally.written:
        parts.append(f"written to {output}")
    return "; ".join(parts)


def model_table(cards: Sequence[ModelCard]) -> Table:
    """A row for each model, with the metrics that its card names first."""
    table = Table("model", "theory", box=None, pad_edge=False)
    table.add_column("elements", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("metrics")
    for card in cards:
        metrics = "\n".join(f"{name} {value}" for name, value in islice(_flat(card.metrics), KEY_METRICS))
        table.add_row(
            escape(card.name),
            escape(card.level_of_theory),
            str(len(card.elements)),
            f"{card.parameters:,}",
            escape(metrics),
        )
    return table


def model_card(card: ModelCard) -> Table:
    """Everything that the card says."""
    from ase.data import chemical_symbols

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in asdict(card).items():
        if name == "elements":
            text = f"{len(value)}: " + " ".join(chemical_symbols[z] for z in value)
        elif isinstance(value, Mapping):
            text = "\n".join(f"{key} {item}" for key, item in _flat(value))
        else:
            number = isinstance(value, int) and not isinstance(value, bool)
            text = f"{value:,}" if number else str(value)
        table.add_row(name.replace("_", " "), escape(text))
    return table


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)
