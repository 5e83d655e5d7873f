"""CHGNet's ASE calculator, in its own precision and with a number of threads of its own."""

from __future__ import annotations

from typing import Any

import torch
from ase import Atoms
from chgnet.model.dynamics import CHGNetCalculator

from deeprelax_ase.calculators.scope import torch_settings


class ScopedCHGNetCalculator(CHGNetCalculator):
    """CHGNet in eV, eV/Å and eV/Å³, in float32 whatever torch's default type is.

    Args:
        threads: how many threads a calculation takes; None for as many as torch is set to.
        **kwargs: options of ``CHGNetCalculator``.
    """

    def __init__(self, *, threads: int | None = None, **kwargs: Any) -> None:
        self.threads = threads
        with torch_settings(torch.float32):
            super().__init__(**kwargs)

    def _get_name(self) -> str:
        """Return the name for ASE."""
        return "chgnet"

    def calculate(self, atoms: Atoms | None = None, *args: Any, **kwargs: Any) -> None:
        """Compute energy, forces, stress and magnetic moments, as ASE asks for them."""
        atoms = getattr(self, "atoms", None) if atoms is None else atoms
        if atoms is None:
            raise ValueError("CHGNet is asked about no atoms: give them, or attach the calculator to them")
        inside = atoms.copy()
        inside.wrap()  # CHGNet's search for neighbours goes through all cells up to the furthest atom
        with torch_settings(torch.float32, self.threads):
            super().calculate(inside, *args, **kwargs)
        self.atoms = atoms.copy()
        if "stress" in self.results:  # CHGNet divides by a volume that is negative where the cell is left-handed
            self.results["stress"] = self.results["stress"] * atoms.cell.handedness
