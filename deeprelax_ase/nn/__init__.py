"""The networks: the paper's (sections 4.3 and 4.4 of arXiv:2404.00865), and the end-to-end one."""

from typing import Any

from deeprelax_ase.nn.config import ABLATIONS, DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.nn.deeprelax import DeepRelax
from deeprelax_ase.nn.deeprelax_e3 import DeepRelaxE3
from deeprelax_ase.nn.records import KnownForces, Relaxation

#: Network and configuration of each architecture, by the name of the network.
ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    "DeepRelax": (DeepRelax, DeepRelaxConfig),
    "DeepRelaxE3": (DeepRelaxE3, DeepRelaxE3Config),
}

__all__ = [
    "ABLATIONS",
    "ARCHITECTURES",
    "DeepRelax",
    "DeepRelaxConfig",
    "DeepRelaxE3",
    "DeepRelaxE3Config",
    "KnownForces",
    "Relaxation",
]
