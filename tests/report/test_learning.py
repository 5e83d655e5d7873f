"""The page of a loop of learning: curves of all runs, and a row for each round."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("plotly", reason="needs plotly")

from deeprelax_ase.learning import Round
from deeprelax_ase.report.learning import learning_curve, write_learning_page


def run(*errors: float) -> list[Round]:
    return [
        Round(n, 50 * n, 48 * n, "model", error, 0.0, error, 1.0, 0.4, dropped={"not <converged>": 2 * n} if n else {})
        for n, error in enumerate(errors)
    ]


def test_curves_show_errors_against_labels() -> None:
    figure = learning_curve({"chosen": run(0.2, 0.1), "by chance": run(0.2, 0.15, 0.12)})
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data] == [
        ("chosen", [0, 50], [0.2, 0.1]),
        ("by chance", [0, 50, 100], [0.2, 0.15, 0.12]),
    ]
    assert figure.layout.shapes[0].y0 == 0.4


def test_the_page_holds_a_row_for_each_round(tmp_path: Path) -> None:
    page = tmp_path / "learning.html"
    write_learning_page({"a & b": run(0.2, 0.1), "other": run(0.3)}, page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<tr>") == 2 + 3
    assert "<h2>a &amp; b</h2>" in text
    assert "2 not &lt;converged&gt;" in text
    assert "Plotly" in text, "it opens without a network"
    assert list(tmp_path.iterdir()) == [page]
