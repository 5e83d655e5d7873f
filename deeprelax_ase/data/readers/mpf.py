"""MPF.2021.2.8, the relaxations that M3GNet learnt from: pickles of snapshots by material.

``block_0.p`` and ``block_1.p`` (figshare 19470599) hold a dictionary from each material to its snapshots: lists of
structures, of CIFs in the files as they are today and of pymatgen Structures in older ones, energies, forces, stresses.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deeprelax_ase.data.readers.raw import DataError, RawPair, Refused, raw_pair

ENDINGS = (".p", ".pkl", ".pickle")

#: What such a pickle may be made of, by module and name: data, and nothing that could run.
ALLOWED = {
    ("builtins", "dict"),
    ("builtins", "list"),
    ("builtins", "tuple"),
    ("builtins", "set"),
    ("builtins", "bytearray"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("copyreg", "_reconstructor"),
    ("builtins", "object"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("pymatgen.core.structure", "Structure"),
    ("pymatgen.core.lattice", "Lattice"),
    ("pymatgen.core.sites", "PeriodicSite"),
    ("pymatgen.core.composition", "Composition"),
    ("pymatgen.core.periodic_table", "Element"),
    ("pymatgen.core.periodic_table", "Species"),
    ("pymatgen.core.periodic_table", "Specie"),
}


class _Unpickler(pickle.Unpickler):
    """Refuses everything but data."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise DataError(
                f"the pickle asks for {module}.{name}, which relaxation data have no need of: it is not read, since it "
                "could run code. Convert it where you trust it, to extended XYZ for example."
            )
        return super().find_class(module, name)


def is_mpf(path: Path) -> bool:
    """Whether ``path`` is a pickle, or a folder with ``block_0.p`` in it."""
    return path.suffix in ENDINGS or (path.is_dir() and any(path.glob("block_*.p")))


def read_mpf(path: Path, key: str | None) -> Iterator[RawPair | Refused]:
    """The first and the last snapshot of each material.

    Raises:
        DataError: the file is no such pickle.
    """
    for file in sorted(path.glob("block_*.p")) if path.is_dir() else [path]:
        for name, snapshots in _load(file).items():
            yield _pair(str(name), snapshots)


def _load(file: Path) -> dict[str, Any]:
    try:
        content = _Unpickler(io.BytesIO(file.read_bytes())).load()
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
    if not structures or len(structures) < 2:
        return Refused(name, "there are fewer than two snapshots: the initial or the final structure is missing")
    try:
        first, last = (_structure(structures[n]) for n in (0, -1))
    except Exception as error:  # whatever pymatgen makes of a damaged CIF
        return Refused(name, f"a snapshot cannot be read: {error}")
    return raw_pair(name, first, last)


def _structure(snapshot: Any) -> Any:
    if not isinstance(snapshot, str):
        return snapshot
    from pymatgen.core import Structure

    return Structure.from_str(snapshot, fmt="cif")
