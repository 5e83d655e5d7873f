"""Crystal relaxation pairs: unrelaxed crystals with their relaxed ones."""

from deeprelax_ase.data.pairs import Pairs, crystals_of, load_pairs

__all__ = ["Pairs", "crystals_of", "load_pairs"]
