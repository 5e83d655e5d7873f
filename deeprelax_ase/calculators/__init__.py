"""Finishing calculators by name."""
