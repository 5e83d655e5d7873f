"""The one-shot relaxation as ASE optimizers."""

from deeprelax_ase.optimizers.deeprelax import DeepRelaxOptimizer, DeepRelaxPositions
from deeprelax_ase.optimizers.trial import JumpCriteria

__all__ = ["DeepRelaxOptimizer", "DeepRelaxPositions", "JumpCriteria"]
