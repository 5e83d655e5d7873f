"""Crystal relaxation pairs: unrelaxed crystals with their relaxed ones."""

from deeprelax_ase.data.pairs import Pairs, load_pairs

__all__ = ["Pairs", "load_pairs"]
