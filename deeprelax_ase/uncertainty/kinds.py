"""Kinds of crystals whose errors are told apart. The crystal itself, and what may move of it, tell its kind."""

from __future__ import annotations

from typing import Any

#: Kinds, in the order of their numbers.
KINDS = ("bulk", "oxides", "layers", "slabs", "defects")
BULK, OXIDE, LAYER, SLAB, DEFECT = range(len(KINDS))

#: Kinds whose cell is kept, so that the volume is not off.
CELL_KEPT = (SLAB, DEFECT)


def kinds_of(oxides: Any, layered: Any, cell_kept: Any) -> Any:
    """(G,) numbers of the :data:`KINDS` of G crystals, from arrays or tensors of bool.

    Args:
        oxides: (G,) which hold oxygen.
        layered: (G,) which lie between vacuum: layers and slabs.
        cell_kept: (G,) whose cell does not relax: of the layered ones these are slabs, and without vacuum defects.
    """
    relaxing = layered * LAYER + ~layered * (oxides * OXIDE + ~oxides * BULK)
    return ~cell_kept * relaxing + cell_kept * (layered * SLAB + ~layered * DEFECT)
