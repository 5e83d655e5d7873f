"""The notebooks: they run, and those in the tree were run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.notebooks import FOLDER, run_notebook

pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in ("nbclient", "ipykernel", "plotly", "pyarrow", "sybil")),
    reason="needs extras dev, report",
)


@pytest.mark.parametrize("name", sorted(file.name for file in FOLDER.glob("*.ipynb")))
def test_stored_outputs_are_whole_and_small(name: str) -> None:
    import nbformat

    notebook = nbformat.read(FOLDER / name, 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [
        out for cell in cells for out in cell.outputs if out.output_type == "error" or out.get("name") == "stderr"
    ]
    assert (FOLDER / name).stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sorted(file.name for file in FOLDER.glob("*.ipynb")))
def test_a_notebook_runs_and_shows_as_much_as_is_stored(name: str, tmp_path: Path) -> None:
    import nbformat

    from docs.blocks import differences

    stored = nbformat.read(FOLDER / name, 4)
    again = nbformat.read(FOLDER / name, 4)
    run_notebook(again, tmp_path)
    kinds = [[[out.output_type for out in cell.get("outputs", [])] for cell in one.cells] for one in (stored, again)]
    assert kinds[0] == kinds[1]
    assert not list(differences(*(_texts(one) for one in (stored, again)))), "python -m tests.notebooks runs them anew"
    tables = [
        out.data["text/html"]
        for cell in again.cells
        for out in cell.get("outputs", [])
        if "text/html" in out.get("data", {})
    ]
    assert tables, "predictions, optimizers or bars show themselves in each"


def _texts(notebook: Any) -> str:
    """What its cells print, but for bars of progress."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    texts = [out.get("text", out.get("data", {}).get("text/plain", "")) for out in outputs]
    return "\n".join(text for text in texts if "━" not in text)
