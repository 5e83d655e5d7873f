"""What a restart file holds: that the jump was made, from where, and what the finishing optimizer remembers."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.io.jsonio import read_json, write_json
from ase.optimize.optimize import RestartError


class Before(NamedTuple):
    """Where a further jump started.

    Attributes:
        energy: eV.
        cell: (3, 3) Å.
        positions: (N, 3) Å.
    """

    energy: float
    cell: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True, eq=False)
class JumpRecord:
    """A jump that was made.

    Attributes:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Å, those of the unrelaxed crystal.
        cell: (3, 3) Å, that of the unrelaxed crystal.
        model: name of the model.
        uncertainty: Å, predicted uncertainty of the crystal.
        solver_converged: whether the geometry solver came to rest.
        corrections: further jumps made since, see :mod:`deeprelax_ase.optimizers.correction`.
        before: where the last of them started; None where that need not be known any more.
        finish: name of the finishing optimizer; None, as its memory, before its first step.
        orig_cell: (3, 3) Å, the cell that its filter measures the deformation from; None where the cell is kept.
        memory: what it would have put into a restart file of its own.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    model: str
    uncertainty: float
    solver_converged: bool
    corrections: int = 0
    before: Before | None = None
    finish: str | None = None
    orig_cell: np.ndarray | None = None
    memory: Any = None

    def starts_from(self, atoms: Atoms) -> bool:
        """Whether ``atoms`` are the unrelaxed crystal, to the digits that structure files keep."""
        return np.allclose(atoms.positions, self.positions, rtol=0, atol=1e-6) and np.allclose(
            atoms.cell.array, self.cell, rtol=0, atol=1e-6
        )

    def memory_fits(self, finish: str, orig_cell: np.ndarray | None) -> bool:
        """Whether there is a memory, of this optimizer, in the coordinates of a filter that deforms ``orig_cell``."""
        if self.memory is None or self.finish != finish:
            return False
        if orig_cell is None or self.orig_cell is None:
            return orig_cell is self.orig_cell
        return np.allclose(orig_cell, self.orig_cell, rtol=0, atol=1e-6)


def write_record(path: str | os.PathLike, record: JumpRecord) -> None:
    """Write ``record`` as JSON; the file at ``path`` is whole at any time, whenever the process dies."""
    unfinished = Path(f"{os.fspath(path)}.tmp")
    write_json(unfinished, {f.name: getattr(record, f.name) for f in fields(record)})
    unfinished.replace(path)


def read_record(path: str | os.PathLike, atoms: Atoms) -> JumpRecord:
    """The record at ``path``, which must be of a relaxation of these ``atoms``.

    Raises:
        RestartError: the file is no such record, or belongs to another crystal.
    """
    try:
        with open(path) as file:
            record = JumpRecord(**read_json(file, always_array=False))
        if record.before is not None:
            record = replace(record, before=Before(*record.before))
    except (ValueError, TypeError, KeyError) as error:
        raise RestartError(
            f"{path} is not a restart file of DeepRelaxOptimizer. Delete it, or give restart= another name."
        ) from error
    if not np.array_equal(record.numbers, atoms.numbers):
        raise RestartError(f"{path} belongs to another crystal. Delete it, or give restart= another name.")
    return record
