"""Rows of results, and the crystals that they began from: of a screening, or of a file of relaxed structures."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import ID_KEYS, Frame
from deeprelax_ase.io.frames import read_frames
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.status import FAILED, INFO_KEYS, PREDICTED

if TYPE_CHECKING:
    from ase import Atoms

#: Numbers that are kept of each crystal: expected error, its bound and the uncertainty in Å, relative change of volume.
NUMBERS = ("error", "error_bound", "uncertainty", "volume_change")

#: Status of structures in a file that does not tell what became of them.
UNKNOWN = "unknown"

_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Rows:
    """What became of n crystals.

    Attributes:
        index: (n,) int64, their places among the inputs.
        numbers: of each of :data:`NUMBERS`, (n,) float64, NaN where it is not known.
        ood: (n,) bool.
        ids, statuses, reasons, models, versions: of each.
        crystals: of each the relaxed one, or the given one where it failed; empty unless they are asked for.
    """

    index: np.ndarray
    numbers: dict[str, np.ndarray]
    ood: np.ndarray
    ids: list[str]
    statuses: list[str]
    reasons: list[str | None]
    models: list[str | None]
    versions: list[str | None]
    crystals: list[Crystal | None]

    def only_numbers(self) -> Rows:
        """Without what takes more memory than the numbers."""
        return replace(self, ids=[], statuses=[], reasons=[], models=[], versions=[], crystals=[])


class Results(Protocol):
    """Where results are.

    Attributes:
        name: of the file or folder.
        number: how many crystals were to be relaxed; None if that is the number of rows.
        relax_cell: whether cells were relaxed.
    """

    name: str
    number: int | None
    relax_cell: bool

    def rows(self, only: Collection[int] | None = None, *, geometry: bool = False) -> Iterator[Rows]:
        """All rows, or those at the places ``only``, in order."""

    def unrelaxed(self, wanted: Collection[int]) -> Iterator[tuple[int, Crystal | None]]:
        """Place and unrelaxed crystal of those that are ``wanted``; None for one that cannot be read.

        Raises:
            StructureFileError: the unrelaxed crystals are not known, or are others by now.
        """

    def predictor(self, model: str, device: str) -> Predictor:
        """What predicts as these results were predicted; by ``model``, or if that is empty by theirs."""


class RelaxedFile:
    """Results of ``deeprelax relax``, or of :meth:`~deeprelax_ase.prediction.record.Prediction.to_atoms`, in a file.

    Args:
        name: of the file.
        initial: that of the unrelaxed crystals.

    Raises:
        StructureFileError: there are no structures in it.
    """

    number: int | None = None
    relax_cell = True

    def __init__(self, name: str, initial: str | None) -> None:
        self.name, self._initial = name, initial
        if not Path(name).exists():
            raise StructureFileError(f"{name}: no such file or folder. Give what deeprelax screen or relax wrote.")
        first = list(islice(read_frames(name), 2))
        if len(first) == 1 and first[0].error is not None:
            raise StructureFileError(f"{first[0].error} Give what deeprelax screen or relax wrote.")

    def rows(self, only: Collection[int] | None = None, *, geometry: bool = False) -> Iterator[Rows]:
        """See :class:`Results`; places are those in the file."""
        found = (self._row(n, *pair) for n, pair in enumerate(self._pairs()) if only is None or n in only)
        while chunk := list(islice(found, _CHUNK)):
            ids, statuses, reasons, models, versions = (
                [row[key] for row in chunk] for key in ("id", "status", "reason", "model", "version")
            )
            numbers = {key: np.array([row.get(key, np.nan) for row in chunk], dtype=float) for key in NUMBERS}
            index = np.array([row["index"] for row in chunk], dtype=np.int64)
            ood = np.array([row["ood"] for row in chunk], dtype=bool)
            crystals = [row["crystal"] for row in chunk] if geometry else []
            yield Rows(index, numbers, ood, ids, statuses, reasons, models, versions, crystals)

    def unrelaxed(self, wanted: Collection[int]) -> Iterator[tuple[int, Crystal | None]]:
        """See :class:`Results`."""
        if self._initial is None:
            raise StructureFileError("The unrelaxed crystals are not known: give their file with --initial.")
        last = max(wanted, default=-1)
        for place, frame in enumerate(islice(read_frames(self._initial), last + 1)):
            if place in wanted:
                yield place, None if frame.atoms is None else _crystal(frame.atoms)

    def predictor(self, model: str, device: str) -> Predictor:
        """See :class:`Results`; a file does not tell of options, so they are the usual ones."""
        return Predictor(model, device=device)

    def _pairs(self) -> Iterator[tuple[Frame, Frame | None]]:
        """Each frame with the unrelaxed one."""
        if self._initial is None:
            yield from ((frame, None) for frame in read_frames(self.name))
            return
        for frame, start in zip_longest(read_frames(self.name), read_frames(self._initial)):
            if frame is None or start is None:
                raise StructureFileError(
                    f"{self._initial} and {self.name} hold different numbers of crystals: each relaxed one needs the "
                    "unrelaxed one at the same place"
                )
            if start.atoms is None and frame.atoms is not None:
                raise start.error or StructureFileError(f"{start.label} cannot be read")
            yield frame, start

    def _row(self, place: int, frame: Frame, start: Frame | None) -> dict[str, Any]:
        name = f"{Path(self.name).name}@{place}"
        row = {"index": place, "id": name, "version": None, "ood": False}
        if frame.atoms is None:
            return row | {"status": FAILED, "reason": str(frame.error), "model": None, "crystal": None}
        atoms, info = frame.atoms, frame.atoms.info
        usual = PREDICTED if any(key in info for key in INFO_KEYS) else UNKNOWN
        status, _, reason = str(info.get("deeprelax_status", usual)).partition(": ")
        row |= {
            "id": str(next((info[key] for key in ID_KEYS if info.get(key) is not None), name)),
            "status": status,
            "reason": reason or None,
            "model": info.get("deeprelax_model"),
            "ood": bool(info.get("deeprelax_ood")),
            "error": info.get("deeprelax_error", np.nan),
            "uncertainty": info.get("deeprelax_uncertainty", np.nan),
            "crystal": _crystal(atoms),
        }
        if start is not None and start.atoms is not None:
            if not np.array_equal(start.atoms.numbers, atoms.numbers):
                raise StructureFileError(f"{start.label} is not what {name} began from: it holds other atoms")
            if status != FAILED and start.atoms.cell.rank == atoms.cell.rank == 3:
                row["volume_change"] = atoms.get_volume() / start.atoms.get_volume() - 1
        return row


def _crystal(atoms: Atoms) -> Crystal:
    """As it is, unchecked."""
    return Crystal(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
