"""Rows of results, and the crystals that they began from: of a screening, or of a file of relaxed structures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deeprelax_ase.crystal import Crystal, crystal_as_it_is
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import StructureRef, name_in
from deeprelax_ase.io.reading import read
from deeprelax_ase.io.source import Source, open_source, part_of, path_of, read_frames
from deeprelax_ase.prediction.allowed_strain import RelaxCell, without_pressure
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import arrays_of, crystals_of, structures_table

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


_TEXTS = ("id", "status", "reason", "model", "version")
_GEOMETRY = ("positions", "cell")


class ScreenedFolder:
    """Results of ``deeprelax screen``, done or not.

    Args:
        name: of the folder; after an ``@`` may stand which of its crystals are wanted.
        initial: its input, if it is not where it was.

    Raises:
        OutputError: the folder is no screening, or is damaged.
        StructureFileError: the index is not understood, or asks for none.
    """

    def __init__(self, name: str, initial: str | None) -> None:
        self.name, self._initial = name, initial
        self._folder = Folder(path_of(name))
        self._manifest = self._folder.manifest()
        self._options = RelaxOptions.from_dict(self._manifest.options)
        everything = range(self._manifest.structures)
        self._part = None if self._folder.path == Path(name) else sorted(part_of(name, lambda: everything))
        self.places: Sequence[int] | None = self._part or everything
        self.relax_cell = without_pressure(self._options.relax_cell)

    def rows(self, only: Collection[int] | None = None, *, geometry: bool = False) -> Iterator[Rows]:
        """See :class:`~deeprelax_ase.report.results.Results`; a block of the screening at a time."""
        columns = ["index", "ood", "numbers", *_TEXTS, *NUMBERS, *(_GEOMETRY if geometry else ())]
        only = self._part if only is None else only
        wanted = None if only is None else pa.array(sorted(only), pa.int64())
        for table in self._folder.tables(columns):
            chosen = table if wanted is None else table.filter(pc.is_in(table.column("index"), wanted))
            if len(chosen):
                yield _rows(chosen, geometry)

    def unrelaxed(self, wanted: Collection[int]) -> Iterator[tuple[int, Crystal | None]]:
        """See :class:`~deeprelax_ase.report.results.Results`."""
        yield from crystals_at(wanted, chain.from_iterable(source.refs() for source in self._sources()))

    def predictor(self, model: str, device: str) -> Predictor:
        """See :class:`~deeprelax_ase.report.results.Results`."""
        return replace(self._options, model=model or self._options.model, device=device, compile=False).predictor()

    def _sources(self) -> list[Source]:
        """The inputs, if they are what they were."""
        if self._initial is None:
            return [self._source(item["name"], item["digest"], item.get("path", "")) for item in self._manifest.inputs]
        source = open_source(self._initial)
        if (count := source.count()) != self._manifest.structures:
            raise StructureFileError(
                f"{self._initial} holds {count:,} structures, and {self._folder.path} was made from "
                f"{self._manifest.structures:,}. Give what was screened."
            )
        return [source]

    def _source(self, name: str, digest: str, path: str) -> Source:
        """Names of inputs may be relative to where the screening ran, often the folder that its own is in."""
        told = "is not there any more. Say where with --initial."
        for place in (Path(name), *([Path(path)] if path else []), self._folder.path.resolve().parent / name):
            with suppress(StructureFileError):
                if (source := open_source(place)).digest() == digest:
                    return source
                told = "has changed since it was screened."
        raise StructureFileError(f"{name}, which was screened, {told}")


def _rows(table: pa.Table, geometry: bool) -> Rows:
    ids, statuses, reasons, models, versions = (table.column(name).to_pylist() for name in _TEXTS)
    numbers = {name: table.column(name).to_numpy().astype(float) for name in NUMBERS}
    ood = pc.fill_null(table.column("ood"), False).to_numpy()
    crystals = crystals_of(table) if geometry else []
    elements = [found if found is not None and len(found) else None for found in arrays_of(table.column("numbers"))]
    index = table.column("index").to_numpy()
    return Rows(index, numbers, ood, elements, ids, statuses, reasons, models, versions, crystals)
