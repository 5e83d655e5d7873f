"""Crystal relaxation pairs: unrelaxed crystals with their relaxed ones."""

from deeprelax_ase.data.pairs import LEVELS, Pairs, concatenate, crystals_of, load_pairs

__all__ = ["LEVELS", "Pairs", "concatenate", "crystals_of", "load_pairs"]
