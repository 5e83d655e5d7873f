"""Training of the networks; nothing of the relaxation flow imports it. Its names are resolved at their first use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
