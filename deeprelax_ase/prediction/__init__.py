"""Crystals in, predictions out."""
