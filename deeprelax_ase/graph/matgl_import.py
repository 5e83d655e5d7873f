"""Import MatGL on the backend of its version: the one place that does, so that graph builder and calculators agree.

MatGL 2 runs on DGL, MatGL 3 and later on torch-geometric.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from deeprelax_ase.errors import BackendError

_INSTALL = (
    'Install MatGL with pip install "deeprelax-ase[matgl]", or MatGL 2 with DGL, on Python 3.11, with '
    'pip install "deeprelax-ase[dgl]".'
)


def import_matgl() -> ModuleType:
    """MatGL, running on DGL where its version is 2, on torch-geometric where it is 3 or later.

    MatGL 2 and 3 read their backend from the environment when they are first imported, and DGL writes a file into the
    home folder and prints a notice unless it is told its own; so both are told here, and only here. A choice that the
    user made is left alone. DGL beside MatGL 3 or later is not looked at.

    Raises:
        BackendError: MatGL or what it runs on is missing or broken, or MatGL already runs on another backend. It is an
            ``ImportError`` too.
    """
    on_dgl = runs_on_dgl()
    backend = "DGL" if on_dgl else "PYG"
    os.environ.setdefault("MATGL_BACKEND", backend)
    os.environ.setdefault("DGLBACKEND", "pytorch")
    known = "matgl.ext.ase" in sys.modules  # what is imported already warns no more
    try:
        with nullcontext() if known else warnings.catch_warnings(action="ignore"):
            if on_dgl:
                import_module("dgl")  # MatGL itself does not notice that it is missing
            import matgl

            _check_backend(matgl, backend)
            import matgl.ext.ase
    except BackendError:
        raise
    except (ImportError, OSError) as error:  # OSError: a DGL built for another torch
        told = "MatGL 2 with DGL" if on_dgl else "MatGL"
        raise BackendError(f"{told} cannot be imported ({error}). {_INSTALL}") from error
    return matgl


@contextmanager
def exact_neighbors() -> Iterator[None]:
    """MatGL finds neighbours in double precision inside, once it is imported.

    MatGL 4 takes them from the toolkit of NVIDIA's that TorchSim brings, where that is installed: with positions in
    float32, after a minute of compiling, and with warnings of its own calls.
    """
    converters = sys.modules["matgl.ext.ase"]
    before = getattr(converters, "_alchmtk_available", False)
    try:
        if before:
            converters._alchmtk_available = False  # type: ignore[attr-defined]
        yield
    finally:
        if before:
            converters._alchmtk_available = True  # type: ignore[attr-defined]


def runs_on_dgl() -> bool:
    """Whether the installed MatGL is one that runs on DGL; False where none is installed."""
    try:
        return int(version("matgl").split(".")[0]) < 3
    except PackageNotFoundError:
        return False


def _check_backend(matgl: ModuleType, backend: str) -> None:
    """Refuse another backend before a module that it does not have is looked for."""
    runs_on = getattr(matgl.config, "BACKEND", "PYG")  # from version 4 on there is no other
    if runs_on != backend:
        raise BackendError(
            f"MatGL {version('matgl')} runs on {runs_on} in this process. Set the environment variable "
            f"MATGL_BACKEND={backend} before matgl is first imported, or import it after deeprelax_ase has."
        )
