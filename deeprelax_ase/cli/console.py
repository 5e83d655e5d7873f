"""Final output of the command line: a table and a summary; model cards."""

from __future__ import annotations

import re
import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from deeprelax_ase.cli.common import as_typed
from deeprelax_ase.io.constraints import are_kept_in_batches
from deeprelax_ase.prediction.judgement import kind_of_reason
from deeprelax_ase.prediction.status import (
    FINISHED,
    JUMP_REJECTED,
    NOT_CONVERGED,
    REJECTED,
    STATUSES,
    TRUSTED,
    UNCERTAIN,
)
from deeprelax_ase.progress import told_speed

if TYPE_CHECKING:
    from rich.console import Console

    from deeprelax_ase.crystal import Crystal
    from deeprelax_ase.models.card import ModelCard
    from deeprelax_ase.optimizers.frames import RelaxedFrame

#: Up to so many crystals are listed one by one.
TABLE_ROWS = 30
#: Names of crystals are cut to so many characters there, from the left.
LABEL_WIDTH = 24
#: Kinds of reasons that a summary tells, the commonest first.
_REASONS = 5
#: The metric of a card that the list of models tells.
_COORDINATES = re.compile(r"coordinates (MAE )?\(Å\)")


@dataclass
class Tally:
    """Counts over a run, of any length: only the first rows and some numbers per crystal are kept.

    Attributes:
        written: crystals in the output, refused and failed ones included.
        statuses: how many crystals there are of each status.
        rejected: jumps that were rejected under the calculator.
        force_calls: geometries that the calculator computed; None before it computed any.
        one_by_one: crystals with constraints that are not kept in batches.
        errors: Å, expected of the coordinates of each prediction that is calibrated.
        volume_errors: relative, the same of the volume.
        energy_bounds: eV/atom, of the energies that are predicted.
        potentials: that these energies are of.
        reasons: for which crystals are uncertain, by their kind.
        rows: of the table, for the first crystals.
        doubts: why those of them are uncertain that are, a line for each.
    """

    written: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    force_calls: int | None = None
    one_by_one: int = 0
    errors: array = field(default_factory=lambda: array("f"))
    volume_errors: array = field(default_factory=lambda: array("f"))
    energy_bounds: array = field(default_factory=lambda: array("f"))
    potentials: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    rows: list[Row] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Number of all frames."""
        return self.statuses.total()

    @property
    def sound(self) -> bool:
        """Whether all crystals are relaxed, as far as can be known."""
        return not set(self.statuses) - set(TRUSTED)

    def add(self, frame: RelaxedFrame) -> None:
        """Count one frame, once it was written."""
        result = frame.result
        self.written += frame.atoms is not None
        self.statuses[result.status] += 1
        self.rejected += result.jump == REJECTED
        if result.force_calls is not None:
            self.force_calls = (self.force_calls or 0) + result.force_calls
        self.one_by_one += result.relaxed is not None and not are_kept_in_batches(result.relaxed.constraints)
        for kept, value in (
            (self.errors, result.error),
            (self.volume_errors, result.volume_error),
            (self.energy_bounds, result.energy_relaxed_bound),
        ):
            if value is not None:
                kept.append(value)
        if result.energy_relaxed_potential:
            self.potentials.add(result.energy_relaxed_potential)
        if result.status == UNCERTAIN:
            self.reasons[kind_of_reason(result.reason or "")] += 1
        if self.total <= TABLE_ROWS:
            self.rows.append(Row.of(frame))
            self.doubts += [f"{frame.label}: {result.reason}"] if result.status == UNCERTAIN else []


class Row(NamedTuple):
    """A row of the table: one crystal, in the order of :data:`COLUMNS`."""

    crystal: str
    formula: str
    volume: str
    error: str
    uncertainty: str
    energy: str
    calls: str
    status: str

    @classmethod
    def of(cls, frame: RelaxedFrame) -> Row:
        """Make the row of ``frame``; the uncertainty stands in where there is no calibrated error."""
        result, status = frame.result, frame.result.status
        if result.jump == REJECTED and status != JUMP_REJECTED:
            status += ", jump rejected"
        finished = result.status in FINISHED
        return cls(
            short(frame.label),
            _formula(result.relaxed),
            _told(result.volume_change, "+z.1%") + _told(result.volume_error, ".1%", " ± "),
            _told(result.error, ".3f"),
            "" if result.error is not None or finished else _told(result.uncertainty, ".3f"),
            _told(result.energy_relaxed, ".3f"),
            _told(result.force_calls, ",d"),
            status,
        )


#: Heads of the table.
COLUMNS = Row("crystal", "formula", "volume", "error (Å)", "uncertainty (Å)", "eV/atom", "force calls", "status")


def short(label: str) -> str:
    """``label``, cut from the left where it is long."""
    return label if len(label) <= LABEL_WIDTH else "…" + label[1 - LABEL_WIDTH :]


def _told(value: float | None, spec: str, before: str = "") -> str:
    return "" if value is None else before + format(value, spec)


def _formula(crystal: Crystal | None) -> str:
    if crystal is None or not all(1 <= z <= 118 for z in crystal.numbers):  # of what failed for it
        return ""
    return str(crystal.symbols.formula.reduce()[0].format("metal"))


def is_reported(frame: RelaxedFrame) -> bool:
    """Whether a line of its own says what became of a crystal; uncertain ones are told of where that is asked for."""
    return not frame.result.ok and frame.result.status != UNCERTAIN


def failure(frame: RelaxedFrame) -> str:
    """Describe in one line the crystal, and the reason why it is refused, failed or fell short."""
    result = frame.result
    reason = f"{result.status} after {result.steps} steps" if result.status == NOT_CONVERGED else result.reason or ""
    reason = f"{result.status}: {reason}" if result.status == JUMP_REJECTED else reason
    known = reason.startswith(frame.label)  # errors of reading name the file themselves
    return as_typed(reason if known else f"{frame.label}: {reason}")


def print_results(console: Console, tally: Tally, output: str, *, seconds: float, unread: str = "") -> None:
    """A row for each crystal, where they are few, why some are uncertain, a line for all, and what was not read.

    Of many crystals the reasons are counted by kind.
    """
    if tally.total <= TABLE_ROWS:
        shown = [n for n in range(len(COLUMNS)) if COLUMNS[n] in _ALWAYS or any(row[n] for row in tally.rows)]
        table = Table(box=None, pad_edge=False)
        for n in shown:
            table.add_column(COLUMNS[n], justify="left" if COLUMNS[n] in _ALWAYS else "right", overflow="fold")
        for row in tally.rows:
            table.add_row(*(escape(row[n]) for n in shown))
        console.print(table)
        told = tally.doubts
    else:
        told = [f"{count:,} uncertain: {reason}" for reason, count in tally.reasons.most_common(_REASONS)]
        if rest := tally.reasons.total() - sum(count for _, count in tally.reasons.most_common(_REASONS)):
            told.append(f"{rest:,} uncertain for other reasons, see deeprelax_reason of each crystal")
    for line in map(as_typed, told):
        console.print(line, markup=False, soft_wrap=True)
    for line in filter(None, (summary(tally, output, seconds=seconds), unread)):
        console.print(line, markup=False, soft_wrap=True)


#: Columns that are there whether or not there is anything in them.
_ALWAYS = (COLUMNS.crystal, COLUMNS.formula, COLUMNS.status)


def counts(statuses: Mapping[str, int]) -> str:
    """``3 accepted, 1 failed``: the better ones first."""
    order = sorted(statuses, key=(*STATUSES, *statuses).index)
    return ", ".join(f"{statuses[status]:,} {status}" for status in order if statuses[status]) or "nothing"


def summary(tally: Tally, output: str, *, seconds: float) -> str:
    """One line for the whole run."""
    parts = [f"{counts(tally.statuses)} of {tally.total:,}"]
    if tally.force_calls is not None:
        jumps = "jump" if tally.rejected == 1 else "jumps"
        parts.append(f"{tally.rejected:,} {jumps} rejected, {tally.force_calls:,} force calls")
    if tally.errors:
        volume = f", of volumes {statistics.median(tally.volume_errors):.1%}" if tally.volume_errors else ""
        parts.append(f"median expected error {statistics.median(tally.errors):.3f} Å{volume}")
    if tally.energy_bounds:
        of, bound = " or ".join(sorted(tally.potentials)), statistics.median(tally.energy_bounds)
        parts.append(f"energies of {of}, median bound {bound:.2f} eV/atom")
    parts.append(f"{seconds:.1f} s, {told_speed(tally.total / max(seconds, 1e-9))} crystals/s")
    if tally.written:
        parts.append(f"written to {output}")
    return "; ".join(parts)


def model_table(cards: Sequence[ModelCard], default: str) -> Table:
    """A row for each model, with the error of coordinates that its card tells of, and the ``default`` marked."""
    table = Table("model", box=None, pad_edge=False)
    table.add_column("theory", overflow="fold")
    table.add_column("elements", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("error (Å)", justify="right")
    for card in cards:
        table.add_row(
            escape(card.name) + (" (default)" if card.name == default else ""),
            escape(card.level_of_theory),
            str(len(card.elements)),
            (f"{card.members} × " if card.members > 1 else "") + f"{card.parameters / 1e6:.1f} M",
            next((value for name, value in _flat(card.metrics) if _COORDINATES.search(name)), ""),
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
