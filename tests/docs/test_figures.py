"""Pages that claim no figures of their own: a number in their prose is filled in of results, or a setting or a version.

Not among them: trust.md, freedom.md and how-it-works.md, whose figures stand beside what was tried; peers.md, which
quotes others; installation.md, whose sizes were measured once.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: What pages may tell by hand: options and limits of the code, versions, sizes of crystals and data, what others found.
SETTINGS = {
    "README": "1 3.11 3.12 2404.00865",
    "benchmarks/README": "1 2 3.12 4 5 0.45 0.55 0.5 0.6",
    "accuracy": "90 21 24",
    "command-line": "800 80,000 1",
    "commands": "0 1 2 30 80 130 143",
    "dft": "3 250 6 20 0.05 1 0.5",
    "examples": "0.05",
    "graphs": "6 2 3.11 3 4",
    "index": "",
    "labels": "25 0.01 0.02 1.8 1.2 50 1,000 500 5,000",
    "limits": "48 5,531 96 0.001 1 0.1",
    "m3gnet": "1 2 3 4 0.7.0 1.8.2 0.1.5 0.4.0",
    "models": "",
    "own-data": "24 2 1.3 20 120 2,000",
    "optimizer": "50 0.001 0.05 0.01 3.25 3.29 2 3 4 0.6",
    "quickstart": "7 1",
    "screening": "20,000 6 1 10,000 1,000 4,000 16 32",
    "tour": "2404.00865 0 1 2 3 4 5 6 7 8 9 10 15 16 20 21 24 30",
    "training": "460 200 60",
}
_LEFT_OUT = (
    r"^```.*?^```",  # code and its outputs, which tests compare
    r"<!-- ([\w-]+) -->.*?<!-- /\1 -->",  # made of results
    r"<!-- faults: .*?<!-- end of faults -->",
    r"<!--.*?-->",
    r"`[^`]*`",
    r"\]\([^)]*\)",
)
_NUMBER = re.compile(r"(?<![\w.\-/])\d(?:[\d,.]*\d)?(?![\w-])")


def figures(text: str) -> set[str]:
    """Numbers in the prose of a page; digits of names such as M3GNet and H200 are none."""
    for pattern in _LEFT_OUT:
        text = re.sub(pattern, "", text, flags=re.DOTALL | re.MULTILINE)
    return set(_NUMBER.findall(text))


@pytest.mark.parametrize("page", SETTINGS)
def test_no_figure_is_typed_by_hand(page: str) -> None:
    file = ROOT / f"{page}.md" if page.endswith("README") else ROOT / "docs" / f"{page}.md"
    by_hand = figures(file.read_text(encoding="utf-8")) - set(SETTINGS[page].split())
    assert not by_hand, (
        f"{file.name} tells {sorted(by_hand)}: a part of benchmarks/readme_page.py or docs_parts.py makes it of results"
    )


def test_what_counts_as_a_figure() -> None:
    text = (
        "M3GNet on an H200 (MatGL-3), `5`, [six](7.md), <!-- a -->8<!-- /a -->\n\n```text\n9\n```\n\n1.5 %, 2,000; 3."
    )
    assert figures(text) == {"1.5", "2,000", "3"}
