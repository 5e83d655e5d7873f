"""Runs of notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run_notebook(notebook: Any, folder: Path) -> None:
    """Execute a ``notebook`` in place, in a ``folder``.

    A kernel is told ports that were free when it was started. On a busy machine another process takes one of them now
    and then before the kernel does, which then dies without a word: it is started anew.
    """
    from nbclient import NotebookClient

    for again in (True, True, False):
        try:
            NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
        except RuntimeError as error:
            if not (again and "died before replying" in str(error)):
                raise
        else:
            return
