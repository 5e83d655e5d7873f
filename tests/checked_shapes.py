"""Shapes of tensors are checked in the tests, see :mod:`deeprelax_ase.graph.shapes`. Imported before the package is."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import install_import_hook

_ROOT = Path(__file__).resolve().parents[1]

#: The files that name shapes.
CHECKED = [
    ".".join(file.relative_to(_ROOT).with_suffix("").parts)
    for file in sorted(_ROOT.glob("deeprelax_ase/*/*.py"))
    if "from deeprelax_ase.graph.shapes import" in file.read_text(encoding="utf-8")
]

install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")  # ints are floats
