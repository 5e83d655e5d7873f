"""Every page of the documentation, and the README: their code is run, their names and commands exist."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import typer

pytest.importorskip("sybil", reason="needs sybil")

from deeprelax_ase.calculators import M3GNET_POTENTIAL, M3GNET_VARIABLE
from deeprelax_ase.cli import app
from docs import commands as commands_page
from docs.blocks import PAGES, parse, run
from docs.rooms import BEGIN, PACKAGE, filled

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"

#: What the code of a page needs beyond the package.
NEEDS = {
    "m3gnet": ("dgl", "matgl"),
    "graphs": ("dgl", "matgl"),
    "dft": ("gpaw",),
    "own-data": ("lightning", "crepes"),
    "screening": ("pyarrow",),
    "labels": ("pyarrow", "lightning", "crepes"),
    "examples": ("chgnet", "pyarrow"),
}


@pytest.fixture
def m3gnet(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where M3GNet lies."""
    folder = Path(os.environ.get(M3GNET_VARIABLE, shared / "models" / M3GNET_POTENTIAL))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    monkeypatch.setenv(M3GNET_VARIABLE, str(folder))


def code(page: Path, language: str) -> list[str]:
    """The blocks of a page in that language, those that are not run included."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of others: a reader sees them, and they stop nothing
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_does_what_the_page_says(page: Path, tmp_path: Path, request: pytest.FixtureRequest):
    if missing := [name for name in NEEDS.get(page.stem, ()) if find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    if page.stem == "m3gnet":
        request.getfixturevalue("m3gnet")
    run(page, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("m3gnet")
@pytest.mark.skipif(find_spec("dgl") is None, reason="needs DGL and M3GNet")
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What it takes for given: a calculator. Its shell commands are only looked at."""
    from deeprelax_ase.calculators import get_calculator

    monkeypatch.chdir(tmp_path)
    names = {"calculator": get_calculator("m3gnet"), "__name__": "__main__"}
    blocks = [example for example in parse(README).examples() if example.region.lexemes["arguments"] == "python"]
    assert len(blocks) == 2
    for block in blocks:
        block.namespace.update({name: value for name, value in names.items() if name not in block.namespace})
        block.evaluate()
    assert blocks[-1].namespace["atoms"].info["deeprelax_status"] == "converged"


def commands(program: str) -> list[str]:
    """All calls of ``program`` in the README and the pages, whole."""
    lines = []
    for page in (README, *PAGES):
        for block in code(page, "sh"):
            lines += [re.split(r"\s+#|\s\|\s", line)[0] for line in block.replace("\\\n", " ").splitlines()]
    calls = [line[line.index(program) :] for line in lines if re.match(rf"(\w+=\S+ )*{program}", line)]
    return list(dict.fromkeys(calls))


@cache
def command_line() -> typer.core.TyperGroup:
    """Made once: it takes longer than all that is asked of it."""
    return typer.main.get_command(app)


@pytest.mark.parametrize("command", commands("deeprelax "))
def test_commands_have_the_options_that_they_are_called_with(command: str):
    """Parsed, and not run: names of files need not exist."""
    words = shlex.split(command)[1:]
    called = command_line()
    context = typer.Context(called, info_name="deeprelax")
    while hasattr(called, "resolve_command"):
        name, called, words = called.resolve_command(context, words)
        assert called is not None, name
        context = typer.Context(called, info_name=name, parent=context)
    called.make_context(called.name or "", words, parent=context)


def scripts() -> dict[str, list[str]]:
    """Scripts and modules that are called with options, and these."""
    found: dict[str, list[str]] = {}
    for command in commands("python "):
        _, *words = shlex.split(command)
        name = " ".join(words[:2]) if words[0] == "-m" else words[0]
        found.setdefault(name, []).extend(word for word in words if word.startswith("--"))
    return {name: options for name, options in found.items() if options}


@pytest.mark.slow
@pytest.mark.parametrize("script", scripts())
def test_scripts_have_the_options_that_they_are_called_with(script: str):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *script.split(), "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False, timeout=120)
    if (missing := re.search(r"No module named '(\w+)'", done.stderr)) and missing[1] != "deeprelax_ase":
        pytest.skip(f"needs {missing[1]}")
    assert done.returncode == 0, done.stderr
    assert set(scripts()[script]) <= set(re.findall(r"--[\w-]+", done.stdout))


class TestHowItWorks:
    page = ROOT / "docs" / "how-it-works.md"

    def test_every_equation_has_a_row(self):
        rows = re.findall(r"^\| \((\d+)\) \|", self.page.read_text(), flags=re.MULTILINE)
        assert [int(number) for number in rows] == list(range(1, 29))

    def test_the_names_exist(self):
        by_hand = self.page.read_text().partition(BEGIN)[0] + (ROOT / "docs" / "tour.md").read_text()
        names = re.findall(r"`((?:\w+\.)+\w+)`", by_hand)
        assert len(set(names)) > 40
        for name in names:
            module, _, attribute = name.removeprefix("deeprelax_ase.").rpartition(".")
            path = f"deeprelax_ase.{module}"
            try:
                assert hasattr(importlib.import_module(path), attribute), name
            except ModuleNotFoundError as error:
                raise AssertionError(f"{name}: {error}") from error

    def test_rooms_and_files_are_those_of_today(self):
        page = self.page.read_text(encoding="utf-8")
        assert page == filled(page), "python docs/rooms.py writes them anew"

    def test_every_file_of_a_room_is_told_of(self):
        told = set(re.findall(r"^\| `([\w/]+\.py)` \| \S", self.page.read_text(), flags=re.MULTILINE))
        names = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*/*.py")}
        assert {name for name in names if name.count("/") > 1 or not name.endswith("__init__.py")} == told


def test_commands_are_told_as_they_are_today():
    page = commands_page.PAGE.read_text(encoding="utf-8")
    assert page == commands_page.filled(page), "python docs/commands.py writes them anew"
    assert "### data forces\n\n```none\nUsage: deeprelax data forces" in page


def test_every_page_is_listed():
    contents = (ROOT / "docs" / "index.md").read_text()
    listed = " ".join(contents.split("```{toctree}")[1:]).split()
    assert {page.stem for page in PAGES} - {"index"} <= set(listed)


def test_outputs_stand_below_what_prints_them():
    for page in PAGES:
        kinds = ["", *re.findall(r"^```(python|sh|text)$", page.read_text(), flags=re.MULTILINE)]
        assert not {("", "text"), ("text", "text")} & set(pairwise(kinds)), page
