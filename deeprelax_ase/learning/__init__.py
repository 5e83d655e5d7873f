"""The loop of prediction, choice, labels and training: a network learns a potential's minima from few labels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
