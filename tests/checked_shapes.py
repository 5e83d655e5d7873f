"""Shapes of tensors are checked in the tests, see :mod:`deeprelax_ase.graph.shapes`. Imported before the package is.

Checks take as long as the networks do. So they are on in the tests of the folders that name shapes, and where a test
has the mark ``shapes``, as those of inference, of training's losses and of its tasks have.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

_ROOT = Path(__file__).resolve().parents[1]

#: The files that name shapes. Triton reads its own, which torch for CPUs lacks, as they are written.
CHECKED = [
    ".".join(file.relative_to(_ROOT).with_suffix("").parts)
    for file in sorted(_ROOT.glob("deeprelax_ase/*/**/*.py"))
    if "from deeprelax_ase.graph.shapes import" in (text := file.read_text(encoding="utf-8"))
    and "import triton\n" not in text
]

install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")  # ints are floats

_FOLDERS = {Path(*name.split(".")[1:-1]) for name in CHECKED}


def check_shapes_of(item: pytest.Item) -> None:
    """Switch the checks on or off, as this test wants it."""
    folder = item.path.relative_to(_ROOT / "tests").parent
    config.update("jaxtyping_disable", not (folder in _FOLDERS or item.get_closest_marker("shapes")))
