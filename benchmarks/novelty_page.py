"""The table of what novelty tells, made of what novelty.py found: it stands in docs/trust.md between two marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import shared

#: Around the table.
BEGIN, END = "<!-- novelty: made by benchmarks/pages.py -->", "<!-- end of novelty -->"

#: Results of the shipped models, and of one that has learnt bulk crystals alone.
MODELS = ("novelty-PBE", "novelty-M3GNet", "novelty-Bulk")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "trust.md"


def filled(text: str, results: Path) -> str:
    """``text`` with the table of ``results`` in its place, see :func:`shared.filled`."""
    return shared.filled(text, BEGIN, END, table(*shared.read(results, *MODELS)))


def table(*models: dict[str, Any]) -> str:
    """A row for each kind of crystal and three columns for each model; how novelty was fitted, and what it cost."""
    columns = [f"{found['model']}: crystals | AUROC | beyond 1" for found in models]
    rows = [[kind, *(cell for found in models for cell in _cells(found["kinds"][kind]))] for kind in models[0]["kinds"]]
    fitted, bulk = models[0]["novelty"], models[-1]
    of_bulk = bulk["novelty"]
    share = max(found["cost"]["novelty_ms"] / found["cost"]["prediction_ms"] for found in models)
    shares = [[found["model"], *_shares(found["causes"])] for found in models if found["causes"]]
    causes = "model | crystals | doubtful geometry | novelty beyond 1 | error features | `ood` | `uncertain`"
    return f"""
{shared.table(" | ".join(["kind", *columns]), rows)}

AUROC: how often a crystal of the kind is more novel than an unrelaxed one of the universal test split. Fitted to
{fitted["crystals"]:,} training crystals and {fitted["outliers"]:,} outliers made of others, limited by
{fitted["validation"]:,} validation crystals. It takes {share:.2%} of the time of a prediction.

{models[0]["model"]} and {models[1]["model"]} have learnt layers, slabs and defects: to them they are ordinary, and
0.5 is right. {bulk["model"]} is a network of the same shape trained without them, for 90 s on one H200 on 604,984
pairs of the other kinds, to measure what novelty tells of kinds that it has not learnt; it does not ship. Its novelty
was fitted to {of_bulk["crystals"]:,} of these and {of_bulk["outliers"]:,} outliers, slabs, layers, vacancies and
dopants among them.

Novelty is one cause of `ood`. Unrelaxed crystals of the universal test split by the first one that holds, and all that
are `uncertain`, most of them for their odds:

{shared.table(causes, shares)}
"""


def _cells(row: dict[str, Any]) -> list[str]:
    return [f"{row['crystals']}", f"{row['auroc']:.2f}" if "auroc" in row else "", f"{row['flagged']:.1%}"]


def _shares(causes: dict[str, float]) -> list[str]:
    number, *shares = causes.values()
    return [f"{number:,}", *(f"{share:.1%}" for share in shares)]


def write_page(results: Path) -> None:
    """Fill the table of docs/trust.md."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
