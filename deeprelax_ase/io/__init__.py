"""One source and one sink of structures: files, folders, archives, databases and tables.

``open_source`` finds the structures of an input, ``read`` reads one of them, ``open_sink`` takes results.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
