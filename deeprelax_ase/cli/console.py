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

from deeprelax_ase.prediction.status import FAILED, NOT_CONVERGED

if TYPE_CHECKING:
    from rich.console import Console

    from deeprelax_ase.crystal import Crystal
    from deeprelax_ase.models.card import ModelCard
    from deeprelax_ase.optimizers.batch import RelaxedFrame

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

    def add(self, frame: RelaxedFrame) -> None:
        """Count one frame, once it was written."""
        result = frame.result
        self.total += 1
        self.written += frame.atoms is not None
        self.failed += result.status == FAILED
        self.not_converged += result.status == NOT_CONVERGED
        if result.uncertainty is not None:
            self.uncertainties.append(result.uncertainty)
        if self.total <= TABLE_ROWS:
            self.rows.append(_row(frame))


def _row(frame: RelaxedFrame) -> tuple[str, ...]:
    result, label = frame.result, frame.label
    label = label if len(label) <= LABEL_WIDTH else "…" + label[1 - LABEL_WIDTH :]
    volume = "" if result.volume_change is None else f"{result.volume_change:+.1%}"
    uncertainty = "" if result.uncertainty is None else f"{result.uncertainty:.3f}"
    remark = result.reason if result.steps is None else f"{result.steps} steps"
    status = f"{result.status} ({remark})" if result.ok and remark else result.status
    return label, _formula(result.relaxed), volume, uncertainty, status


def _formula(crystal: Crystal | None) -> str:
    if crystal is None:
        return ""
    from ase.symbols import Symbols

    return str(Symbols(crystal.numbers).formula.reduce()[0].format("metal"))


def failure(frame: RelaxedFrame) -> str:
    """One line: which crystal, and why it failed or fell short."""
    result = frame.result
    reason = f"{result.status} after {result.steps} steps" if result.status == NOT_CONVERGED else result.reason or ""
    known = reason.startswith(frame.label)  # errors of reading name the file themselves
    return reason if known else f"{frame.label}: {reason}"


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
