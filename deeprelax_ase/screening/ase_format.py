"""The results of a screening as a format of ASE: for ``ase.io.read``, ``ase gui`` and ``ase convert``.

ASE finds it by the entry point ``ase.ioformats``, and imports this module with ``ase.io``: nothing heavy is imported
here.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from ase.utils.plugins import ExternalIOFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ase import Atoms

#: What ASE is told: a binary file of many structures.
FORMAT = ExternalIOFormat(
    desc="DeepRelax screening (a block of its Parquet)", code="+B", module=__name__, glob="part-*.parquet"
)


def read_deeprelax_screening(file: IO[bytes], index: slice = slice(None)) -> Iterator[Atoms]:
    """Yield the crystals of a block of a screening, with its columns in ``info``; ASE calls it.

    Args:
        file: a ``part-*.parquet`` of the folder.
        index: which of its rows; those that could not be read have no atoms, and are not counted.

    Raises:
        StructureFileError: the table is not that of a screening, or pyarrow is not installed.
    """
    from deeprelax_ase.errors import StructureFileError

    try:
        import pyarrow as pa
    except ImportError as error:
        raise StructureFileError("Parquet needs pyarrow: pip install 'deeprelax-ase[screening]'") from error
    from deeprelax_ase.screening.folder import block_table
    from deeprelax_ase.screening.rows import OUTPUT, atoms_of

    try:
        table = block_table(file, OUTPUT)
    except pa.ArrowException as error:
        raise StructureFileError(f"this is no block of a screening: {error}") from error
    if None in (statuses := table.column("status").to_pylist()) or not statuses:
        raise StructureFileError("this is no block of a screening: it has no column status")
    yield from list(atoms_of(table))[index]
