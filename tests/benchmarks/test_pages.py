"""The pages of the benchmarks are what their generators make of the measured figures."""

from __future__ import annotations

from pathlib import Path

import never_worse_page
import novelty_page
import other_minima_page
import page as paper
import pages
import pytest
from matplotlib.figure import Figure

PAGES = (
    "accuracy.md",
    "bench.md",
    "doors.md",
    "force_calls.md",
    "geometry_limits.md",
    "learning.md",
    "never_worse.md",
    "other_minima.md",
    "speed.md",
    "throughput.md",
    "time_to_minimum.md",
)


def assert_up_to_date(made: Path, kept: Path, *, drawn: bool) -> None:
    if made.suffix == ".svg":
        assert kept.is_file()
        assert not drawn or made.stat().st_size == pytest.approx(kept.stat().st_size, rel=0.05)
    else:
        text, expected = made.read_text(encoding="utf-8"), kept.read_text(encoding="utf-8")
        assert text == expected, f"{kept} is not what the results say: run `make pages`"


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["words", "pictures"])
def drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether pictures are drawn, which takes longer than all else; their names are there without."""
    if not request.param:
        monkeypatch.setattr(Figure, "tight_layout", lambda figure, **options: None)
        monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: Path(file).touch())
    return request.param


def test_pages_are_up_to_date(tmp_path: Path, drawn: bool) -> None:
    pages.write(tmp_path)
    for name in (*PAGES, *(file.name for file in tmp_path.glob("*.svg"))):
        assert_up_to_date(tmp_path / name, pages.HERE / name, drawn=drawn)


@pytest.mark.parametrize("page", [never_worse_page, other_minima_page])
def test_the_tables_of_trust_are_up_to_date(page) -> None:
    text = (pages.HERE.parent / "docs" / "trust.md").read_text(encoding="utf-8")
    assert f"{page.BEGIN}\n{page.trust_table(pages.RESULTS)}\n{page.END}" in text, "run `make pages`"


def test_the_page_of_the_paper_is_up_to_date(tmp_path: Path, drawn: bool) -> None:
    paper.write_page(tmp_path)
    made = {file.name for file in tmp_path.iterdir()}
    assert {"README.md", "figure2.svg", "figure3-Ba.svg", "figure3-Sr.svg", "figure4.svg", "figure5.svg"} == made
    for name in made:
        assert_up_to_date(tmp_path / name, paper.HERE / name, drawn=drawn)


def test_the_table_of_novelty_is_up_to_date() -> None:
    text = novelty_page.PAGE.read_text(encoding="utf-8")
    assert novelty_page.filled(text, pages.RESULTS) == text, "docs/trust.md is old: run `make pages`"


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no place"):
        novelty_page.filled("# Trust", pages.RESULTS)
