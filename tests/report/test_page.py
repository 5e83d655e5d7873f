"""The page: what it tells, and that it loads nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ase.io import read, write

from deeprelax_ase.report import write_report
from tests.report.pages import EVIL, Tags


def test_the_page_holds_all_and_loads_nothing(page: Path) -> None:
    tags = Tags(page.read_text(encoding="utf-8"))
    assert not tags.loads
    assert page.stat().st_size < 15e6
    for told in ("4crystals", "1refused", "are … Å apart", "MgO", "true error"):
        assert told in tags.text.replace("\n", "")


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


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Debian's chromium is not installed")
def test_a_browser_draws_it_without_a_network(page: Path, tmp_path: Path) -> None:
    options = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=15000", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path}", "--dump-dom"]
    shown = subprocess.run(
        ["chromium", *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    charts, views = (len(re.findall(f'class="{kind} js-plotly-plot', shown.stdout)) for kind in ("plot", "view"))
    assert charts == 5
    assert views == 1  # the others are drawn when they are opened
    assert "<canvas" in shown.stdout
    assert not [line for line in shown.stderr.splitlines() if "CONSOLE" in line and "rror" in line]
