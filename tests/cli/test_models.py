"""``deeprelax models``, against cards of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from deeprelax_ase import cli


@pytest.fixture
def deeprelax() -> Callable[..., Result]:
    """Runs the command line."""
    return lambda *arguments: CliRunner().invoke(cli.app, list(arguments))


@dataclass
class Card:
    name: str = "DeepRelax-Test"
    description: str = "for tests [only]"
    elements: list[int] = field(default_factory=lambda: [1, 8, 26])
    level_of_theory: str = "PBE"
    metrics: dict = field(default_factory=lambda: {"test": {"coordinates (Å)": 0.0123456}, "seconds": 3})
    parameters: int = 1234567
    members: int = 1


class TestModels:
    @pytest.fixture(autouse=True)
    def cards(self, monkeypatch):
        pages = {"Other": "# Other\n\n## Known failures\n\n- falls *over*\n"}
        cards = SimpleNamespace(
            available_models=lambda: [Card(), Card(name="Other", members=3)], card_page=pages.get, DEFAULT_MODEL="Other"
        )
        monkeypatch.setitem(sys.modules, "deeprelax_ase.models.registry", cards)

    def test_table(self, deeprelax, monkeypatch):
        monkeypatch.setenv("COLUMNS", "120")
        result = deeprelax("models")
        assert result.exit_code == 0
        for text in ("DeepRelax-Test", "Other (default)", "PBE", "1.2 M", "3 × 1.2 M", "0.01235"):
            assert text in result.stdout

    def test_one_card(self, deeprelax):
        result = deeprelax("models", "deeprelax-test")
        for text in ("for tests [only]", "3: H O Fe", "test coordinates (Å) 0.01235", "level of theory"):
            assert text in result.stdout
        assert "Other" not in result.stdout

    def test_one_card_that_has_a_page(self, deeprelax, monkeypatch):
        assert deeprelax("models", "other").stdout == "# Other\n\n## Known failures\n\n- falls *over*\n"
        monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
        rendered = deeprelax("models", "other").stdout
        assert "Known failures" in rendered
        assert not {"#", "*"} & set(rendered)

    def test_json(self, deeprelax):
        assert [card["name"] for card in json.loads(deeprelax("models", "--json").stdout)] == [
            "DeepRelax-Test",
            "Other",
        ]
        assert json.loads(deeprelax("models", "Other", "--json").stdout)["elements"] == [1, 8, 26]

    def test_unknown(self, deeprelax):
        result = deeprelax("models", "nothing")
        assert result.exit_code == 2
        assert result.stderr == "Error: Unknown model 'nothing', must be one of ['DeepRelax-Test', 'Other']\n"
