"""Crystal relaxation pairs: unrelaxed crystals with their relaxed ones."""

from deeprelax_ase.data.dataset import PairDataset
from deeprelax_ase.data.pairs import LEVELS, Pairs, concatenate, crystals_of, load_pairs
from deeprelax_ase.data.readers import DataError

__all__ = ["LEVELS", "DataError", "PairDataset", "Pairs", "concatenate", "crystals_of", "load_pairs"]
