"""CIF files cut into their data blocks, each of which holds a structure."""

from __future__ import annotations

import re

_BLOCK = re.compile(rb"(?im)^[ \t]*data_(\S*)")
_ATOMS = re.compile(rb"(?im)^[ \t]*_atom_site_(?:fract|cartn)_")


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
