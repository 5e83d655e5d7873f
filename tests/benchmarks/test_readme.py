"""What README.md, pages of docs and benchmarks/README.md say of measured figures is what was measured."""

from __future__ import annotations

import re

import pytest
import readme_page
from aims_table import Aim


@pytest.mark.parametrize("page", readme_page.PAGES, ids=lambda page: str(page.relative_to(readme_page.ROOT)))
def test_pages_say_what_was_measured(page) -> None:
    text = page.read_text(encoding="utf-8")
    assert readme_page.filled_page(text, readme_page.RESULTS) == text, "run `make pages`"
    begun = re.findall(r"<!-- ([\w-]+) -->", text)
    assert begun
    assert set(begun) <= readme_page.PARTS.keys()


def test_marks_within_sentences_do_not_begin_lines() -> None:
    """Markdown takes a line that begins with a comment for HTML."""
    for page in readme_page.PAGES:
        for name in readme_page.INLINE:
            assert not re.search(rf"^\s*<!-- /?{name} -->", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_a_place_that_does_not_end_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no place"):
        readme_page.filled_page("<!-- calls -->", readme_page.RESULTS)


@pytest.mark.parametrize(
    ("aim", "cells"),
    [
        (Aim("far", 0.075, 0.09243), ["far", "at most 0.075 Å", "0.092 Å", "**missed**"]),
        (Aim("near", 0.9, 0.95, "{:.0%}", least=True), ["near", "at least 90%", "95%", "met"]),
        (Aim("close", 1.9, 1.9078, "{:.2f}"), ["close", "at most 1.90", "1.91", "**missed**"]),
        (Aim("part", 1, 0.5, "{:.1f}", of=(3, 20)), ["part", "at most 1.0", "0.5", "not shown (3 of 20 crystals)"]),
        (Aim("bad part", 1, 1.5, "{:.1f}", of=(3, 20)), ["bad part", "at most 1.0", "1.5", "**missed**"]),
        (Aim("whole", 1, 0.5, "{:.1f}", of=(20, 20)), ["whole", "at most 1.0", "0.5", "met"]),
        (Aim("other", None, 0.5, "{:.1f}"), ["other", "state", "0.5", ""]),
    ],
)
def test_rows_say_whether_aims_are_met(aim: Aim, cells: list[str]) -> None:
    assert aim.cells() == cells
