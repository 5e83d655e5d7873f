"""Every case names tests that exist."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.cases.table import PARTS

TESTS = Path(__file__).resolve().parents[1]


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test")}


@pytest.mark.parametrize("part", PARTS)
def test_every_case_has_its_tests(part):
    missing = [
        name
        for names in PARTS[part].values()
        for name in names
        if name.partition("::")[2] not in names_in(name.partition("::")[0])
    ]
    assert not missing
    assert all(PARTS[part].values())
