"""Blocks of structures: what a process is given at once, and reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from deeprelax_ase.io.reading import read
from deeprelax_ase.screening.rows import structures_table

if TYPE_CHECKING:
    import pyarrow as pa

    from deeprelax_ase.io.frame import StructureRef
    from deeprelax_ase.io.source import Source


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


def table_of(refs: Iterable[StructureRef], *, first_index: int, id_key: str | None = None) -> pa.Table:
    """What ``refs`` refer to, as rows of :data:`~deeprelax_ase.screening.rows.INPUT`.

    Args:
        refs: any number.
        first_index: that of the first one.
        id_key: key that names each structure, see :func:`~deeprelax_ase.io.reading.read`.
    """
    frames = [read(ref, id_key=id_key) for ref in refs]
    return structures_table(
        [frame.error or frame.atoms for frame in frames],
        ids=[frame.name for frame in frames],
        sources=[frame.label for frame in frames],
        first_index=first_index,
    )
