"""Evaluation of predictions against relaxed crystals: metrics, assessment, calibration, baselines."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
