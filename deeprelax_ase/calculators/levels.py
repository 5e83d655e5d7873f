"""Choice of the model whose minima a calculator shares."""

from __future__ import annotations

from typing import Any

from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS, potential_name, weights_digest
from deeprelax_ase.models.registry import DEFAULT_MODEL, M3GNET_RELAX_MODEL

#: Models that have learnt the minima of a potential, by the digest of its weights.
MINIMA_OF = {M3GNET_WEIGHTS: M3GNET_RELAX_MODEL}


def model_for(calculator: Any) -> str:
    """Name of the model that jumps nearest to the minima of ``calculator``.

    The one that has learnt them, where the weights of ``calculator`` are known by their digest (see
    :func:`~deeprelax_ase.calculators.weights_digest`): those of M3GNet-MP-2021.2.8-PES. PBE's for any other, and for
    none: potentials are made to follow DFT.
    """
    return MINIMA_OF.get(weights_digest(calculator) or "", DEFAULT_MODEL)


def level_note(calculator: Any) -> str | None:
    """Say that :func:`model_for` knows no model of the minima of a potential; None where it does, or there is none."""
    name = potential_name(calculator)
    if name is None or weights_digest(calculator) in MINIMA_OF:
        return None
    return f"no model has learnt the minima of {name}: {DEFAULT_MODEL} jumps to those of PBE"
