"""Runs of notebooks; ``python -m tests.notebooks`` runs those of the tree and keeps what they show."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "notebooks"


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


def main() -> None:
    """Run each in an empty folder, and write its outputs into it."""
    import nbformat

    for file in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(file, 4)
        with tempfile.TemporaryDirectory() as folder:
            run_notebook(notebook, Path(folder))
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # when it ran
        nbformat.write(notebook, file)
        print(f"{file.name}: run")


if __name__ == "__main__":
    main()
