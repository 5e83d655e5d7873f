"""Predictors that the optimizers of one process share, so that a loop over crystals loads the weights once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeprelax_ase.prediction.predictor import Predictor


def shared_predictor(
    model: Any = None, *, device: str = "auto", graph_backend: str = "torch", one_shot: str = "default"
) -> Predictor:
    """The predictor of a model that comes with the package, one per process; for files and model objects a new one.

    Args:
        model: name, path or object of a model; None for the default one.
        device, graph_backend, one_shot: see :class:`~deeprelax_ase.Predictor`.
    """
    by_name = model is None or (isinstance(model, str) and not Path(model).exists())
    load = _load if by_name else _load.__wrapped__  # files may change between two calls
    return load(model, device, graph_backend, one_shot)


@lru_cache(maxsize=4)
def _load(model: Any, device: str, graph_backend: str, one_shot: str) -> Predictor:
    from deeprelax_ase.prediction.predictor import Predictor

    chosen = {} if model is None else {"model": model}
    return Predictor(**chosen, device=device, graph_backend=graph_backend, one_shot=one_shot)
