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
    fitted, costs = models[0]["novelty"], [found["cost"] for found in models]
    novelty, prediction = (max(cost[key] for cost in costs) for key in ("novelty_ms", "prediction_ms"))
    shares = [[found["model"], *_shares(found["causes"])] for found in models if found["causes"]]
    causes = "model | crystals | doubtful geometry | novelty beyond 1 | error features | `ood` | `uncertain`"
    return f"""
{shared.table(" | ".join(["kind", *columns]), rows)}

AUROC: how often a crystal of the kind is more novel than an unrelaxed one of the universal test split. Fitted to
{fitted["crystals"]:,} training crystals and {fitted["outliers"]:,} outliers made of others, limited by
{fitted["validation"]:,} validation crystals. It takes {novelty:.3f} ms of the {prediction:.0f} ms of a prediction.

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
