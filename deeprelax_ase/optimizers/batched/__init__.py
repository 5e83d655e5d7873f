"""Relaxation of many crystals side by side under a potential in batches: each takes the steps that it takes alone."""
