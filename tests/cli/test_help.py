"""``--help`` of every command on a terminal of 80 columns."""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from deeprelax_ase.cli import app


def commands(called: Any = None, *names: str) -> dict[tuple[str, ...], Any]:
    """Every command by its words, groups too."""
    called = typer.main.get_command(app) if called is None else called
    found = {names: called}
    for name, command in getattr(called, "commands", {}).items():
        found |= commands(command, *names, name)
    return found


COMMANDS = commands()


@cache
def told(names: tuple[str, ...], columns: int = 80) -> str:
    result = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": str(columns)}, prog_name="deeprelax")
    assert result.exit_code == 0, result.output
    return result.output


def examples(text: str) -> list[str]:
    """Each example, with its further lines."""
    block = text.partition("Examples:\n\n")[2].partition("\n\n")[0]
    return re.sub(r"\\\n\s+", " ", block).splitlines()


def options(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
class TestEveryCommand:
    def test_nothing_is_cut_or_too_wide(self, names):
        text = told(names)
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        assert "..." not in re.sub(r"\w+\.\.\.|\[ARGS\]\.\.\.", "", text)

    def test_every_text_is_whole(self, names):
        text = " ".join(told(names).split())
        for parameter in COMMANDS[names].params:
            assert " ".join((parameter.help or "").split()).rstrip(".") in text, parameter.name

    def test_every_option_says_what_it_takes(self, names):
        taking = [parameter for parameter in options(COMMANDS[names]) if not parameter.is_flag]
        assert not [parameter.name for parameter in taking if not parameter.metavar]

    def test_examples_stay_on_their_lines(self, names):
        text, given = told(names), COMMANDS[names].epilog or ""
        lines = [line for line in given.splitlines() if line.startswith("    ")]
        assert [line for line in lines if f"\n{line[2:]}\n" not in f"{text}\n"] == []

    def test_examples_are_commands_that_parse(self, names):
        if len(names) == 0 or hasattr(COMMANDS[names], "commands"):
            return
        lines = examples(told(names))
        assert lines
        for line in lines:
            words = shlex.split(line.partition(" > ")[0], comments=True)
            if "deeprelax" not in words:
                continue
            words = words[words.index("deeprelax") + 1 :]
            size = 2 if words[0] == "data" else 1
            command = COMMANDS[tuple(words[:size])]
            command.make_context(" ".join(words[:size]), words[size:])


@pytest.mark.parametrize("option", ["--out", "--output", "--max-error", "--calculator", "--device", "--overwrite"])
def test_an_option_has_one_meaning(option):
    """The commands that have it take the same kind of value, by the same names."""
    having = [parameter for command in COMMANDS.values() for parameter in options(command) if option in parameter.opts]
    assert len(having) > 1
    assert len({tuple(parameter.opts) for parameter in having}) == 1
    if option != "--output":  # whose file may have to be of one kind
        assert len({parameter.metavar for parameter in having}) == 1


WRITING = [names for names in COMMANDS if any("-o" in option.opts for option in options(COMMANDS[names]))]


@pytest.mark.parametrize("names", WRITING, ids=" ".join)
def test_what_writes_says_what_comes_of_results_of_before(names):
    """There is ``--overwrite``, or the same command goes on and refuses others."""
    goes_on = "The same command goes on" in " ".join(told(names).split())
    assert any("--overwrite" in option.opts for option in options(COMMANDS[names])) != goes_on


def test_exit_codes_are_told_once():
    text = told(())
    assert re.findall(r"^  (\d+)   +\S", text, flags=re.MULTILINE) == ["0", "1", "2", "130"]
    for names in COMMANDS:
        assert names == () or "130" not in told(names)
