"""The network: PaEGNN (section 4.3 of arXiv:2404.00865) and its heads (section 4.4)."""

from deeprelax_ase.nn.config import ABLATIONS, DeepRelaxConfig
from deeprelax_ase.nn.deeprelax import DeepRelax

__all__ = ["ABLATIONS", "DeepRelax", "DeepRelaxConfig"]
