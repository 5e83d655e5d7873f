"""Expected errors of predictions: the ensemble's uncertainty, and errors calibrated on crystals that are known."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
