"""Labels as rows: a block of candidates read, relaxed, and judged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from deeprelax_ase import __version__
from deeprelax_ase.crystal import Crystal, crystal_or_error
from deeprelax_ase.data import MATCH_KINDS, MatchError, PairDataset, match
from deeprelax_ase.data.checks import AT_REST, suspicions
from deeprelax_ase.data.readers import RawPair
from deeprelax_ase.errors import ConstraintError, DeepRelaxError, force_calls_of
from deeprelax_ase.io.frame import Frame, StructureRef, escaped
from deeprelax_ase.io.reading import read
from deeprelax_ase.labelling.relaxer import LabelOptions, Relaxation, Relaxer
from deeprelax_ase.prediction.judgement import judge
from deeprelax_ase.prediction.status import FAILED, NOT_CONVERGED
from deeprelax_ase.screening.blocks import Relaxed

#: Statuses beside "not converged", "refused" and "failed": a pair to learn from; a minimum that is not the start's;
#: a start that is a minimum.
LABELLED, LEFT_BASIN, STAYED = "labelled", "left its basin", "at rest already"

_ARRAY = pa.list_(pa.float64())

#: Rows of labels. Names as in a screening; atomic numbers (N); both crystals, positions (3 N) and cells (9) in Å,
#: periodic in all directions; energies in eV/atom; forces (3 N) in eV/Å and stress (9) in eV/Å³ at the start, null
#: where the potential has none; ``fmax`` in eV/Å at the end. Without a relaxation there is no geometry; the force calls
#: that a failure cost are there.
LABELS = pa.schema(
    [
        *(pa.field("index", pa.int64()), pa.field("id", pa.string()), pa.field("source", pa.string())),
        *(pa.field("status", pa.string()), pa.field("reason", pa.string())),
        pa.field("numbers", pa.list_(pa.uint8())),
        *(pa.field(name, _ARRAY) for name in ("positions_initial", "cell_initial", "positions", "cell")),
        pa.field("fixed_cell", pa.bool_()),
        *(pa.field("energy_initial", pa.float64()), pa.field("energy_relaxed", pa.float64())),
        *(pa.field("forces_initial", _ARRAY), pa.field("stress_initial", _ARRAY)),
        *(pa.field("fmax", pa.float64()), pa.field("steps", pa.int64()), pa.field("force_calls", pa.int64())),
        *(pa.field(name, pa.string()) for name in ("calculator", "potential", "version")),
    ]
)


class BlockLabeller:
    """Reads, relaxes and judges blocks of structures; holds the potential.

    Args:
        options: how.
        id_key: see :func:`~deeprelax_ase.io.reading.read`.
        device: instead of that of the options.

    Raises:
        CalculatorError: the potential cannot be had.
    """

    def __init__(self, options: LabelOptions, id_key: str | None, device: str) -> None:
        self.id_key, self.relaxer = id_key, Relaxer(options, device)

    def __call__(self, refs: Sequence[StructureRef]) -> Relaxed:
        """A row of :data:`LABELS` for each structure of ``refs``.

        Raises:
            OSError: they cannot be reached any more.
        """
        start = time.perf_counter()
        frames = [read(ref, id_key=self.id_key) for ref in refs]
        crystals = [frame.error or _free_crystal(frame.atoms) for frame in frames]
        done = time.perf_counter()
        good = [crystal for crystal in crystals if isinstance(crystal, Crystal)]
        made = iter(self.relaxer(good))
        found = [next(made) if isinstance(crystal, Crystal) else crystal for crystal in crystals]
        rows = self._rows(frames, found)
        seconds = {"read": done - start, "relax": time.perf_counter() - done}
        return Relaxed(pa.Table.from_pylist(rows, schema=LABELS), Counter(seconds))

    def _rows(self, frames: Sequence[Frame], found: Sequence[Relaxation | Exception]) -> list[dict[str, Any]]:
        converged = [one for one in found if isinstance(one, Relaxation) and one.converged]
        objected = iter(objections(converged))
        rows: list[dict[str, Any]] = []
        for index, (frame, one) in enumerate(zip(frames, found, strict=True)):
            row = {"index": index, "id": escaped(frame.name), "source": escaped(frame.label)}
            row |= {"calculator": self.relaxer.name, "potential": self.relaxer.weights, "version": __version__}
            if isinstance(one, Exception):
                row |= _failure(one) | {"force_calls": force_calls_of(one)}
            elif one.converged:
                row |= _verdict(next(objected)) | _geometry(one)
            else:
                row |= {"status": NOT_CONVERGED, "reason": f"not within {one.steps} steps"} | _geometry(one)
            rows.append(row)
        return rows


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, DeepRelaxError):
        judgement = judge(error)
        return {"status": judgement.status, "reason": escaped(judgement.reason or "")}
    return {"status": FAILED, "reason": escaped(f"{type(error).__name__}: {' '.join(str(error).split())}")}


def _verdict(objection: str | None) -> dict[str, Any]:
    status = LABELLED if objection is None else STAYED if objection == AT_REST else LEFT_BASIN
    return {"status": status, "reason": objection}


def _geometry(one: Relaxation) -> dict[str, Any]:
    atoms = len(one.initial)
    known = bool((one.stress == one.stress).all())
    return {
        "numbers": one.initial.numbers,
        "positions_initial": one.initial.positions.ravel(),
        "cell_initial": one.initial.cell.ravel(),
        "positions": one.relaxed.positions.ravel(),
        "cell": one.relaxed.cell.ravel(),
        "fixed_cell": one.fixed_cell,
        "energy_initial": one.energy_initial / atoms,
        "energy_relaxed": one.energy_relaxed / atoms,
        "forces_initial": one.forces.ravel() if known else None,
        "stress_initial": one.stress.ravel() if known else None,
        "fmax": one.fmax,
        "steps": one.steps,
        "force_calls": one.force_calls,
    }


def _free_crystal(atoms: Any) -> Crystal | DeepRelaxError:
    """The crystal of ``atoms``; an error where some may not move: its minimum would be none to learn from."""
    crystal = crystal_or_error(atoms)
    if isinstance(crystal, Crystal) and crystal.constraints:
        names = sorted({type(held).__name__ for held in crystal.constraints})
        return ConstraintError(
            f"the atoms carry constraints ({', '.join(names)}), and labels are minima of all atoms: remove them with "
            "atoms.set_constraint()"
        )
    return crystal


#: Reason for those of which another mapping of the atoms fits better than the one that the relaxation went.
OTHER_MAPPING = "atoms took each other's places, or other lattice vectors fit better"


def objections(relaxations: Sequence[Relaxation]) -> list[str | None]:
    """Of each relaxation the reason for not learning from it; None where there is none.

    The limits are those of ``deeprelax data check``, for volume, displacements, distances and swapped atoms
    (:mod:`deeprelax_ase.data.checks`), so that it finds nothing to look into in what is left. And the relaxed crystal,
    matched anew, must be nearest as it is.
    """
    if not relaxations:
        return []
    raw = (RawPair("", one.initial, one.relaxed, "train", in_order=True) for one in relaxations)
    masks = suspicions(PairDataset.of(raw).pairs)
    found: list[str | None] = [None] * len(relaxations)
    for reason, mask in masks.items():
        for place in mask.nonzero().squeeze(1).tolist():
            found[place] = found[place] or reason
    return [reason or _mapped_otherwise(one) for reason, one in zip(found, relaxations, strict=True)]


def _mapped_otherwise(one: Relaxation) -> str | None:
    try:
        same = match(one.initial, one.relaxed).how == MATCH_KINDS[0]
    except (MatchError, np.linalg.LinAlgError):
        same = False
    return None if same else OTHER_MAPPING
