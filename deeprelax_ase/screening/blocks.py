"""Blocks of structures: what a process is given at once, reads and relaxes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.reading import read
from deeprelax_ase.screening.rows import numbered, structures_table

if TYPE_CHECKING:
    from deeprelax_ase.io.frame import StructureRef
    from deeprelax_ase.io.source import Source
    from deeprelax_ase.screening.options import RelaxOptions


def blocks_of(
    sources: Iterable[Source], size: int, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, list[StructureRef]]]:
    """Numbered blocks of ``size`` structures of all ``sources``; those not ``wanted`` are passed over unread."""
    refs = chain.from_iterable(source.refs() for source in sources)
    for number in range(2**62):
        if wanted(number):
            block = list(islice(refs, size))
            if not block:
                return
            yield number, block
        elif next(islice(refs, size - 1, None), None) is None:
            return


def table_of(refs: Iterable[StructureRef], *, first_index: int = 0, id_key: str | None = None) -> pa.Table:
    """Read the structures of ``refs`` into rows of :data:`~deeprelax_ase.screening.rows.INPUT`.

    Args:
        refs: any number.
        first_index: index of the first one.
        id_key: key that names each structure, see :func:`~deeprelax_ase.io.reading.read`.
    """
    from deeprelax_ase.screening.columns import in_order, read_plain  # here, as they load torch

    refs = list(refs)
    places, table = read_plain(refs, id_key)
    if len(table) == len(refs):
        return numbered(table, range(first_index, first_index + len(refs)))
    others = np.delete(np.arange(len(refs)), places)
    frames = [read(refs[place], id_key=id_key) for place in others.tolist()]
    read_singly = structures_table(
        [frame.error or frame.atoms for frame in frames],
        ids=[frame.name for frame in frames],
        sources=[frame.label for frame in frames],
    )
    return numbered(in_order([table, read_singly], [places, others]), range(first_index, first_index + len(refs)))


@dataclass(frozen=True)
class Relaxed:
    """Some structures, relaxed.

    Attributes:
        table: rows of :data:`~deeprelax_ase.screening.rows.OUTPUT`, counted from 0 in each part.
        seconds: spent on reading and relaxing, and of relaxing on graph, network and geometry.
    """

    table: pa.Table
    seconds: Counter[str]

    @classmethod
    def join(cls, parts: Sequence[Relaxed]) -> Relaxed:
        """Join all parts to one."""
        return cls(pa.concat_tables(part.table for part in parts), sum((part.seconds for part in parts), Counter()))


class BlockRelaxer:
    """Reads and relaxes blocks of structures; holds the model.

    Args:
        options: how.
        id_key: see :func:`table_of`.
        device: instead of that of the options.

    Raises:
        ModelError, DeviceError, CalculatorError: see :class:`~deeprelax_ase.screening.table_relaxer.TableRelaxer`.
    """

    def __init__(self, options: RelaxOptions, id_key: str | None, device: str) -> None:
        from deeprelax_ase.screening.table_relaxer import TableRelaxer  # here, as it loads torch

        self.id_key, self.relax = id_key, TableRelaxer(replace(options, device=device))

    def __call__(self, refs: Sequence[StructureRef]) -> Relaxed:
        """Relax the structures of ``refs``.

        Raises:
            OSError: they cannot be reached any more.
        """
        start = time.perf_counter()
        table = table_of(refs, id_key=self.id_key)
        read = time.perf_counter()
        relaxed = self.relax(table)
        seconds = {"read": read - start, "relax": time.perf_counter() - read, **self.relax.seconds}
        return Relaxed(relaxed, Counter(seconds))


def mark_failed(refs: Sequence[StructureRef], reason: str) -> list[StructureRef]:
    """Replace ``refs`` by references to nothing, whose rows give the reason."""
    return [replace(ref, kind="frame", content=StructureFileError(reason)) for ref in refs]
