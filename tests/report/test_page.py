"""The page: what it tells, and that it loads nothing."""

from __future__ import annotations

import re
from pathlib import Path

from ase.io import read, write

from deeprelax_ase.report import write_report
from tests.report.pages import EVIL, Tags


def test_the_page_holds_all_and_loads_nothing(page: Path) -> None:
    tags = Tags(page.read_text(encoding="utf-8"))
    assert not tags.loads
    assert page.stat().st_size < 15e6
    for told in ("4crystals", "1refused", "are … Å apart", "MgO", "true error", "4 crystals. deeprelax report"):
        assert told in tags.text.replace("\n", "")


def test_it_says_how_many_are_drawn_and_opens_one_before_and_after(screened: Path, tmp_path: Path) -> None:
    """The first of the two could not be relaxed."""
    write_report(screened / "out", tmp_path / "p.html", show=2, device="cpu")
    content = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "2 crystals, out of 4: failures first" in Tags(content).text
    cards = re.findall(r'<details class="crystal"(.*?)</details>', content, re.DOTALL)
    assert [(" open>" in card, "change</th>" in card) for card in cards] == [(False, False), (True, True)]


def test_names_are_text(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    assert EVIL not in content
    assert EVIL in Tags(content).text
    figures = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', content, re.DOTALL)
    assert figures
    assert not any("<" in figure for figure in figures)


def test_without_the_unrelaxed_crystals_nothing_is_drawn(screened: Path, tmp_path: Path) -> None:
    write(tmp_path / "relaxed.extxyz", read(screened / "given.extxyz", index=":2"))
    write_report(tmp_path / "relaxed.extxyz", tmp_path / "p.html", device="cpu")
    assert "--initial" in Tags((tmp_path / "p.html").read_text(encoding="utf-8")).text
