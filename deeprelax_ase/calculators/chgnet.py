"""CHGNet's ASE calculator, in its own precision and with a number of threads of its own."""

from __future__ import annotations

from typing import Any

import torch
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

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        """Compute energy, forces, stress and magnetic moments, as ASE asks for them."""
        with torch_settings(torch.float32, self.threads):
            super().calculate(*args, **kwargs)
