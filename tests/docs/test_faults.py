"""The table of faults: its rows are those of the page, and the tests behind them are there."""

from __future__ import annotations

import ast

import pytest

from docs.faults import FAULTS, PAGE, ROOT, Fault


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row.fault[:40])
def test_each_row_is_on_the_page_and_has_its_tests(row: Fault) -> None:
    (line,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {row.fault} |")]
    _, _, outcome, variants, _ = (part.strip() for part in line.split("|"))
    assert outcome == row.outcome
    assert int(variants) >= len(row.tests)
    for test in row.tests:
        file, *names = test.split("::")
        scope: ast.AST = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        for name in names:
            found = [node for node in ast.iter_child_nodes(scope) if getattr(node, "name", "") == name]
            assert found, f"{test} is not there"
            scope = found[0]
