"""Restart files: whether the jump was made, from where, and the memory of the finishing optimizer."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.io import Trajectory
from ase.io.jsonio import read_json, write_json
from ase.optimize.optimize import RestartError

from deeprelax_ase.io.constraints import constraints_text
from deeprelax_ase.optimizers.acceptance import JumpDecision
from deeprelax_ase.prediction.judgement import Judgement


class FinishMemory(NamedTuple):
    """State that a finishing optimizer needs to go on.

    Attributes:
        name: of its class.
        orig_cell: (3, 3) Å, the cell that its filter measures the deformation from; None where the cell is kept.
        content: of the restart file that it would have written itself.
    """

    name: str
    orig_cell: np.ndarray | None
    content: Any

    def fits(self, name: str, orig_cell: np.ndarray | None) -> bool:
        """Whether it is of this optimizer, in the coordinates of a filter that deforms ``orig_cell``."""
        if self.name != name:
            return False
        if orig_cell is None or self.orig_cell is None:
            return orig_cell is self.orig_cell
        return np.allclose(orig_cell, self.orig_cell, rtol=0, atol=1e-6)


@dataclass(frozen=True, eq=False)
class JumpRecord:
    """A jump that was made, or tried.

    Attributes:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Å, those of the unrelaxed crystal.
        cell: (3, 3) Å, that of the unrelaxed crystal.
        model: name of the model.
        uncertainty: Å, predicted uncertainty of the crystal.
        judgement: of the prediction.
        decision: about the jump.
        force_informed_steps: further jumps tried since.
        over: whether no further jump is to be tried.
        orig_cell: (3, 3) Å, the cell that the deformation is measured from since; None where the cell is kept.
        memory: of the finish; None before its first step.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    model: str
    uncertainty: float
    judgement: Judgement
    decision: JumpDecision
    force_informed_steps: int = 0
    over: bool = False
    orig_cell: np.ndarray | None = None
    memory: FinishMemory | None = None

    def starts_from(self, atoms: Atoms) -> bool:
        """Whether ``atoms`` are the unrelaxed crystal, to the digits that structure files keep."""
        return np.allclose(atoms.positions, self.positions, rtol=0, atol=1e-6) and np.allclose(
            atoms.cell.array, self.cell, rtol=0, atol=1e-6
        )


class RestartFolder:
    """Files of relaxations that may be interrupted, a restart file and a trajectory of each crystal.

    Args:
        path: the folder, made if need be.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self._path, self._used = Path(path), list[Path]()
        self._path.mkdir(parents=True, exist_ok=True)

    def files(self, atoms: Atoms, **settings: Any) -> tuple[Path, Path]:
        """Restart file and trajectory of the relaxation of ``atoms`` under these ``settings``, whatever it has reached.

        Without a last frame there is nothing to go on from: files of no use are removed.
        """
        told = [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc]
        content = b"".join(np.ascontiguousarray(array).tobytes() for array in told)
        content += repr((sorted(settings.items()), constraints_text(atoms.constraints))).encode()
        stem = self._path / hashlib.blake2b(content, digest_size=16).hexdigest()
        record, trajectory = stem.with_suffix(".json"), stem.with_suffix(".traj")
        if not (record.exists() and trajectory.exists()):
            for file in (record, trajectory):
                file.unlink(missing_ok=True)
        self._used += [record, trajectory]
        return record, trajectory

    def clear(self) -> None:
        """Remove the files of the relaxations so far: their results are safe elsewhere."""
        for file in self._used:
            file.unlink(missing_ok=True)
        self._used.clear()


def gone_on_with(atoms: Atoms, folder: RestartFolder, **settings: Any) -> dict[str, Any]:
    """Put ``atoms`` where the last relaxation of them under these ``settings`` was interrupted, if one was.

    Returns:
        options of the optimizer that goes on, and writes down how far it is.
    """
    record, trajectory = folder.files(atoms, **settings)
    if trajectory.exists():
        try:
            with Trajectory(trajectory) as frames:
                last = frames[-1]
        except Exception:  # damaged: it begins anew
            record.unlink()
            trajectory.unlink()
        else:
            atoms.set_cell(last.cell, apply_constraint=False)
            atoms.set_positions(last.positions, apply_constraint=False)
    return {"restart": record, "trajectory": str(trajectory), "append_trajectory": True}


def write_record(path: str | os.PathLike, record: JumpRecord) -> None:
    """Write ``record`` as JSON; the file at ``path`` is whole at any time, whenever the process dies."""
    unfinished = Path(f"{os.fspath(path)}.tmp")
    content = {f.name: getattr(record, f.name) for f in fields(record)}
    content["decision"] = (record.decision.outcome, record.decision.reason)
    content["judgement"] = (record.judgement.status, record.judgement.reason)
    write_json(unfinished, content)
    unfinished.replace(path)


def read_record(path: str | os.PathLike, atoms: Atoms) -> JumpRecord:
    """The record at ``path``, which must be of a relaxation of these ``atoms``.

    Raises:
        RestartError: the file is no such record, or belongs to another crystal.
    """
    try:
        with open(path) as file:
            record = JumpRecord(**read_json(file, always_array=False))
        memory = None if record.memory is None else FinishMemory(*record.memory)
        decision, judgement = JumpDecision(*record.decision), Judgement(*record.judgement)  # type: ignore[misc]
        record = replace(record, decision=decision, judgement=judgement, memory=memory)
    except (ValueError, TypeError, KeyError) as error:
        raise RestartError(
            f"Could not decode {path}: it is no restart file of DeepRelaxOptimizer. Delete it, or give restart= "
            "another name."
        ) from error
    if not np.array_equal(record.numbers, atoms.numbers):
        raise RestartError(f"{path} belongs to another crystal. Delete it, or give restart= another name.")
    return record
