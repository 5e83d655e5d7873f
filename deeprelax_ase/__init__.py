"""DeepRelax for ASE and MatGL: one-shot crystal relaxation with a sense of its own error.

Public names are resolved lazily: importing the package imports neither torch nor dgl and opens no file.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "AllowedStrain": "deeprelax_ase.prediction.allowed_strain",
    "Crystal": "deeprelax_ase.crystal",
    "CrystalGraph": "deeprelax_ase.graph",
    "DeepRelaxOptimizer": "deeprelax_ase.optimizers",
    "DeepRelaxPositions": "deeprelax_ase.optimizers",
    "JumpCriteria": "deeprelax_ase.optimizers",
    "Prediction": "deeprelax_ase.prediction.record",
    "Predictor": "deeprelax_ase.prediction.predictor",
    "Uncertainty": "deeprelax_ase.prediction.record",
    "available_models": "deeprelax_ase.models.registry",
    "load_model": "deeprelax_ase.models.loading",
    "relax_many": "deeprelax_ase.screening.many",
    "relaxation_path": "deeprelax_ase.prediction.paths",
}

if TYPE_CHECKING:
    from deeprelax_ase.crystal import Crystal
    from deeprelax_ase.graph import CrystalGraph
    from deeprelax_ase.models.loading import load_model
    from deeprelax_ase.models.registry import available_models
    from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions, JumpCriteria
    from deeprelax_ase.prediction.allowed_strain import AllowedStrain
    from deeprelax_ase.prediction.paths import relaxation_path
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction, Uncertainty
    from deeprelax_ase.screening.many import relax_many

__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
