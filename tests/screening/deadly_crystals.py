"""Crystals that kill the process that relaxes them."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from ase import Atoms
from ase.calculators.lj import LennardJones

from deeprelax_ase.prediction.judgement import judge
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.table_relaxer import TableRelaxer


class Deadly(TableRelaxer):
    """A relaxer whose process dies of crystals named "deadly", and of one named "once FILE" if FILE is not there yet.

    A crystal of which it is told that it is deadly is not looked into.
    """

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.select(["id", "error"]).to_pylist()
        for name in (row["id"] for row in rows if not row["error"]):
            if name == "deadly" or (name.startswith("once ") and _first(Path(name.removeprefix("once ")))):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(table)


class Hopeless(Deadly):
    """A relaxer whose process dies before it sees any crystal."""

    def __init__(self, options: RelaxOptions) -> None:
        os._exit(3)


def dies_of_potassium() -> LennardJones:
    """A calculator that kills its process when it is asked for a crystal with potassium."""
    return _DiesOfPotassium(sigma=2.5, epsilon=0.1, rc=8.0, smooth=True)


class _DiesOfPotassium(LennardJones):
    def calculate(self, atoms: Atoms | None = None, *arguments: object, **more: object) -> None:
        assert atoms is not None
        if "K" in atoms.symbols:
            os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(atoms, *arguments, **more)


def _first(marker: Path) -> bool:
    """Whether this is the first call, of all processes."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def assert_as_predicted(
    table: pa.Table, structures: list, options: RelaxOptions, indices: list[int] | None = None
) -> None:
    """A row for each structure, once, in order, and the crystal that the predictor makes of it."""
    assert table.column("index").to_pylist() == (indices or list(range(len(structures))))
    predictor = replace(options, device="cpu").predictor()
    for row, expected in zip(table.to_pylist(), predictor.predict_many(structures), strict=True):
        assert row["status"] == judge(expected, options.limits()).status, row["reason"]
        np.testing.assert_allclose(row["positions"], expected.relaxed.positions.ravel(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(row["cell"], expected.relaxed.cell.ravel(), rtol=0, atol=1e-5)
