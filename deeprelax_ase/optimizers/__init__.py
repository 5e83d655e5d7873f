"""The one-shot relaxation as ASE optimizers."""

from deeprelax_ase.optimizers.acceptance import JumpCriteria
from deeprelax_ase.optimizers.deeprelax import DeepRelaxOptimizer, DeepRelaxPositions

__all__ = ["DeepRelaxOptimizer", "DeepRelaxPositions", "JumpCriteria"]
