"""How far to trust a prediction: expected errors, what the model does not know, and what comes of that.

Run it with ``python examples/trust.py``; it takes some seconds on a CPU.
"""

from __future__ import annotations

from ase import Atoms
from ase.build import bulk
from rich.console import Console
from rich.table import Table

from deeprelax_ase import DeepRelaxOptimizer, Predictor


def perovskite(formula: str, a: float) -> Atoms:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Atoms(formula, scaled_positions=sites, cell=[a] * 3, pbc=True)


def crystals() -> dict[str, Atoms]:
    """From an ordinary crystal to one that is far from any minimum."""
    rattled = perovskite("SrTiO3", 3.905).repeat(2)
    rattled.rattle(0.15, seed=1)
    stretched = perovskite("SrTiO3", 1.25 * 3.905)
    stretched.rattle(0.6, seed=1)
    return {
        "MgO, 4 % too long": bulk("MgO", "rocksalt", a=1.04 * 4.21),
        "BaZrO3 in the cell of SrTiO3": perovskite("BaZrO3", 3.905),
        "SrTiO3, atoms rattled by 0.15 Å": rattled,
        "SrTiO3, 25 % too long, rattled by 0.6 Å": stretched,
    }


def main() -> None:
    console, predictor = Console(width=110), Predictor(device="cpu")
    table = Table("crystal", title="Without a calculator", box=None, title_justify="left")
    for column in ("error (Å)", "in 9 of 10 below", "volume", "in 9 of 10 below"):
        table.add_column(column, justify="right")
    table.add_column("judgement")
    for name, atoms in crystals().items():
        optimizer = DeepRelaxOptimizer(atoms, predictor=predictor, logfile=None)
        optimizer.run()
        assert optimizer.prediction is not None
        assert optimizer.judgement is not None
        error = optimizer.prediction.error
        assert error is not None  # the default model is calibrated
        table.add_row(
            name,
            f"{error.coordinates:.3f}",
            f"{error.coordinates_bound:.3f}",
            f"{error.volume:.1%}",
            f"{error.volume_bound:.1%}",
            optimizer.judgement.status,
        )
    console.print(table)
    console.print()

    rattled = crystals()["SrTiO3, atoms rattled by 0.15 Å"]
    strict = DeepRelaxOptimizer(rattled, predictor=predictor, max_error=0.05, logfile=None)
    strict.run()
    console.print(f"With max_error=0.05 the third one is {strict.judgement}", markup=False)


if __name__ == "__main__":
    main()
