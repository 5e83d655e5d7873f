"""What a source holds: references to structures, and the frames that are read from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.errors import DeepRelaxError

#: Names of structures, where nothing else is asked for: the first of these keys of the info, or column, that there is.
ID_KEYS = ("material_id", "id", "name", "structure_id")


@dataclass(frozen=True)
class StructureRef:
    """One structure that has not been looked into: cheap, and readable by any process.

    Attributes:
        source: where it is.
        kind: how ``content`` is to be read, see :func:`~deeprelax_ase.io.reading.read`.
        content: its text, or what finds it.
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
        label: where it comes from: ``file``, ``file@index``, or ``archive:member``.
        atoms: the structure, or None where it cannot be read.
        error: why it cannot be read, or None.
        name: what it is called there, or where it comes from.
    """

    label: str
    atoms: Atoms | None
    error: DeepRelaxError | None = None
    name: str = ""
