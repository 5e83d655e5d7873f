"""Crystals in, predictions out: the predictor, its records, whether they are to be trusted, and paths to them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
