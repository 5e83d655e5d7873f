"""The table of all crystals."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeprelax_ase.report import outcome_of, table
from deeprelax_ase.screening import RelaxOptions, screen


def test_rows_are_those_that_were_stored(screened: Path) -> None:
    outcome = outcome_of(screened / "out", reference=screened / "true.extxyz")
    made = table.table_of(outcome)
    titles = [column["title"] for column in made["columns"]]
    rows = [dict(zip(titles, row, strict=True)) for row in made["rows"]]
    assert [row["formula"] for row in rows] == ["MgO", "NaCl", "Zn2S2", "GaAs"]
    assert [row["atoms"] for row in rows] == [2, 2, 4, 2]
    assert rows[3]["status"] == "refused"
    assert "apart" in rows[3]["reason"]
    assert rows[3]["expected error (Å)"] is None
    assert rows[1]["volume change (%)"] == pytest.approx(100 * outcome.numbers["volume_change"][1], abs=1e-3)
    assert rows[2]["true error (Å)"] == pytest.approx(outcome.true_errors[2], abs=1e-5)
    assert rows[2]["true volume error (%)"] == pytest.approx(100 * outcome.true_volume_errors[2], abs=1e-3)


def test_of_too_many_the_failures_and_the_most_uncertain_are_kept(
    screened: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "LARGEST", 2)
    outcome = outcome_of(screened / "out")
    worst = int(outcome.numbers["error"][:3].argmax())
    assert [row[0] for row in table.table_of(outcome)["rows"]] == [worst, 3]


def test_no_column_is_empty(screened: Path, tmp_path: Path) -> None:
    screen([f"{screened / 'given.extxyz'}@0:3"], found := tmp_path / "out", RelaxOptions(device="cpu"), workers=0)
    made = table.table_of(outcome_of(found))
    titles = [column["title"] for column in made["columns"]]
    assert "reason" not in titles
    assert all(len(row) == len(titles) for row in made["rows"])
    for n, title in enumerate(titles):
        assert any(row[n] not in (None, "") for row in made["rows"]), title
