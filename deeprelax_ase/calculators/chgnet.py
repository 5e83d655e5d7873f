"""CHGNet's ASE calculator with a number of threads of its own."""

from __future__ import annotations

from typing import Any

from chgnet.model.dynamics import CHGNetCalculator

from deeprelax_ase.calculators.threads import number_of_threads


class ThreadedCHGNetCalculator(CHGNetCalculator):
    """CHGNet in eV, eV/Å and eV/Å³.

    Args:
        threads: how many threads a calculation takes; None for as many as torch is set to.
        **kwargs: options of ``CHGNetCalculator``.
    """

    def __init__(self, *, threads: int | None = None, **kwargs: Any) -> None:
        self.threads = threads
        super().__init__(**kwargs)

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        """Compute energy, forces, stress and magnetic moments, as ASE asks for them."""
        with number_of_threads(self.threads):
            super().calculate(*args, **kwargs)
