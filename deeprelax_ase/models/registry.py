"""The models that ship with the package, by name: a JSON card beside a safetensors file, and a page for people."""

from __future__ import annotations

import os
from pathlib import Path

from deeprelax_ase.errors import ModelError
from deeprelax_ase.models.card import ModelCard

#: The model that is used where none is named.
DEFAULT_MODEL = "DeepRelax-PBE"

#: The model whose crystals lie in the minima of M3GNet-MP-2021.2.8-PES.
M3GNET_RELAX_MODEL = "DeepRelax-M3GNet"

#: Folder of the weights that ship with the package.
WEIGHTS = Path(__file__).parent / "weights"


def available_models() -> list[ModelCard]:
    """Cards of the models that ship with the package, by name."""
    return [ModelCard.read(file) for file in sorted(WEIGHTS.glob("*.json"))]


def card_page(name: str) -> str | None:
    """The card of the shipped model ``name`` as a page of Markdown, with what was measured; None where it has none."""
    file = WEIGHTS / f"{name}.md"
    return file.read_text(encoding="utf-8") if file.exists() else None


def card_file_of(name: str | os.PathLike) -> Path:
    """The card that ``name`` stands for, see :func:`load_model`.

    Raises:
        ModelError: there is no model of that name.
    """
    path = Path(name).expanduser()
    if path.suffix in (".json", ".safetensors"):
        return path.with_suffix(".json")
    shipped = WEIGHTS / f"{path.name}.json"
    if str(name) == path.name and shipped.exists():
        return shipped
    known = ", ".join(sorted(file.stem for file in WEIGHTS.glob("*.json"))) or "none"
    raise ModelError(f"Unknown model {str(name)!r}, must be one of: {known}; or the path of a model card (.json)")
