"""Crystals relaxed, or forces computed, under a potential, to learn from."""
