"""Extended XYZ, the format that large sets come in, cut into frames: a damaged frame costs that frame alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import chain, islice
from typing import TYPE_CHECKING

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import ID_KEYS, escaped

if TYPE_CHECKING:
    from ase import Atoms

#: Marks in the comment of an extended frame.
_MARKERS = (b"Lattice=", b"Properties=", b"lattice=", b"properties=")

#: A key of a comment that an empty value follows, or none; or anything quoted, where no key begins.
_EMPTY_VALUE = re.compile(r'(?<!\S)([^\s="]+)=(?:""(?!\S)|(?=\s+[^\s="]+=|\s*$))|"[^"]*"|\{[^}]*\}')


def cut(lines: Iterable[bytes]) -> Iterator[bytes | StructureFileError]:
    """Yield each frame of a file as it is written there, or in its place the error that says why it is none.

    A frame ends where its number of atoms says, and the next one must begin there. If it does not, the one before is
    damaged, and the search goes on at the next line that could be a number of atoms.
    """
    rest = iter(lines)
    header = next(rest, b"")
    while header:
        if header.isspace():
            header = next(rest, b"")
        elif not _is_number(header):
            yield StructureFileError(f"a number of atoms was expected, not {_shown(header)}")
            _, header, rest = _until_number(header, rest)
        else:
            found, header, rest = _frame(header, rest)
            yield from found


def _frame(header: bytes, rest: Iterator[bytes]) -> tuple[list[bytes | StructureFileError], bytes, Iterator[bytes]]:
    """The frame that begins with ``header``, with what follows it if that is damaged; the next header; the rest."""
    number = int(header)
    body = list(islice(rest, number + 1))
    following = next(rest, b"")
    while following.lstrip().startswith(b"VEC"):  # lattice vectors in an older dialect
        body.append(following)
        following = next(rest, b"")
    whole = len(body) > number
    if whole and (not following.strip() or _is_number(following)):
        return [b"".join([header, *body])], following, rest
    early = next((n for n, line in enumerate(body) if n and _is_number(line)), None)
    if early is not None:
        told = StructureFileError(f"the frame ends after {early - 1} of {number} atoms")
        return [told], body[early], chain(body[early + 1 :], [following] if following else [], rest)
    if not whole:
        return [StructureFileError(f"the file ends after {max(len(body) - 1, 0)} of {number} atoms")], b"", rest
    skipped, after, rest = _until_number(following, rest)
    if any(marker in line for line in skipped for marker in _MARKERS):  # a frame of its own, whose header is lost
        told = StructureFileError(f"a number of atoms was expected, not {_shown(following)}")
        return [b"".join([header, *body]), told], after, rest
    told = StructureFileError(f"the frame has {len(skipped)} lines more than its {number} atoms")
    return [told], after, rest


def _until_number(line: bytes, rest: Iterator[bytes]) -> tuple[list[bytes], bytes, Iterator[bytes]]:
    """The lines from ``line`` on that are no number of atoms, the first that is one, and the rest."""
    skipped = []
    while line and not _is_number(line):
        skipped.append(line)
        line = next(rest, b"")
    return skipped, line, rest


def _is_number(line: bytes) -> bool:
    text = line.strip()
    return text.isdigit() and len(text) < 10


def _shown(line: bytes) -> str:
    return repr(line.strip()[:40].decode("utf-8", "backslashreplace"))


def parse(block: bytes) -> Atoms:
    """The atoms of a frame; names that ASE would take for numbers or truth values stay as they are written."""
    from ase.io.extxyz import read_xyz

    text, empty = _without_empty_values(block.decode("utf-8", "surrogateescape"))
    _refuse_missing_columns(text)
    atoms = next(read_xyz(StringIO(text), 0))
    comment = text.split("\n", 2)[1]
    for key in ID_KEYS:
        if key in atoms.info and not isinstance(atoms.info[key], str):
            written = re.search(rf'(?:^|\s){key}\s*=\s*("[^"]*"|\S+)', comment)
            atoms.info[key] = written.group(1).strip('"') if written else str(atoms.info[key])
    atoms.info |= dict.fromkeys(empty, "")
    if not text.isascii():
        atoms.info = {escaped(k): escaped(v) if isinstance(v, str) else v for k, v in atoms.info.items()}
    return atoms


def _without_empty_values(text: str) -> tuple[str, list[str]]:
    """``text`` without the keys of the comment whose values are empty, and these keys.

    ASE writes no quotes there, and takes what comes next for the value, quotes or not. A value does not hold an equals
    sign unless it is quoted.
    """
    count, newline, rest = text.partition("\n")
    comment, end, atoms = rest.partition("\n")
    empty: list[str] = []

    def left(found: re.Match[str]) -> str:
        if found.group(1) is None:
            return found.group(0)
        empty.append(found.group(1))
        return ""

    return f"{count}{newline}{_EMPTY_VALUE.sub(left, comment)}{end}{atoms}", empty


def _refuse_missing_columns(text: str) -> None:
    """Refuse a comment that promises far more columns than there are: ASE would look for each of them."""
    _, comment, first, *_ = text.split("\n", 3) + [""] * 3
    columns = comment.lower().partition("properties=")[2]
    promised = sum(int(width) for width in re.findall(r":(\d+)(?=[:\s\"']|$)", columns))
    if promised > 100 and promised > 2 * len(first.split()):
        raise StructureFileError(f"the comment promises {promised} columns, and there are {len(first.split())}")


def with_info_lines(atoms: Atoms) -> Atoms:
    """The same ``atoms``, constraints and results, with texts in ``info`` that the comment of a frame can hold."""
    made = atoms.copy()
    made.info = {key: _one_line(value) if isinstance(value, str) else value for key, value in atoms.info.items()}
    made.calc = atoms.calc
    return made


def _one_line(text: str) -> str:
    """``text``, as JSON where ASE would not get it back as it is: it takes a backslash for the sign to skip it, ends
    values at any white space but a blank, and loses empty ones.
    """
    if text and not re.search(r"[\\\x00-\x1f]|[^\S ]", text):
        return text
    return "_JSON " + json.dumps(text).replace("\\", "\\\\")


def columns_with_moves(frame: str) -> list[str] | None:
    """The columns of a ``frame`` that was written, and which atoms may move beside them; None where they are there.

    ASE 3.25 writes constraints where they are asked for alone.
    """
    found = re.search(r"Properties=(\S+)", frame)
    names = [] if found is None else found[1].split(":")[::3]
    return None if "move_mask" in names else ["symbols", "positions", "move_mask", *names[2:]]
