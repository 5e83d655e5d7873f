"""CIF files cut into their data blocks, each of which holds a structure, and the names of these."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

from deeprelax_ase.io.space_groups import check_setting

if TYPE_CHECKING:
    from ase import Atoms

_BLOCK = re.compile(rb"(?im)^[ \t]*data_(\S*)")
#: An item of ours: the name of a crystal in JSON, as names of blocks hold neither white space nor other alphabets.
_NAME = re.compile(rb'(?m)^_deeprelax_name\s+;("[ -~]*")[ \t\r]*$')
_ATOMS = re.compile(rb"(?im)^[ \t]*_atom_site_(?:fract|cartn)_")


def parse(data: bytes) -> Atoms:
    """The structure in a CIF, or in one block of it.

    Raises:
        StructureFileError: it would be read in another setting of its space group than it names.
        Exception: whatever ASE makes of a damaged one.
    """
    from ase.io import read

    atoms = cast("Atoms", read(BytesIO(data), format="cif"))
    check_setting(data.decode("utf-8", "replace"), atoms)
    return atoms


def name_of(block: bytes) -> str:
    """The name that :func:`name_blocks` has given to the crystal of a block; empty if none."""
    found = _NAME.search(block)
    return str(json.loads(found.group(1))) if found else ""


def name_blocks(path: Path, names: Sequence[str]) -> None:
    """Give each block of a CIF that ASE wrote the name of its crystal, where it has one."""
    from ase.io.formats import open_with_compression

    with open_with_compression(str(path), "rb") as stream:
        text = stream.read()
    named = iter(names)

    def own(block: re.Match[bytes]) -> bytes:
        if not (name := next(named)):
            return block.group()
        plain = re.sub(r"[^!-~]", "_", name).encode()
        return b"data_%b\n_deeprelax_name\n;%b\n;" % (plain, json.dumps(name).encode())

    text = re.sub(rb"(?m)^data_image\d+", own, text)
    with open_with_compression(str(path), "wb") as stream:
        stream.write(text)


def cut(data: bytes) -> list[tuple[str, bytes]]:
    """Name and text of each block with atoms; of a file with one such block, or none, the whole without a name."""
    if len(_BLOCK.findall(data)) < 2:
        return [("", data)]
    starts, names, position, in_text = [], [], 0, False
    for line in data.splitlines(keepends=True):
        if line.startswith(b";"):  # a text of several lines, which may hold anything
            in_text = not in_text
        elif not in_text and (found := _BLOCK.match(line)):
            starts.append(position)
            names.append(found.group(1).decode("utf-8", "backslashreplace"))
        position += len(line)
    blocks = [data[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
    sound = [(name, block) for name, block in zip(names, blocks, strict=True) if _ATOMS.search(block)]
    return sound if len(sound) > 1 else [("", sound[0][1] if sound else data)]
