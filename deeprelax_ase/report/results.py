"""Rows of results, and the crystals that they began from: of a screening, or of a file of relaxed structures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deeprelax_ase.crystal import Crystal, crystal_as_it_is
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import Frame, name_in
from deeprelax_ase.io.source import read_frames
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.result import RelaxationResult

if TYPE_CHECKING:
    pass

#: Numbers that are kept of each crystal: expected error, its bound and the uncertainty in Å, relative change of volume
#: and the error that is expected of it.
NUMBERS = ("error", "error_bound", "uncertainty", "volume_change", "volume_error")

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

    @classmethod
    def of(
        cls, places: Sequence[int], ids: Sequence[str], results: Sequence[RelaxationResult], *, geometry: bool
    ) -> Rows:
        """The ``results`` of crystals at these ``places``."""
        return cls(
            index=np.array(places, dtype=np.int64),
            numbers={key: np.array([getattr(r, key) for r in results], dtype=float) for key in NUMBERS},
            ood=np.array([bool(r.ood) for r in results], dtype=bool),
            ids=list(ids),
            statuses=[r.status for r in results],
            reasons=[r.reason for r in results],
            models=[r.model for r in results],
            versions=[r.version for r in results],
            crystals=[r.relaxed for r in results] if geometry else [],
        )

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
    relax_cell: bool | None

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
    """Results of ``deeprelax relax``, or of :meth:`~deeprelax_ase.Prediction.to_atoms`, in a file.

    Args:
        name: of the file.
        initial: that of the unrelaxed crystals.

    Raises:
        StructureFileError: there are no structures in it.
    """

    number: int | None = None
    relax_cell: bool | None = True

    def __init__(self, name: str, initial: str | None) -> None:
        self.name, self._initial = name, initial
        first = list(islice(read_frames(name), 2))
        if len(first) == 1 and first[0].error is not None:
            raise StructureFileError(f"{first[0].error} Give what deeprelax screen or relax wrote.")

    def rows(self, only: Collection[int] | None = None, *, geometry: bool = False) -> Iterator[Rows]:
        """See :class:`Results`; places are those in the file."""
        pairs = ((n, pair) for n, pair in enumerate(self._pairs()) if only is None or n in only)
        while chunk := [(n, *self._named(n, *pair)) for n, pair in islice(pairs, _CHUNK)]:
            places, names, results = zip(*chunk, strict=True)
            yield Rows.of(places, names, results, geometry=geometry)

    def unrelaxed(self, wanted: Collection[int]) -> Iterator[tuple[int, Crystal | None]]:
        """See :class:`Results`."""
        if self._initial is None:
            raise StructureFileError("The unrelaxed crystals are not known: give their file with --initial.")
        last = max(wanted, default=-1)
        for place, frame in enumerate(islice(read_frames(self._initial), last + 1)):
            if place in wanted:
                yield place, None if frame.atoms is None else crystal_as_it_is(frame.atoms)

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

    def _named(self, place: int, frame: Frame, start: Frame | None) -> tuple[str, RelaxationResult]:
        """The id of a crystal, and what became of it."""
        name = f"{Path(self.name).name}@{place}"
        if frame.atoms is None:
            return name, RelaxationResult.unrelaxed(frame.error or "it cannot be read")
        name = name_in(frame.atoms.info) or name
        if crystal_as_it_is(frame.atoms) is None:
            error = StructureFileError(f"{frame.label} holds no structure that can be read")
            return name, RelaxationResult.unrelaxed(error)
        initial = None if start is None or start.atoms is None else crystal_as_it_is(start.atoms)
        if start is not None and initial is not None and not np.array_equal(initial.numbers, frame.atoms.numbers):
            raise StructureFileError(f"{start.label} is not what {name} began from: it holds other atoms")
        return name, RelaxationResult.from_atoms(frame.atoms, initial=initial)
