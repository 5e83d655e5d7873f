"""MPF.2021.2.8, the relaxations that M3GNet learnt from: pickles of snapshots by material.

``block_0.p`` and ``block_1.p`` (figshare 19470599) hold a dictionary from each material to its snapshots: lists of
pymatgen Structures, energies, forces, stresses. The Structures are those of a pymatgen of 2021, which later ones read
without noticing what they lack (materialyzeai/m3gnet, issues 20 and 51). Here no class of pymatgen is asked for: what
the pickles say of each object is kept in plain records, and numbers, coordinates and lattice vectors are taken from it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.data.readers.raw import DataError, RawPair, Refused, raw_pair
from deeprelax_ase.errors import DeepRelaxError, DisorderedStructureError
from deeprelax_ase.io import cif
from deeprelax_ase.io.source import part_of, path_of

if TYPE_CHECKING:
    from ase import Atoms

ENDINGS = (".p", ".pkl", ".pickle")

#: Names that such a pickle may use besides pymatgen's records, by module: data, and nothing that could run.
ALLOWED = {
    ("builtins", "dict"),
    ("builtins", "list"),
    ("builtins", "tuple"),
    ("builtins", "set"),
    ("builtins", "bytearray"),
    ("builtins", "object"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("copyreg", "_reconstructor"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}

#: Classes of pymatgen that are read as :class:`Record`.
RECORDS = {
    ("pymatgen.core.structure", "Structure"),
    ("pymatgen.core.lattice", "Lattice"),
    ("pymatgen.core.sites", "PeriodicSite"),
    ("pymatgen.core.composition", "Composition"),
    ("pymatgen.core.periodic_table", "Element"),
    ("pymatgen.core.periodic_table", "Species"),
    ("pymatgen.core.periodic_table", "Specie"),
}


class Record:
    """An object of another library as a pickle describes it: the arguments it is made from, and its attributes."""

    made_from: tuple[object, ...] = ()

    def __init__(self, *made_from: object) -> None:
        self.made_from = made_from

    def __getitem__(self, name: str) -> Any:
        """An attribute, by the name that it has there."""
        return self.__dict__[name]


class _Unpickler(pickle.Unpickler):
    """Refuses everything but data."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in RECORDS:
            return Record
        if (module, name) not in ALLOWED:
            raise DataError(
                f"the pickle asks for {module}.{name}, which relaxation data have no need of: it is not read, since it "
                "could run code. Convert it where you trust it, to extended XYZ for example."
            )
        here = "numpy._core." if int(np.__version__.partition(".")[0]) >= 2 else "numpy.core."
        module = module.replace("numpy._core.", here).replace("numpy.core.", here)
        return super().find_class(module, name)


def is_mpf(path: Path) -> bool:
    """Whether ``path`` is a pickle, or a folder with ``block_0.p`` in it."""
    return path.suffix in ENDINGS or (path.is_dir() and any(path.glob("block_*.p")))


def read_mpf(path: Path, key: str | None) -> Iterator[RawPair | Refused]:
    """The first and the last snapshot of each material; a file that is no such pickle is refused as a whole."""
    folder = path_of(path)
    files = sorted(folder.glob("block_*.p")) if folder.is_dir() else [folder]
    for name, snapshots in part_of(path, lambda: chain.from_iterable(map(_materials, files))):
        yield Refused(name, str(snapshots)) if isinstance(snapshots, DataError) else _pair(name, snapshots)


def _materials(file: Path) -> Iterator[tuple[str, Any]]:
    """Names and snapshots; the error of a file that cannot be read."""
    try:
        yield from ((str(name), snapshots) for name, snapshots in _load(file).items())
    except DataError as error:
        yield file.name, error


def _load(file: Path) -> dict[Any, Any]:
    try:
        with file.open("rb") as stream:
            content = _Unpickler(stream).load()
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever a damaged pickle makes of itself
        hint = " (it is a zip archive: unpack it)" if zipfile.is_zipfile(file) else ""
        raise DataError(f"{file} is no pickle of relaxations{hint}: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds a {type(content).__name__}, not a dictionary of materials")
    return content


def _pair(name: str, snapshots: Any) -> RawPair | Refused:
    structures = snapshots.get("structure") if isinstance(snapshots, dict) else None
    if not isinstance(structures, list | tuple) or len(structures) < 2:
        return Refused(name, "there are fewer than two snapshots: the initial or the final structure is missing")
    try:
        first, last = (_atoms(structures[n]) for n in (0, -1))
    except DeepRelaxError as error:
        return Refused(name, str(error))
    except Exception as error:  # a record that lacks something, or whatever a reader makes of a damaged CIF
        return Refused(name, f"a snapshot cannot be read: {type(error).__name__}: {error}")
    return raw_pair(name, first, last, in_order=True)


def _atoms(snapshot: Record | str) -> Atoms:
    """The atoms of a Structure, or of a CIF, which some copies of the data hold instead."""
    from ase import Atoms

    if isinstance(snapshot, str):
        return cif.parse(snapshot.encode())
    sites = snapshot["_sites"]
    return Atoms(
        symbols=[_symbol(site["_species"]["_data"]) for site in sites],
        scaled_positions=[np.asarray(site["_frac_coords"], dtype=float) for site in sites],
        cell=np.asarray(snapshot["_lattice"]["_matrix"], dtype=float).reshape(3, 3),
        pbc=True,
    )


def _symbol(amounts: dict[Record, float]) -> str:
    """The element of a site, whose species may have an oxidation state."""
    if len(amounts) != 1 or abs(sum(amounts.values()) - 1) > 1e-6:
        raise DisorderedStructureError("a site is shared or partly occupied; an ordered structure is needed")
    (species,) = amounts
    return str((species if species.made_from else species["_el"]).made_from[0])
