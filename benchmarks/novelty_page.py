"""The table of what novelty tells, made of what novelty.py found: it stands in docs/trust.md between two marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import shared

#: Around the table.
BEGIN, END = "<!-- novelty: made by benchmarks/pages.py -->", "<!-- end of novelty -->"

PAGE = Path(__file__).resolve().parents[1] / "docs" / "trust.md"


def filled(text: str, results: Path) -> str:
    """``text`` with the table of ``results`` in its place, see :func:`shared.filled`."""
    return shared.filled(text, BEGIN, END, table(shared.read(results, "novelty-PBE")))


def table(found: dict[str, Any]) -> str:
    """A row for each kind of crystal, and what it cost."""
    rows = [
        [name, f"{row['crystals']}", f"{row['auroc']:.2f}" if "auroc" in row else "", f"{row['flagged']:.1%}"]
        for name, row in found["kinds"].items()
    ]
    fitted, cost = found["novelty"], found["cost"]
    return f"""
{shared.table([found["model"], "crystals", "AUROC", "beyond 1"], rows)}

AUROC: how often a crystal of the kind is more novel than an unrelaxed one of the universal test split. Fitted to
{fitted["crystals"]:,} training crystals and {fitted["outliers"]:,} outliers made of others, limited by
{fitted["validation"]:,} validation crystals. It takes {cost["novelty_ms"]:.3f} ms of the
{cost["prediction_ms"]:.0f} ms of a prediction.
"""


def write_page(results: Path) -> None:
    """Fill the table of docs/trust.md."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
