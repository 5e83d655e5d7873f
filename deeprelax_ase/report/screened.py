"""The results of a screening, and what it was made from, as a report reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.source import Source, open_source, part_of, path_of
from deeprelax_ase.prediction.allowed_strain import without_pressure
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.report.results import NUMBERS, Rows, crystals_at
from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import arrays_of, crystals_of

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
    missing = np.full(len(table), np.nan)  # former versions tell less
    known = set(table.column_names)
    numbers = {name: table.column(name).to_numpy().astype(float) if name in known else missing for name in NUMBERS}
    ood = pc.fill_null(table.column("ood"), False).to_numpy()
    crystals = crystals_of(table) if geometry else []
    elements = [found if found is not None and len(found) else None for found in arrays_of(table.column("numbers"))]
    index = table.column("index").to_numpy()
    return Rows(index, numbers, ood, elements, ids, statuses, reasons, models, versions, crystals)
