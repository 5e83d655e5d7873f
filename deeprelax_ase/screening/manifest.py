"""The folder of a screening: what it was asked for, what is done, and who writes to it.

``screen.json`` says what was asked for, ``part-00000012.parquet`` holds block 12, and a journal of JSON lines says
which blocks are done. A block counts once its line is on the disk, so that a run that ends at any moment leaves nothing
half done: files without a line are written anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from deeprelax_ase import __version__
from deeprelax_ase.errors import OutputError
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT

_HEADER = "screen.json"


@dataclass(frozen=True)
class Shard:
    """One of several processes, or machines, that share the blocks: every ``of``-th one, from ``number`` - 1 on."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"shard {self.number}/{self.of}: the first number must be between 1 and the second")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of ``i/n``.

        Raises:
            ValueError: it is not of that form.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal()):
            raise ValueError(f"a shard is written i/n, such as 2/8, not {text!r}")
        return cls(int(number), int(of))

    def owns(self, block: int) -> bool:
        """Whether ``block`` is this one's."""
        return block % self.of == self.number - 1

    @property
    def journal(self) -> str:
        """Name of its journal."""
        return "journal.jsonl" if self.of == 1 else f"journal-{self.number}-of-{self.of}.jsonl"


@dataclass(frozen=True)
class Manifest:
    """What a screening is asked for; a folder holds the results of one request.

    Attributes:
        inputs: of each its ``name``, ``digest`` and number of ``structures``.
        options: see :class:`~deeprelax_ase.screening.options.RelaxOptions`.
        block_size: structures of a block.
        shards: processes that share the blocks.
        id_key: key that names the structures.
        weights: SHA-256 of the model's.
        version: of this package.
    """

    inputs: tuple[dict[str, Any], ...]
    options: dict[str, Any]
    block_size: int
    shards: int = 1
    id_key: str | None = None
    weights: str = ""
    version: str = __version__

    @property
    def structures(self) -> int:
        """In all inputs."""
        return sum(item["structures"] for item in self.inputs)


class Folder:
    """The results of a screening.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    # -- what was asked for

    def agree(self, request: Manifest) -> None:
        """Begin with ``request``, or go on with one that is the same.

        Raises:
            OutputError: the folder holds results of another request; the message says what differs.
        """
        if self._begin(request):
            return
        there = self.request()
        for name in ("inputs", "options", "block_size", "shards", "id_key", "weights", "version"):
            old, new = getattr(there, name), getattr(request, name)
            if name == "inputs":
                self._compare_inputs(there, request)
            elif name == "options":  # where it runs makes no difference to what comes out
                old, new = ({k: v for k, v in o.items() if k not in _ANYWHERE} for o in (old, new))
            if name != "inputs" and old != new:
                raise OutputError(
                    f"{self.path} was begun with another {name.replace('_', ' ')}: {old!r}, now {new!r}. Give what it "
                    "was begun with, or another folder."
                )

    def _begin(self, request: Manifest) -> bool:
        """Write the header, unless there is one."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / _HEADER
        part = self.path / f"{_HEADER}.{os.getpid()}"
        if file.exists():
            return False
        part.write_text(json.dumps(asdict(request), indent=1) + "\n", encoding="utf-8")
        _to_disk(part)
        try:
            os.link(part, file)  # unlike a rename it fails where another shard was first
        except FileExistsError:
            return False
        finally:
            part.unlink()
        return True

    def _compare_inputs(self, there: Manifest, request: Manifest) -> None:
        old = [item["digest"] for item in there.inputs]
        new = [item["digest"] for item in request.inputs]
        if old == new:
            return
        changed = [item["name"] for item, digest in zip(request.inputs, old, strict=False) if item["digest"] != digest]
        what = f"{', '.join(changed)} changed" if len(old) == len(new) else f"{len(old)} inputs then, {len(new)} now"
        raise OutputError(
            f"{self.path} was begun with other inputs: {what}. Results of both would be mixed up: bring the inputs "
            "back, or give another folder."
        )

    def request(self) -> Manifest:
        """What was asked for.

        Raises:
            OutputError: this is no folder of a screening, or of another version.
        """
        file = self.path / _HEADER
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            request = Manifest(**{**values, "inputs": tuple(values["inputs"])})
            RelaxOptions.from_dict(request.options)
        except FileNotFoundError as error:
            raise OutputError(f"{self.path} holds no screening: there is no {_HEADER}") from error
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{file} is damaged, or of another version: {error}") from error
        return request

    # -- what is done

    @contextmanager
    def journal(self, shard: Shard) -> Iterator[Journal]:
        """The journal of ``shard``, to be written by this process alone.

        Raises:
            OutputError: another process writes to it.
        """
        lock = FileLock(self.path / f"{shard.journal}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(
                f"another process writes to {self.path} (shard {shard.number}/{shard.of}). Wait for it, or give "
                "another folder, or share the work with --shard."
            ) from error
        try:
            for part in self.path.glob("part-*.part"):  # of a run that was killed
                if shard.owns(int(part.name[5:13])):
                    part.unlink(missing_ok=True)
            with (self.path / shard.journal).open("a+b") as stream:
                yield Journal(stream)
        finally:
            lock.release()

    def done(self) -> dict[int, dict[str, Any]]:
        """The journals' line for each block that is done."""
        lines: dict[int, dict[str, Any]] = {}
        for file in sorted(self.path.glob("journal*.jsonl")):
            with file.open("rb") as stream:
                lines |= {line["block"]: line for line in _whole_lines(stream)[0]}
        return dict(sorted(lines.items()))

    # -- results

    def file(self, block: int) -> Path:
        """Where the rows of ``block`` are."""
        return self.path / f"part-{block:08d}.parquet"

    def write(self, block: int, table: pa.Table) -> int:
        """Write the rows of ``block``, whole or not at all.

        Returns:
            Bytes written.

        Raises:
            OSError: no space, no permission.
        """
        file, part = self.file(block), self.path / f"part-{block:08d}.{os.getpid()}.part"
        try:
            pq.write_table(table, part, compression="zstd")
            _to_disk(part)
            part.replace(file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return file.stat().st_size

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows of each block that is done, in order.

        Raises:
            OutputError: a file is missing, or is not the one that the journal tells of.
        """
        for block, line in self.done().items():
            file = self.file(block)
            if not file.exists() or file.stat().st_size != line["bytes"]:
                raise OutputError(
                    f"{file} is missing or damaged. Delete its line (block {block}) from the journal, and run the "
                    "screening again: it makes that block anew."
                )
            yield pq.read_table(file, columns=columns, schema=None if columns else OUTPUT)


#: Options that do not change the results.
_ANYWHERE = ("device", "atoms_per_batch", "compile")


class Journal:
    """Lines that are on the disk once they are written.

    Args:
        stream: open for reading and appending; a last line that is not whole is cut off.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        stream.seek(0)
        self.lines, length = _whole_lines(stream)
        stream.truncate(length)

    def append(self, line: dict[str, Any]) -> None:
        """Add a line.

        Raises:
            OSError: no space; what was there stays whole.
        """
        length = self._stream.seek(0, os.SEEK_END)
        try:
            self._stream.write(json.dumps(line).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError:
            self._stream.truncate(length)
            raise
        self.lines.append(line)


def _whole_lines(stream: Iterable[bytes]) -> tuple[list[dict[str, Any]], int]:
    """The lines up to the first that is not whole, and how many bytes they take."""
    lines, length = [], 0
    for line in stream:
        if not line.endswith(b"\n"):
            break
        try:
            lines.append(json.loads(line))
        except ValueError:  # also of bytes that are no text
            break
        length += len(line)
    return lines, length


def _to_disk(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
