"""Relaxation of very many crystals: columns in, columns out, and nothing lost on the way.

:func:`screen` is what ``deeprelax screen`` does on one machine; :func:`relax_dataset` and :class:`DeepRelaxMaker` do it
on Ray's and jobflow's many, and :func:`relax_many` in memory. All of them share one pool of worker processes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
