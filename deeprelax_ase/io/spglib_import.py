"""Import spglib without its messages: the one place that does."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

#: The filter of what spglib 2.7 and 2.8 say in every call.
_NEXT_VERSION = ("ignore", re.compile("Set OLD_ERROR_HANDLING", re.IGNORECASE), DeprecationWarning, None, 0)


def quiet_spglib() -> Any:
    """Import spglib, and silence its messages about crystals without a group and about its next version.

    A value that the user chose is left alone. The one filter is put in front again when another has come before it:
    ``warnings.catch_warnings`` would silence, and restore, those of all threads.
    """
    import spglib

    os.environ.setdefault("SPGLIB_WARNING", "OFF")
    if warnings.filters[:1] != [_NEXT_VERSION]:
        warnings.filterwarnings("ignore", _NEXT_VERSION[1].pattern, DeprecationWarning)
    return spglib
