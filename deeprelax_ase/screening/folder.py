"""The folder of a screening: its manifest, the results of each block, and journals that say which are done.

``screen.json`` is the manifest, ``part-00000012.parquet`` holds block 12, and a journal has a line for each block that
is done. A block counts once its line is on the disk, and while its file is what the line says. So a run that ends at
any moment leaves nothing half done: other files are written anew.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.placing import put
from deeprelax_ase.screening.journal import Journal, Line, open_journal, read_journal
from deeprelax_ase.screening.manifest import Manifest, Shard
from deeprelax_ase.screening.rows import OUTPUT


def block_table(source: pa.NativeFile | str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read a block's ``columns``, all of ``schema`` by default; those that its file lacks are null.

    It is read in this thread: others would hold Python's bytes, and one that lets go of them while the process ends
    aborts it.

    Raises:
        ArrowException: this is no Parquet file, or columns are of other types.
    """
    names = columns or schema.names
    with pq.ParquetFile(source) as file:
        table = file.read(columns=names, use_threads=False)
    fields = [schema.field(name) for name in names]
    arrays = [
        table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type)
        for f in fields
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


class Folder:
    """The results of a screening, or of other work in blocks.

    Args:
        path: of the folder.
        work: one of :data:`~deeprelax_ase.screening.manifest.WORKS`.
        schema: of the tables.
    """

    def __init__(self, path: Path, work: str = "screen", schema: pa.Schema = OUTPUT) -> None:
        self.path, self.work, self.schema = path, work, schema

    def manifest(self) -> Manifest:
        """Read the request that the folder holds.

        Raises:
            OutputError: this is no folder of such work, or of another version.
        """
        return Manifest.read(self.path, self.work)

    @contextmanager
    def journal(self, shard: Shard) -> Iterator[Journal]:
        """The journal of ``shard``, to be written by this process alone; what is not there is not in it.

        Raises:
            OutputError: another process writes to it.
        """
        blocks = self.manifest().blocks

        def holds(line: Line) -> bool:
            block = line["block"]
            return block in blocks and shard.owns(block) and self._data(line) is not None

        with open_journal(self.path / shard.journal, holds) as journal:
            for part in self.path.glob(f"part-{'[0-9]' * 8}.*.part"):  # of a run that was killed
                if shard.owns(int(part.name[5:13])):
                    part.unlink(missing_ok=True)
            yield journal

    def done(self) -> dict[int, Line]:
        """The journals' line for each block that is done, in order."""
        blocks, lines = self.manifest().blocks, dict[int, Line]()
        for file in sorted(self.path.glob("journal*.jsonl")):
            lines |= read_journal(file)[0]
        return {block: lines[block] for block in sorted(lines) if block in blocks}

    def missing(self) -> Counter[Shard]:
        """Count the structures of each shard that are not done yet."""
        manifest, done = self.manifest(), self.done()
        missing = Counter[Shard]()
        for block in manifest.blocks:
            if block not in done:
                missing[Shard(block % manifest.shards + 1, manifest.shards)] += manifest.size(block)
        return missing

    def file(self, block: int) -> Path:
        """Return the file with the rows of ``block``."""
        return self.path / f"part-{block:08d}.parquet"

    def keeps(self, file: Path) -> bool:
        """Whether ``file`` is, or may become, one that the work keeps here."""
        kept = (f"{self.work}.json*", "journal*", "part-*")
        return any(fnmatch(file.name, name) for name in kept) and file.resolve().parent == self.path.resolve()

    def write(self, block: int, table: pa.Table) -> Line:
        """Write the rows of ``block``, whole or not at all.

        Returns:
            the line for the journal.

        Raises:
            OSError: no space, no permission.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        data = sink.getvalue()
        file, part = self.file(block), self.path / f"part-{block:08d}.{os.getpid()}.part"
        try:
            part.write_bytes(data)
            put(part, file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        statuses = dict(Counter(table.column("status").to_pylist()))
        return {"block": block, "rows": len(table), "statuses": statuses, "bytes": len(data), "digest": _digest(data)}

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows of each block that is done, in order.

        Raises:
            OutputError: a file is missing, or is not the one that the journal tells of.
        """
        for line in self.done().values():
            yield block_table(pa.BufferReader(self._checked(line)), self.schema, columns)

    def _checked(self, line: Line) -> bytes:
        if (data := self._data(line)) is None:
            raise OutputError(
                f"{self.file(line['block'])} is missing or damaged. Give the command again: it makes that block anew."
            )
        return data

    def _data(self, line: Line) -> bytes | None:
        """Read the file of a line, if its digest is the one in the line; None otherwise."""
        try:
            data = self.file(line["block"]).read_bytes()
        except FileNotFoundError:
            return None
        return data if _digest(data) == line["digest"] else None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
