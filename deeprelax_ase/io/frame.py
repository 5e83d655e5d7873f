"""The contents of a source: references to structures, and the frames that are read from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deeprelax_ase.errors import DeepRelaxError, StructureFileError

if TYPE_CHECKING:
    from ase import Atoms

#: Names of structures, where nothing else is asked for: the first of these keys of the info, or column, that there is
#: and that is not empty.
ID_KEYS = ("material_id", "id", "name", "structure_id")


@dataclass(frozen=True)
class StructureRef:
    """One structure that has not been looked into: cheap, and readable by any process.

    Attributes:
        source: its place.
        kind: how ``content`` is to be read, see :func:`~deeprelax_ase.io.reading.read`.
        content: its text, or what finds it; of the kind ``frame`` atoms that were read, or the error in their place.
        name: the name that it has without being looked into, if any.
    """

    source: str
    kind: str
    content: Any
    name: str = ""


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure that was read: its atoms, or why there are none.

    Attributes:
        label: its origin: ``file``, ``file@index``, or ``archive:member``.
        atoms: the structure, or None where it cannot be read.
        error: the reason why it cannot be read, or None.
        name: its name there, or its origin.
    """

    label: str
    atoms: Atoms | None
    error: DeepRelaxError | None = None
    name: str = ""


def name_in(values: Mapping[str, Any], id_key: str | None = None, usual: Sequence[str] = ID_KEYS) -> str:
    """The name of a structure among its ``values``, under ``id_key`` or the first ``usual`` key; empty if none."""
    keys = (id_key,) if id_key else usual
    return escaped(next((name for key in keys if values.get(key) is not None and (name := str(values[key]))), ""))


def stem_of(label: str) -> str:
    """Name for the file of a frame with this ``label``: that of its own without ending, and its place in there."""
    path, at, index = label.rpartition("@")
    name = (path if at else label).replace(":", "/").rpartition("/")[2]
    stem = re.sub(r"(?<=.)(\.(gz|bz2|xz))?$", "", name)
    stem = stem.rpartition(".")[0] or stem
    return f"{stem}-{index}" if at else stem


def escaped(text: str) -> str:
    """``text`` with escapes for what is no UTF-8, such as bytes of another encoding in the name of a file."""
    return text.encode("utf-8", "backslashreplace").decode()


def unreadable(label: str, error: Exception, beyond: str = "") -> StructureFileError:
    """The error of a structure, or of what lies ``beyond`` one, that a format raised ``error`` for."""
    if isinstance(error, StopIteration):  # ASE's readers, where they find nothing
        reason = "no structure was found in it"
    elif isinstance(error, DeepRelaxError):
        reason = str(error)
    elif isinstance(error, KeyError) and error.args in (("D",), ("T",)):  # ASE's readers look up atomic numbers
        reason = f"{error} is no chemical symbol in this format: write H for isotopes of hydrogen"
    else:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
    return StructureFileError(
        escaped(
            f"{label} cannot be read{beyond} ({reason}). Check that it opens in a viewer such as `ase gui`, or convert "
            "it to CIF or extended XYZ."
        )
    )
