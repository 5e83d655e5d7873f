"""The command line, ``deeprelax``; a module for each command.

Nothing is imported here before it is needed: a process of a screening imports what started it, which is this.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typer import Typer

    app: Typer  #: All commands.


def main() -> None:
    """Entry point of the ``deeprelax`` command."""
    try:
        _run()
    except KeyboardInterrupt:  # while modules are imported; commands tell of more themselves
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _run() -> None:
    from deeprelax_ase.cli.commands import COMMANDS, make_app

    # Threads that spin while they wait for each other take five times as long where another program has a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    run = globals().get("app") or make_app([command] if command in COMMANDS else COMMANDS)
    run(prog_name="deeprelax")


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deeprelax_ase.cli.commands import COMMANDS, make_app

    made = globals()["app"] = make_app(COMMANDS)
    return made
