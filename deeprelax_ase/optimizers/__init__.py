"""The one-shot relaxation as an ASE optimizer, its finish, and the same for streams of frames."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
