"""Rows of results, and the crystals that they began from: of a screening, or of a file of relaxed structures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np

from deeprelax_ase.crystal import Crystal, crystal_as_it_is
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import StructureRef, name_in
from deeprelax_ase.io.reading import read
from deeprelax_ase.io.source import open_source, read_frames
from deeprelax_ase.prediction.allowed_strain import RelaxCell
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.screening.rows import crystals_of, structures_table

#: Numbers that are kept of each crystal: expected error, its bound and the uncertainty in Å, relative change of volume
#: and the error that is expected of it, and the predicted energy of the minimum in eV/atom.
NUMBERS = ("error", "error_bound", "uncertainty", "volume_change", "volume_error", "energy_relaxed")

_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Rows:
    """Results for n crystals.

    Attributes:
        index: (n,) int64, their places among the inputs.
        numbers: of each of :data:`NUMBERS`, (n,) float64, NaN where it is not known.
        ood: (n,) bool.
        elements: of each the atomic numbers of its atoms (N,); None where it was not read.
        ids, statuses, reasons, models, versions: of each.
        crystals: of each the relaxed one, or the given one where it failed; empty unless they are asked for.
    """

    index: np.ndarray
    numbers: dict[str, np.ndarray]
    ood: np.ndarray
    elements: list[np.ndarray | None]
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
            elements=[None if r.relaxed is None else r.relaxed.numbers for r in results],
            ids=list(ids),
            statuses=[r.status for r in results],
            reasons=[r.reason for r in results],
            models=[r.model for r in results],
            versions=[r.version for r in results],
            crystals=[r.relaxed for r in results] if geometry else [],
        )

    def only_numbers(self) -> Rows:
        """Drop the fields that take more memory than the numbers."""
        return replace(self, elements=[], ids=[], statuses=[], reasons=[], models=[], versions=[], crystals=[])


class Results(Protocol):
    """Source of results.

    Attributes:
        name: of the file or folder.
        places: of the crystals that were to be relaxed, among the inputs; None if these are those of the rows.
        relax_cell: whether cells were relaxed, or how, at no pressure.
    """

    name: str
    places: Sequence[int] | None
    relax_cell: RelaxCell

    def rows(self, only: Collection[int] | None = None, *, geometry: bool = False) -> Iterator[Rows]:
        """All rows, or those at the places ``only``, in order."""

    def unrelaxed(self, wanted: Collection[int]) -> Iterator[tuple[int, Crystal | None]]:
        """Place and unrelaxed crystal of those that are ``wanted``; None for one that cannot be read.

        Raises:
            StructureFileError: the unrelaxed crystals are not known, or are others by now.
        """

    def predictor(self, model: str, device: str) -> Predictor:
        """Load a predictor like the one behind these results; ``model`` replaces its model unless it is empty."""


class RelaxedFile:
    """Results of ``deeprelax relax``, or of :meth:`~deeprelax_ase.Prediction.to_atoms`, in a file.

    Args:
        name: of the file.
        initial: file of the unrelaxed crystals.

    Raises:
        StructureFileError: there are no structures in it.
    """

    places: Sequence[int] | None = None
    relax_cell: RelaxCell = True

    def __init__(self, name: str, initial: str | None) -> None:
        self.name, self._initial = name, initial
        first = list(islice(read_frames(name), 2))
        if len(first) == 1 and first[0].error is not None:
            raise StructureFileError(f"{first[0].error} Give what deeprelax screen or relax wrote.")

    def rows(self, only: Collection[int] | None = None, *, geometry: bool = False) -> Iterator[Rows]:
        """See :class:`Results`; places are those in the file."""
        pairs = ((n, pair) for n, pair in enumerate(self._pairs()) if only is None or n in only)
        while chunk := [(n, *self._result(n, *pair)) for n, pair in islice(pairs, _CHUNK)]:
            places, names, results = zip(*chunk, strict=True)
            yield Rows.of(places, names, results, geometry=geometry)

    def unrelaxed(self, wanted: Collection[int]) -> Iterator[tuple[int, Crystal | None]]:
        """See :class:`Results`."""
        if self._initial is None:
            raise StructureFileError("The unrelaxed crystals are not known: give their file with --initial.")
        yield from crystals_at(wanted, open_source(self._initial).refs())

    def predictor(self, model: str, device: str) -> Predictor:
        """See :class:`Results`; a file does not tell of options, so they are the usual ones."""
        return Predictor(model, device=device)

    def _pairs(self) -> Iterator[tuple[StructureRef, StructureRef | None]]:
        """Each crystal with the unrelaxed one, neither of them read yet."""
        refs = open_source(self.name).refs()
        if self._initial is None:
            yield from ((ref, None) for ref in refs)
            return
        for ref, start in zip_longest(refs, open_source(self._initial).refs()):
            if ref is None or start is None:
                raise StructureFileError(
                    f"{self._initial} and {self.name} hold different numbers of crystals: each relaxed one needs the "
                    "unrelaxed one at the same place"
                )
            yield ref, start

    def _result(self, place: int, ref: StructureRef, start: StructureRef | None) -> tuple[str, RelaxationResult]:
        """The id of a crystal, and what became of it."""
        name, frame = f"{Path(self.name).name}@{place}", read(ref)
        if frame.atoms is None:
            return name, RelaxationResult.unrelaxed(frame.error or "it cannot be read")
        name = name_in(frame.atoms.info) or name
        if crystal_as_it_is(frame.atoms) is None:
            error = StructureFileError(f"{frame.label} holds no structure that can be read")
            return name, RelaxationResult.unrelaxed(error)
        before = None if start is None else read(start)
        if before is not None and before.error is not None:
            raise before.error
        initial = None if before is None else crystal_as_it_is(before.atoms)
        if before is not None and initial is not None and not np.array_equal(initial.numbers, frame.atoms.numbers):
            raise StructureFileError(f"{before.label} is not what {name} began from: it holds other atoms")
        return name, RelaxationResult.from_atoms(frame.atoms, initial=initial)


def crystals_at(wanted: Collection[int], refs: Iterable[StructureRef]) -> Iterator[tuple[int, Crystal | None]]:
    """Places that are ``wanted`` among ``refs``, and the crystals there, unchecked; None where it cannot be read."""
    for place, ref in enumerate(islice(refs, max(wanted, default=-1) + 1)):
        if place in wanted:
            frame = read(ref)
            yield place, crystals_of(structures_table([frame.error or frame.atoms]))[0]
