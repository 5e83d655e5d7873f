"""The request of a screening, as its folder of results records it, and the shares of those who work at it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprelax_ase import __version__
from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.placing import placed, to_disk
from deeprelax_ase.screening.options import RelaxOptions

if TYPE_CHECKING:
    from deeprelax_ase.io.source import Source

#: Kinds of work that a folder may hold the results of, and what they are called; the file of the request has the name
#: of its kind, such as ``screen.json``.
WORKS = {"screen": "screening", "label": "labelling"}

#: Options that do not change the results.
_ANYWHERE = ("device", "atoms_per_batch", "compile", "restart")

#: What must be as it was when a folder is gone on with, and how it is told of where it is not.
_TOLD = {
    "version": "another version",
    "options": "other options",
    "block_size": "another block size",
    "shards": "another number of shards",
    "id_key": "another id key",
    "weights": "other weights",
}


@dataclass(frozen=True)
class Shard:
    """One of several processes, or machines, that share the blocks: every ``of``-th one, from ``number`` - 1 on."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"shard {self}: the first number must be between 1 and the second")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read a shard from ``i/n``.

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
    """Request of a screening, or of other work in blocks; a folder holds the results of one request.

    Attributes:
        inputs: of each its ``name``, ``path``, ``digest``, ``stamp`` and count of ``structures``, see :func:`describe`.
        options: see :class:`~deeprelax_ase.screening.options.RelaxOptions`; those of other work are its own.
        block_size: structures of a block.
        shards: processes that share the blocks.
        id_key: key that names the structures.
        weights: SHA-256 of the model's.
        version: of this package.
        work: one of :data:`WORKS`.
    """

    inputs: tuple[dict[str, Any], ...]
    options: dict[str, Any]
    block_size: int
    shards: int = 1
    id_key: str | None = None
    weights: str = ""
    version: str = __version__
    work: str = "screen"

    @property
    def structures(self) -> int:
        """Number of structures in all inputs."""
        return sum(item["structures"] for item in self.inputs)

    @property
    def blocks(self) -> range:
        """Numbers of the blocks."""
        return range(-(-self.structures // self.block_size))

    def size(self, block: int) -> int:
        """Structures of ``block``, of which the last may have fewer."""
        return min(self.block_size, self.structures - block * self.block_size)

    @classmethod
    def read(cls, folder: Path, work: str = "screen") -> Manifest:
        """Read the manifest of ``folder``.

        Raises:
            OutputError: this is no folder of such work, or of another version.
        """
        file = folder / f"{work}.json"
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            manifest = cls(**{**values, "inputs": tuple(values["inputs"])})
            manifest._check()
        except FileNotFoundError as error:
            raise OutputError(f"{folder} holds no {WORKS[work]}: there is no {file.name}") from error
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise OutputError(f"{file} is damaged, or of another version: {error}") from error
        return manifest

    def _check(self) -> None:
        """Raises ValueError or TypeError for values that no request has."""
        if self.work == "screen":
            RelaxOptions.from_dict(self.options)
        if min(self.block_size, self.shards) < 1 or any(item["structures"] < 1 for item in self.inputs):
            raise ValueError("a number is not positive")
        for item in self.inputs:
            if not all(isinstance(item[key], str) for key in ("name", "digest", "stamp")):
                raise TypeError("an input is not named by text")

    def agree(self, folder: Path) -> None:
        """Begin ``folder`` with this, or go on with one that was begun with the same.

        Raises:
            OutputError: it was begun with another; the message says what differs.
        """
        if self._begin(folder):
            return
        there = Manifest.read(folder, self.work)
        if told := self._other_inputs(there):
            raise OutputError(
                f"{folder} was begun with other inputs: {told}. Results of both would be mixed up: bring the inputs "
                "back, or give another folder."
            )
        for name, told in _TOLD.items():
            old, new = getattr(there, name), getattr(self, name)
            if name == "options":
                old, new = _different(old, new)
            if old != new:
                raise OutputError(
                    f"{folder} was begun with {told}: {old!r}, now {new!r}. Give what it was begun with, or another "
                    "folder."
                )

    def _begin(self, folder: Path) -> bool:
        """Write the file, unless there is one.

        Raises:
            OutputError: the folder is none, or holds the results of other work.
        """
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is no folder. Give the name of one, or a new name.")
        folder.mkdir(parents=True, exist_ok=True)
        to_disk(folder.absolute().parent)
        file = folder / f"{self.work}.json"
        if file.exists():
            return False
        if others := [name for work, name in WORKS.items() if (folder / f"{work}.json").exists()]:
            raise OutputError(f"{folder} holds a {others[0]} already. Give another folder.")
        try:
            with placed(file, replace=False) as part:
                part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        except OutputError:  # another shard was first
            return False
        return True

    def _other_inputs(self, there: Manifest) -> str:
        """Describe the differences between the inputs; empty where there are none."""
        if len(there.inputs) != len(self.inputs):
            return f"{len(there.inputs)} inputs then, {len(self.inputs)} now"
        both = zip(there.inputs, self.inputs, strict=True)
        return ", ".join(
            f"{new['name']} has changed" if old["name"] == new["name"] else f"{old['name']} then, {new['name']} now"
            for old, new in both
            if old["digest"] != new["digest"]
        )


def describe(sources: Iterable[Source], folder: Path, work: str = "screen") -> tuple[dict[str, Any], ...]:
    """Of each input its name, path, digest, stamp and number of structures.

    An input whose name, sizes and times of change ``folder`` knows is not read again, nor are structures counted again
    of which it knows the digest.
    """
    known = Manifest.read(folder, work).inputs if (folder / f"{work}.json").exists() else ()
    counted = {item["digest"]: item["structures"] for item in known}
    digests = {(item["name"], item["stamp"]): item["digest"] for item in known}
    described: list[dict[str, Any]] = []
    for source in sources:
        stamp = stamp_of(source)
        digest = digests.get((source.name, stamp)) or source.digest()
        count = counted[digest] if digest in counted else source.count()
        path = os.path.abspath(source.name)  # reports find the input from any folder
        described.append({"name": source.name, "path": path, "digest": digest, "stamp": stamp, "structures": count})
    return tuple(described)


def stamp_of(source: Source) -> str:
    """Sizes and times of change of its files, which are quicker to know than their contents.

    Raises:
        OSError: one is not there any more.
    """
    states = [file.path.stat() for file in source.files]
    stamps = [f"{state.st_size} bytes, {state.st_mtime_ns} ns" for state in states]
    return stamps[0] if len(stamps) == 1 else hashlib.blake2b("\n".join(stamps).encode(), digest_size=16).hexdigest()


def _different(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keep the options that differ; where the work runs makes no difference to what comes out."""
    names = [k for k in {**old, **new} if k not in _ANYWHERE and (k in old, old.get(k)) != (k in new, new.get(k))]
    return {k: old[k] for k in names if k in old}, {k: new[k] for k in names if k in new}
