"""Choice of the model whose minima a calculator shares."""

from __future__ import annotations

from typing import Any

from deeprelax_ase.models.registry import DEFAULT_MODEL, M3GNET_RELAX_MODEL


def model_for(calculator: Any) -> str:
    """Name of the model that jumps nearest to the minima of ``calculator``.

    M3GNet's, for an ASE calculator around MatGL's M3GNet (whose weights are taken to be M3GNet-MP-2021.2.8-PES, the
    level that the model was trained on); DFT's for any other, and for none: potentials are made to follow DFT.
    """
    network = getattr(getattr(calculator, "potential", None), "model", None)
    names = {type(network).__name__, type(calculator).__name__}
    return M3GNET_RELAX_MODEL if names & {"M3GNet", "M3GNetCalculator"} else DEFAULT_MODEL
