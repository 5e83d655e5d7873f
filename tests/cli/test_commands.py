"""A command alone is the one that it is among all others, and no other is imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from deeprelax_ase import cli
from deeprelax_ase.cli.commands import COMMANDS, make_app


def modules_after(code: str) -> set[str]:
    told = "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code + told], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_alone_is_the_same(name: str) -> None:
    alone, among_all = (
        CliRunner().invoke(app, [name, "--help"], prog_name="deeprelax") for app in (make_app([name]), cli.app)
    )
    assert alone.exit_code == 0
    assert alone.output == among_all.output


def test_no_other_command_is_imported() -> None:
    shown = "from deeprelax_ase.cli import main\nsys.argv = ['deeprelax', 'export', '--help']\n"
    loaded = modules_after(f"import sys\n{shown}try:\n    main()\nexcept SystemExit:\n    pass")
    assert "deeprelax_ase.cli.screen" in loaded
    assert not {"deeprelax_ase.cli.relax", "deeprelax_ase.cli.data", "torch", "ase"} & loaded


def test_what_starts_the_command_takes_no_time_to_import() -> None:
    """Each process of a screening imports it."""
    assert not {"typer", "rich", "numpy"} & modules_after("from deeprelax_ase.cli import main")


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'apps'"):
        cli.apps  # noqa: B018
