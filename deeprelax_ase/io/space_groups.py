"""CIFs that name a space group and list no operations: whether those that were taken are the ones of its setting.

ASE goes by the number of the group and takes its standard setting: ``P 1 21/n 1`` is read as ``P 1 21/c 1``,
``P b n m`` as ``P n m a``, which puts atoms to other places.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.spglib_import import quiet_spglib

if TYPE_CHECKING:
    from ase import Atoms

_OPERATIONS = re.compile(r"(?im)^[ \t]*_(?:symmetry_equiv_pos_as_xyz|space_group_symop_operation_xyz)")
_NAME = re.compile(
    r"(?im)^[ \t]*_(?:symmetry_space_group_name_h-m|space_group_name_h-m_alt)[ \t]+(['\"]?)(.+?)\1[ \t\r]*$"
)
_CHOICE = re.compile(r"(?i)^(.+?)\s*(?::\s*(\w+)|\s([szhr]))$")

#: Letters of ICSD for the two choices of the origin.
_LETTERS = {"S": "1", "Z": "2"}

_Operations = frozenset[tuple[int, ...]]


class Setting(NamedTuple):
    """A setting of a space group: its number in Hall's table, and which choice of origin, axes or cell it is."""

    hall: int
    choice: str


def check_setting(text: str, atoms: Atoms) -> None:
    """Refuse ``atoms`` that were read from the CIF ``text`` in another setting than it names.

    Raises:
        StructureFileError: it lists no operations, and names another setting.
    """
    named = _NAME.search(text)
    if named is None or _OPERATIONS.search(text) or "spacegroup" not in atoms.info:
        return
    settings = settings_called(named.group(2))
    if len({s.choice for s in settings} & {"H", "R"}) == 2:  # which of both the cell tells
        hexagonal = abs(atoms.cell.angles()[2] - 120) < 0.5
        settings = [s for s in settings if s.choice == ("H" if hexagonal else "R")]
    group = atoms.info["spacegroup"]
    taken = _operations(*group.get_op())
    if settings and all(taken != _operations_of(setting.hall) for setting in settings):
        raise StructureFileError(
            f"it names the setting {named.group(2)!r} of a space group and lists no symmetry operations, and would be "
            f"read in another one ({group.symbol}). Write the operations into it, for example by reading and writing "
            "it with pymatgen."
        )


def settings_called(name: str) -> list[Setting]:
    """The settings that a Hermann-Mauguin symbol may mean; none if it is not known, or is that of P 1."""
    name, choice = name.strip(), ""
    if found := _CHOICE.match(name):
        name, choice = found.group(1), (found.group(2) or found.group(3)).upper()
    settings = [] if _plain(name) == "P1" else _settings().get(_plain(name), [])
    wanted = _LETTERS.get(choice, choice)
    return [s for s in settings if s.choice.upper().startswith(wanted) or s.choice.upper().endswith(wanted)]


@cache
def _settings() -> dict[str, list[Setting]]:
    """All settings, by each of their names."""
    spglib = quiet_spglib()
    named = defaultdict[str, list[Setting]](list)
    for hall in range(1, 531):
        kind = spglib.get_spacegroup_type(hall)
        names = {kind.international_full, *kind.international.split("=")[-1:]}
        names |= {re.sub(r"(?<= )1(?= |$)", "", name) for name in names}  # P 1 21/c 1 is called P 21/c, too
        for name in {_plain(name) for name in names}:
            named[name].append(Setting(hall, kind.choice))
    return dict(named)


def _plain(name: str) -> str:
    return re.sub(r"[\s_]", "", name).upper()


@cache
def _operations_of(hall: int) -> _Operations:
    found = quiet_spglib().get_symmetry_from_database(hall)
    return _operations(found["rotations"], found["translations"])


def _operations(rotations: Iterable[np.ndarray], translations: Iterable[np.ndarray]) -> _Operations:
    """In integers: translations in parts of 24, of which all are multiples."""
    return frozenset(
        (*np.rint(turn).astype(int).ravel().tolist(), *(np.rint(24 * np.asarray(move)).astype(int) % 24).tolist())
        for turn, move in zip(rotations, translations, strict=True)
    )
