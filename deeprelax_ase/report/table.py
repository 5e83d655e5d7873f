"""The table of all crystals, as columns of plain values that a page sorts, filters and exports."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.symbols import Symbols

from deeprelax_ase.prediction.status import ACCEPTED
from deeprelax_ase.report.outcome import Outcome

#: Rows that a page holds, at the most: each takes about 120 bytes of it.
LARGEST = 20_000

#: Digits behind the point of each column of numbers, and the factor from what is stored.
_DIGITS = {
    "expected error (Å)": ("error", 3, 1),
    "below in 9 of 10 (Å)": ("error_bound", 3, 1),
    "volume change (%)": ("volume_change", 1, 100),
    "expected volume error (%)": ("volume_error", 1, 100),
    "uncertainty (Å)": ("uncertainty", 3, 1),
    "energy when relaxed (eV/atom)": ("energy_relaxed", 3, 1),
}


def table_of(outcome: Outcome) -> dict[str, Any]:
    """The crystals of a page's table.

    Where there are more than :data:`LARGEST`, those that failed come first, then the most uncertain ones.

    Returns:
        ``columns``, of each its ``title`` and for numbers their ``digits``, and ``rows`` of their values, null where
        one is not known.
    """
    chosen = _chosen(outcome)
    numbers = {title: factor * outcome.numbers[name][chosen] for title, (name, _, factor) in _DIGITS.items()}
    digits = {title: shown for title, (_, shown, _) in _DIGITS.items()}
    numbers |= {
        "true error (Å)": outcome.true_errors[chosen],
        "true volume error (%)": 100 * outcome.true_volume_errors[chosen],
    }
    digits |= {"true error (Å)": 3, "true volume error (%)": 1}
    known = {title: values for title, values in numbers.items() if np.isfinite(values).any()}
    told = _told(outcome, chosen)
    columns = [{"title": title} for title in ("place", "name", "formula", "atoms", "status")]
    columns[0]["digits"] = columns[3]["digits"] = 0  # type: ignore[assignment]
    columns += [{"title": title, "digits": digits[title]} for title in known]  # type: ignore[dict-item]
    values = [[_plain(value, digits[title]) for value in column.tolist()] for title, column in known.items()]
    rows = [[*head, *measured] for (*head, _), *measured in zip(told, *values, strict=True)]
    if any(reason for *_, reason in told):
        columns.append({"title": "reason"})
        rows = [[*row, reason] for row, (*_, reason) in zip(rows, told, strict=True)]
    return {"columns": columns, "rows": rows}


def _chosen(outcome: Outcome) -> np.ndarray:
    """Rows of the outcome that are shown, in order."""
    doubt = outcome.numbers[outcome.doubt]
    worst = np.argsort(np.where(np.isfinite(doubt), -doubt, -np.inf), kind="stable")
    return np.sort(worst[:LARGEST])


def _told(outcome: Outcome, chosen: np.ndarray) -> list[tuple[Any, ...]]:
    """Place, name, formula, number of atoms, status and reason of each."""
    wanted = None if len(chosen) == len(outcome) else set(outcome.index[chosen].tolist())
    told: list[tuple[Any, ...]] = []
    for rows in outcome.results.rows(wanted):
        columns = (rows.index.tolist(), rows.ids, rows.elements, rows.statuses, rows.reasons)
        for place, name, elements, status, reason in zip(*columns, strict=True):
            formula = "" if elements is None else Symbols(elements).formula.format("metal")
            count = None if elements is None else len(elements)
            told.append((place, name, formula, count, status, reason if reason and status != ACCEPTED else ""))
    return told


def _plain(value: float, digits: int) -> float | None:
    """``value`` with two digits more than are shown; None, as JSON has no NaN, where it is not known."""
    return round(value, digits + 2) if np.isfinite(value) else None
