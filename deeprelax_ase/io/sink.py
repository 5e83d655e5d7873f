"""Structure files, written as the crystals come: what was written stays readable when a run is interrupted.

Formats that grow (extended XYZ, ASE's trajectories and databases) are written crystal by crystal; the others when all
crystals are there, or the run ends early. Formats for one crystal take a numbered name, ``POSCAR-%04d``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.frames import split_index

if TYPE_CHECKING:
    from ase import Atoms

_NUMBER = re.compile(r"%0?\d*d")


class Sink(Protocol):
    """Takes crystals one by one; an exception other than ``OSError`` concerns that crystal alone."""

    def write(self, atoms: Atoms) -> None:
        """Add one crystal."""

    def close(self) -> None:
        """Finish the file; to be called however the run ends."""


def check_output(name: str, *, inputs: Iterable[str], several: bool) -> str:
    """The format that ``name`` stands for, if results can be written there; nothing is touched.

    Args:
        name: path of the output, or a numbered one with ``%d`` for one file per crystal.
        inputs: the structure files that are read, with or without an index; none is overwritten.
        several: whether there is more than one crystal.

    Raises:
        OutputError: says what to give instead.
    """
    from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

    path = Path(name)
    if path.is_dir():
        raise OutputError(f"{name} is a folder. Give the name of a file in it, such as {path / 'relaxed.extxyz'}.")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist. Make it first.")
    for source in inputs:
        if _may_overwrite(path, Path(split_index(source)[0])):
            raise OutputError(f"{name} would overwrite the input {source}. Give another name.")
    try:
        file_format = filetype(name, read=False)
        io_format = get_ioformat(file_format)
    except (UnknownFileTypeError, ValueError):
        raise OutputError(
            f"ASE knows no format for {name}. Use an ending such as .extxyz, .cif, .traj, .db or .vasp; `ase info "
            "--formats` lists them all."
        ) from None
    if not io_format.can_write:
        raise OutputError(f"ASE reads {file_format} but does not write it. Use .extxyz or .cif instead of {name}.")
    if several and io_format.single and not _NUMBER.search(path.name):
        numbered = f"{path.stem}-%04d{path.suffix}"
        raise OutputError(
            f"{file_format} holds one crystal, and there are several. Use one file for all, such as "
            f"{path.with_name('relaxed.extxyz')}, or one file each: {path.with_name(numbered)}"
        )
    return file_format


def open_sink(name: str, file_format: str) -> Sink:
    """The writer for ``name``, which :func:`check_output` has approved; an existing file is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    if _NUMBER.search(Path(name).name):
        return _NumberedWriter(Path(name), file_format)
    if file_format == "extxyz":
        return _XyzWriter(name)
    if file_format == "traj":
        return _TrajectoryWriter(name)
    if file_format in ("db", "json"):
        return _DatabaseWriter(name)
    return _GatheringWriter(Path(name), file_format)


def _may_overwrite(output: Path, source: Path) -> bool:
    if not _NUMBER.search(output.name):
        return output.exists() and source.exists() and output.samefile(source)
    pattern = r"\d+".join(re.escape(part) for part in _NUMBER.split(output.name))
    return output.parent.resolve() == source.parent.resolve() and bool(re.fullmatch(pattern, source.name))


class _XyzWriter:
    """Each frame is made in memory and written at once, so that a frame which cannot be written leaves no trace."""

    def __init__(self, name: str) -> None:
        from ase.io.formats import open_with_compression

        self._file = open_with_compression(name, "w")

    def write(self, atoms: Atoms) -> None:
        from ase.io.extxyz import write_xyz

        text = StringIO()
        write_xyz(text, atoms)
        self._file.write(text.getvalue())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _TrajectoryWriter:
    def __init__(self, name: str) -> None:
        from ase.io.trajectory import TrajectoryWriter

        self._trajectory = TrajectoryWriter(name, mode="w")

    def write(self, atoms: Atoms) -> None:
        self._trajectory.write(atoms)

    def close(self) -> None:
        self._trajectory.close()


class _DatabaseWriter:
    """An ASE database: the deeprelax keys become columns to select by, the rest of ``info`` goes into ``data``."""

    def __init__(self, name: str) -> None:
        from ase.db import connect

        self._database = connect(name, append=False)

    def write(self, atoms: Atoms) -> None:
        keys = {key: value for key, value in atoms.info.items() if key.startswith("deeprelax_")}
        data = {key: value for key, value in atoms.info.items() if key not in keys and _is_plain(value)}
        self._database.write(atoms, key_value_pairs=keys, data=data)

    def close(self) -> None:
        pass


class _NumberedWriter:
    """One file per crystal, counted from 0 as ASE counts frames."""

    def __init__(self, path: Path, file_format: str) -> None:
        self._path, self._format, self._written = path, file_format, 0

    def write(self, atoms: Atoms) -> None:
        from ase.io import write

        number, self._written = self._written, self._written + 1
        name = _NUMBER.sub(lambda pattern: pattern.group() % number, self._path.name)
        write(self._path.with_name(name), atoms, format=self._format)

    def close(self) -> None:
        pass


class _GatheringWriter:
    """For formats that cannot grow. Each crystal is tried alone first: one that the format cannot hold costs itself.

    Whatever happens in the end, the crystals are written somewhere.
    """

    def __init__(self, path: Path, file_format: str) -> None:
        self._path, self._format = path, file_format
        self._frames: list[Atoms] = []

    def write(self, atoms: Atoms) -> None:
        from ase.io import write
        from ase.io.formats import ioformats

        if ioformats[self._format].acceptsfd:
            trial = BytesIO() if ioformats[self._format].isbinary else StringIO()
            write(trial, atoms, format=self._format)
        self._frames.append(atoms)

    def close(self) -> None:
        from ase.io import write

        if not self._frames:
            return
        unfinished = self._path.with_name(f".part-{self._path.name}")
        frames: Any = self._frames if len(self._frames) > 1 else self._frames[0]
        try:
            self._refuse_silent_loss()
            write(unfinished, frames, format=self._format)
            unfinished.replace(self._path)
        except OSError:
            raise
        except Exception as error:  # whatever ASE's formats raise
            instead = self._path.with_name(f"{self._path.name.lower()}.extxyz")  # ASE takes XDATCAR.* for an XDATCAR
            write(instead, self._frames, format="extxyz")
            raise OutputError(
                f"{self._format} cannot hold these crystals together ({type(error).__name__}: {error}). They are in "
                f"{instead} instead."
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _refuse_silent_loss(self) -> None:
        """ASE before 3.28 writes the first crystal's cell for all into an XDATCAR, and says nothing."""
        import ase

        old = tuple(int(part) for part in ase.__version__.split(".")[:2]) < (3, 28)
        cells = [atoms.cell.array for atoms in self._frames]
        if old and self._format == "vasp-xdatcar" and not all(np.array_equal(cell, cells[0]) for cell in cells):
            raise ValueError("ASE before 3.28 writes one cell for all crystals")


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | list | dict | np.ndarray | np.number | None)
