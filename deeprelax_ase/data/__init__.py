"""Crystal relaxation pairs: unrelaxed crystals with their relaxed ones."""

from deeprelax_ase.data.dataset import PairDataset
from deeprelax_ase.data.pairs import LEVELS, RelaxationPairs, concatenate, crystals_of, load_pairs
from deeprelax_ase.data.readers import DataError

__all__ = ["LEVELS", "DataError", "PairDataset", "RelaxationPairs", "concatenate", "crystals_of", "load_pairs"]
