"""Sources of relaxation pairs: a module for each kind of source, a row for each format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprelax_ase.data.readers.databases import are_databases, read_databases
from deeprelax_ase.data.readers.documents import is_documents, read_documents
from deeprelax_ase.data.readers.folders import (
    is_cif_folder,
    is_cryslator_folder,
    read_cif_folder,
    read_cryslator_folder,
)
from deeprelax_ase.data.readers.mpf import is_mpf, read_mpf
from deeprelax_ase.data.readers.raw import Counted, DataError, RawPair, Refused
from deeprelax_ase.data.readers.trajectories import is_trajectory, read_trajectories
from deeprelax_ase.io.source import path_of

__all__ = ["FORMATS", "DataError", "Format", "RawPair", "Refused", "format_of"]


@dataclass(frozen=True)
class Format:
    """A kind of source.

    Attributes:
        looks: description of its look.
        fits: whether all of some paths are of that kind.
        read: the pairs in them, or in the parts of them that an index asks for, and how many where that is known; the
            second argument is the key that pairs or names them, if the user gave one.
    """

    looks: str
    fits: Callable[[Sequence[Path]], bool]
    read: Callable[[Sequence[Path], str | None], Iterable[RawPair | Refused]]


def _each(fits: Callable[[Path], bool]) -> Callable[[Sequence[Path]], bool]:
    return lambda paths: bool(paths) and all(fits(path) for path in paths)


def _all(
    read: Callable[[Path, str | None], Iterable[RawPair | Refused]],
) -> Callable[[Sequence[Path], str | None], Counted]:
    return lambda paths, key: Counted.chained(read(path, key) for path in paths)


#: Every format but npz, which is read as it is; the first that fits is taken.
FORMATS: dict[str, Format] = {
    "cryslator": Format(
        "a folder with id_prop_train_all.csv, NAME_unrelaxed.cif, NAME_relaxed.cif",
        _each(is_cryslator_folder),
        _all(read_cryslator_folder),
    ),
    "mpf": Format("the pickles block_0.p and block_1.p of MPF.2021.2.8", _each(is_mpf), _all(read_mpf)),
    "cif": Format(
        "a folder with NAME_unrelaxed.cif, NAME_relaxed.cif and train.csv, val.csv, test.csv",
        _each(is_cif_folder),
        _all(read_cif_folder),
    ),
    "ase-db": Format("the ASE databases unrelaxed.db and relaxed.db, or one of both", are_databases, read_databases),
    "documents": Format("relaxation documents of atomate2, JSON", _each(is_documents), _all(read_documents)),
    "trajectory": Format(
        "extended XYZ or ASE trajectories, whose first and last frames are pairs",
        _each(is_trajectory),
        _all(read_trajectories),
    ),
}


def format_of(paths: Sequence[Path]) -> Format:
    """The format that all ``paths``, which may have an index, are of.

    Raises:
        DataError: a path does not exist, or no format fits.
    """
    paths = [path_of(path) for path in paths]
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder. Check the name.")
    for row in FORMATS.values():
        if row.fits(paths):
            return row
    kinds = {path.name: next((n for n, row in FORMATS.items() if row.fits([path])), "npz") for path in paths}
    if len(set(kinds.values())) > 1 and all(kinds[p.name] != "npz" or p.suffix == ".npz" for p in paths):
        told = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(f"sources of several formats: {told}. Convert each with `deeprelax data convert`, give the npz")
    known = "; ".join(f"{name}: {row.looks}" for name, row in FORMATS.items())
    given = ", ".join(map(str, paths))
    look = "looks" if len(paths) == 1 else "look"
    raise DataError(f"{given} {look} like nothing that holds relaxation pairs. Formats: npz; {known}")
