"""Training of the DeepRelax network; nothing of the relaxation flow imports it."""

from deeprelax_ase.training.loop import train
from deeprelax_ase.training.settings import TrainingSettings

__all__ = ["TrainingSettings", "train"]
