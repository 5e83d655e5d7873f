"""Import MatGL with its DGL backend: the one place that does, so that graph builder and calculators agree."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import nullcontext
from types import ModuleType

from deeprelax_ase.errors import BackendError

_INSTALL = 'pip install "deeprelax-ase[matgl]" (DGL has wheels up to Python 3.11)'


def import_matgl() -> ModuleType:
    """MatGL, running on DGL.

    MatGL reads its backend from the environment when it is first imported, and DGL writes a file into the home folder
    and prints a notice unless it is told its own; so both are told here, and only here. A choice that the user made is
    left alone.

    Raises:
        BackendError: MatGL or DGL is missing or broken, or MatGL already runs on another
            backend, or is of a version that has no DGL. It is an ``ImportError`` too.
    """
    os.environ.setdefault("MATGL_BACKEND", "DGL")
    os.environ.setdefault("DGLBACKEND", "pytorch")
    known = "matgl.ext.ase" in sys.modules  # what is imported already warns no more
    try:
        with nullcontext() if known else warnings.catch_warnings(action="ignore"):
            import dgl  # noqa: F401  MatGL itself does not notice that it is missing
            import matgl

            _check_backend(matgl)
            import matgl.ext.ase
    except BackendError:
        raise
    except (ImportError, OSError) as error:  # OSError: a DGL built for another torch
        raise BackendError(f"MatGL with DGL cannot be imported ({error}). Install it with {_INSTALL}.") from error
    return matgl


def _check_backend(matgl: ModuleType) -> None:
    """Refuse versions from 3 on, which have no DGL and other modules, before a missing module is looked for."""
    try:
        from matgl.config import BACKEND
    except ImportError:
        version = getattr(matgl, "__version__", "of this version")
        raise BackendError(f"MatGL {version} does not run on DGL any more. Install {_INSTALL}.") from None
    if BACKEND != "DGL":
        raise BackendError(
            f"MatGL runs on {BACKEND} in this process. Set the environment variable MATGL_BACKEND=DGL before matgl is "
            "first imported, or import it after deeprelax_ase has."
        )
