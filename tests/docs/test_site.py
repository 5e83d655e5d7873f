"""The site: it is built offline and without a warning, and its pages hold what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from importlib.util import find_spec
from pathlib import Path

import pytest

import deeprelax_ase
from deeprelax_ase.models.registry import available_models, card_page
from tests.report.chromium import needs_chromium, opened

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("site"),  # built once
    pytest.mark.skipif(not all(map(find_spec, ("sphinx", "furo", "chemiscope"))), reason="needs the extra docs"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the command of the Makefile."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--fail-on-warning", "--keep-going", "--builder", "html"]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(folder)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def article(site: Path, page: str) -> str:
    return (site / f"{page}.html").read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]


def words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_the_makefile_builds_it_so():
    assert "sphinx-build --quiet --fail-on-warning --keep-going --builder html docs" in (ROOT / "Makefile").read_text()


def test_nothing_comes_from_the_network(site: Path):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+", text), page.name


def test_commands_are_told_whole(site: Path):
    text = words(article(site, "commands"))
    for command in ("relax", "screen", "doctor", "data forces"):
        assert f"Usage: deeprelax {command} [OPTIONS]" in text
    assert "srun deeprelax screen candidates.parquet --out screened \\ --shard" in text


def test_pages_fit_phones(site: Path):
    for page in site.rglob("*.html"):
        assert re.search(r'<meta name="viewport" content="width=device-width', page.read_text(encoding="utf-8")), (
            page.name
        )
    text = article(site, "peers")  # wide tables scroll by themselves
    assert text.count("<table") == text.count('class="table-wrapper')


def test_tutorials_have_their_figures(site: Path):
    scripts = [file.stem for file in (ROOT / "docs" / "gallery").glob("plot_*.py")]
    overview = article(site, "tutorials/index")
    assert scripts
    for name in scripts:
        assert re.search(rf"{name}_thumb\.(png|svg)", overview), name
        text = article(site, f"tutorials/{name}")
        assert "Traceback" not in text
        if find_spec("gpaw") is not None or not name.endswith("_dft"):
            assert f"{name}_001.png" in text


WIDE = """
const canvases = root => [...root.querySelectorAll("*")].flatMap(
  one => one.tagName === "CANVAS" ? [one] : one.shadowRoot ? canvases(one.shadowRoot) : []);
return {
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  drawn: canvases(document).some(one => one.width > 100),
  loaded: performance.getEntriesByType("resource").map(one => one.name),
}
"""


@needs_chromium
@pytest.mark.parametrize("page", ["index", "commands", "screening", "peers", "tour", "tutorials/plot_1_relax_crystal"])
def test_a_phone_shows_pages_whole_without_a_network(site: Path, page: str, tmp_path: Path):
    file = site / f"{page}.html"
    based = tmp_path / file.name
    based.write_text(file.read_text(encoding="utf-8").replace("<head>", f'<head><base href="{file.as_uri()}">', 1))
    shown = opened(based, WIDE, tmp_path, width=390)
    assert shown.answer["wide"] <= 0
    assert shown.answer["drawn"] == (page == "tutorials/plot_1_relax_crystal")
    assert not [name for name in shown.answer["loaded"] if not name.startswith(("file:", "blob:", "data:"))]
    assert not shown.complaints


def test_models_are_those_of_the_cards(site: Path):
    text = words(article(site, "models"))
    for card in available_models():
        for told in (card.name, card.description, card.training_data, card.sha256, *card.limits):
            assert " ".join(told.split()) in text
        cells = re.findall(r"\| ([^|\n]*\d[^|\n]*) (?=\|)", card_page(card.name))
        assert len(cells) > 100
        assert all(cell in text for cell in cells)
    assert "model cards" not in text  # the place that they take


def test_public_names_are_described(site: Path):
    text = article(site, "api")
    for name in set(deeprelax_ase.__all__) - {"__version__"}:
        assert re.search(rf'id="deeprelax_ase\.(\w+\.)*{name}"', text), name
    assert "Errors" in words(text)
    assert "UnsupportedElementError" in text


def test_equations_are_mathml(site: Path):
    assert article(site, "how-it-works").count("<math") > 20
    assert 'display="block"' in article(site, "tour")
    for page in ("how-it-works", "tour"):
        assert "$" not in words(article(site, page))


def test_code_and_its_outputs_are_there_and_comments_are_not(site: Path):
    text = article(site, "own-data")
    assert "highlight-sh" in text
    assert "highlight-text" in text
    assert "tolerance" not in words(text)
