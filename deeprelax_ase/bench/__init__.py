"""One-shot predictions beside what a user would run instead: speed, accuracy, uncertainty and force calls."""

from deeprelax_ase.bench.baselines import BASELINES, Relaxed
from deeprelax_ase.bench.measuring import bench

__all__ = ["BASELINES", "Relaxed", "bench"]
