"""MatGL's ASE calculator in ASE's units, in either precision, with a number of threads of its own.

The same for MatGL 2 with DGL and for MatGL 3 and later.

Import this module after :func:`~deeprelax_ase.graph.matgl_import.import_matgl`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import matgl
import numpy as np
import torch
from ase import Atoms
from matgl.ext.ase import PESCalculator

from deeprelax_ase.calculators.periodic import as_periodic, scaled_stress
from deeprelax_ase.calculators.scope import torch_settings
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.graph.matgl_import import exact_neighbors

_DTYPES = {"float32": (torch.float32, np.float32), "float64": (torch.float64, np.float64)}


class MatGLCalculator(PESCalculator):
    """A potential of MatGL's, on the CPU (PyPI's DGL knows no other device), in eV, eV/Å and eV/Å³.

    MatGL takes atoms for a molecule unless they repeat in all three directions. Here layers and wires stay what they
    are: in the other directions they repeat too, beyond the cutoff.

    Args:
        potential: as ``matgl.load_model`` gives it; it is converted to ``dtype`` in place.
        dtype: ``"float32"``, as MatGL computes, or ``"float64"``.
        threads: how many threads a calculation takes; None for as many as torch is set to.
        **kwargs: options of MatGL's ``PESCalculator``.
    """

    atoms: Any
    results: dict[str, Any]

    def __init__(self, potential: Any, *, dtype: str = "float32", threads: int | None = None, **kwargs: Any) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"Unknown {dtype=}, must be one of {list(_DTYPES)}")
        self.dtype, self.threads = dtype, threads
        # MatGL's own default stress unit is GPa
        options = {"stress_unit": "eV/A3", "use_voigt": True, **kwargs}
        super().__init__(potential.to(torch.device("cpu"), _DTYPES[dtype][0]), **options)

    def _get_name(self) -> str:
        """Return the name for ASE: the architecture's."""
        return type(self.potential.model).__name__.lower()

    def calculate(
        self, atoms: Atoms | None = None, properties: list | None = None, system_changes: list | None = None
    ) -> None:
        """Compute energy, forces and stress, as ASE asks for them.

        Raises:
            CalculatorError: the potential does not know some of the elements.
        """
        known = getattr(self.potential.model, "element_types", None)
        with _computing_in(self.dtype, self.threads), exact_neighbors():
            if atoms is None:
                atoms = self.atoms
            if known and (unknown := sorted(set(atoms.get_chemical_symbols()) - set(known))):
                raise CalculatorError(f"the potential does not know {', '.join(unknown)}. Choose another calculator.")
            periodic, scale = as_periodic(atoms, self.potential.model.cutoff)
            super().calculate(periodic, properties, system_changes)
            if periodic is not atoms:
                self.atoms = atoms.copy()
                self.results = scaled_stress(self.results, scale)


def load(potential: str) -> Any:
    """The potential in a folder, or of a name that MatGL knows, in float32."""
    with _computing_in("float32"):
        return matgl.load_model(potential)


@contextlib.contextmanager
def _computing_in(dtype: str, threads: int | None = None) -> Iterator[None]:
    """Set the precision of MatGL's graphs too: global variables of its own, which its setter would not put back."""
    with torch_settings(_DTYPES[dtype][0], threads):
        before = matgl.float_th, matgl.float_np
        matgl.float_th, matgl.float_np = _DTYPES[dtype]
        try:
            yield
        finally:
            matgl.float_th, matgl.float_np = before
