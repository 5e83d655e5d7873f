"""Sinks write results as the crystals come: what was written stays readable when a run is interrupted.

Formats that grow (extended XYZ, ASE's trajectories and databases) are written crystal by crystal; the others when all
crystals are there, or the run ends early. Formats for one crystal take a numbered name, ``POSCAR-%04d``, or the
crystal's own, ``%s.vasp``. What lies there from before stays, or if it is to be replaced, stays until something is
written.
"""

from __future__ import annotations

import os
import re
import sqlite3
import warnings
from abc import ABC, abstractmethod
from contextlib import suppress
from io import BytesIO, StringIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.cif import name_blocks
from deeprelax_ase.io.constraints import along_axes, leave_alike
from deeprelax_ase.io.frame import name_in
from deeprelax_ase.io.output import NUMBER
from deeprelax_ase.io.placing import aside, placed, put, to_disk
from deeprelax_ase.io.xyz import columns_with_moves, with_info_lines

if TYPE_CHECKING:
    from ase import Atoms


def open_sink(name: str, file_format: str, *, whole: bool = False, overwrite: bool = False) -> Sink:
    """The sink for ``name``, which :func:`~deeprelax_ase.io.output.check_output` has approved.

    Args:
        name: path of the output.
        file_format: ASE's name for its format.
        whole: whether a file of before stays as it is until all crystals are written, and for good where an error
            ends the ``with`` block; otherwise it is replaced by the first crystal.
        overwrite: whether a file of before is replaced at all. Where it is not, and there is one by then, the first
            crystal, or the end, raises an ``OutputError``.
    """
    kind = _NumberedSink if NUMBER.search(Path(name).name) else _SINKS.get(file_format, _GatheringSink)
    return kind(Path(os.path.realpath(name)), file_format, whole, overwrite)


class Sink(ABC):
    """Takes crystals one by one; an exception other than ``OSError`` and ``OutputError`` concerns that crystal alone.

    A context manager. It writes beside the output, puts that in its place at the right time, and leaves it on the disk.
    """

    def __init__(self, path: Path, file_format: str, whole: bool, overwrite: bool) -> None:
        self._path, self._format, self._whole, self._overwrite = path, file_format, whole, overwrite
        self._part = aside(path)
        self._written, self._name = 0, ""
        self._told: set[str] = set()

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._whole and kind is not None:
            self._written = 0
        self.close()

    def write(self, atoms: Atoms, name: str = "") -> None:
        """Add one crystal; ``name`` is for files of their own, by default that in its info."""
        self._name = name
        try:
            self._write(atoms)
        except sqlite3.Error as error:  # no space, or no permission
            raise OSError(str(error)) from error
        self._written += 1
        if not self._whole:
            self._settle()

    def close(self) -> None:
        """Finish the file; to be called however the run ends."""
        try:
            self._finish()
            if self._written:
                self._settle()
                self._keep()
        finally:
            self._part.unlink(missing_ok=True)

    def _settle(self) -> None:
        """Put what is written into the place of the output; it may go on growing there."""
        if self._part.exists():
            put(self._part, self._path, replace=self._overwrite)

    def _keep(self) -> None:
        """Return once all is on the disk."""
        to_disk(self._path)

    def _tell_lost(self, names: set[str], file_format: str, how: str = "") -> None:
        """Warn, once for each, of constraints that the output has no place for."""
        if new := names - self._told:
            self._told |= new
            warnings.warn(
                f"{file_format} has no place for {', '.join(sorted(new))}{how}: {self._path} holds the atoms without. "
                "Write .traj, .db or .json to keep them.",
                stacklevel=4,
            )

    def _tell_if_lost(self, atoms: Atoms, written: Any) -> None:
        """Warn where the file or stream that was ``written`` does not hold the constraints of ``atoms``."""
        from ase.io import read

        if not atoms.constraints:
            return
        kept = False
        with suppress(Exception):  # whatever ASE's formats raise; some of them it cannot read at all
            kept = leave_alike(atoms, read(written, format=self._format))
        if not kept:
            self._tell_lost({type(held).__name__ for held in atoms.constraints}, self._format)

    @abstractmethod
    def _write(self, atoms: Atoms) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...


class _XyzSink(Sink):
    """Each frame is made in memory and written at once, so that a frame which cannot be written leaves no trace."""

    _file: Any = None

    def _write(self, atoms: Atoms) -> None:
        from ase.io.extxyz import write_xyz
        from ase.io.formats import open_with_compression

        text = StringIO()
        made = with_info_lines(atoms)
        held, lost = along_axes(atoms)
        made.set_constraint(held)
        self._tell_lost(lost, "extended XYZ", " along these directions")
        write_xyz(text, made)
        if held and (columns := columns_with_moves(text.getvalue())):
            text = StringIO()
            write_xyz(text, made, columns=columns)
        if text.getvalue().count("\n") != len(atoms) + 2:
            raise ValueError("a name of its info or arrays holds a line break")
        if self._file is None:
            self._file = open_with_compression(str(self._part), "w")
        self._file.write(text.getvalue())
        self._file.flush()

    def _finish(self) -> None:
        if self._file is not None:
            self._file.close()


class _TrajectorySink(Sink):
    _trajectory: Any = None

    def _write(self, atoms: Atoms) -> None:
        from ase.io.trajectory import TrajectoryWriter

        if self._trajectory is None:
            self._trajectory = TrajectoryWriter(str(self._part), mode="w")
        self._trajectory.write(atoms)

    def _finish(self) -> None:
        if self._trajectory is not None:
            self._trajectory.close()


class _DatabaseSink(Sink):
    """An ASE database: the deeprelax keys become columns to select by, the rest of ``info`` goes into ``data``."""

    _database: Any = None

    def _write(self, atoms: Atoms) -> None:
        if self._database is None:
            self._database = self._connect()
        keys = {key: value for key, value in atoms.info.items() if key.startswith("deeprelax_")}
        data = {key: value for key, value in atoms.info.items() if key not in keys and _is_plain(value)}
        self._database.write(atoms, key_value_pairs=keys, data=data)

    def _connect(self) -> Any:
        from ase.db import connect

        return connect(self._part, append=False)

    def _settle(self) -> None:
        super()._settle()
        if self._database is not None:
            self._database.filename = str(self._path)

    def _finish(self) -> None:
        """Do nothing: each row is on the disk already."""


class _JsonSink(_DatabaseSink):
    """A database in JSON, written once: ASE writes the whole file anew for each row."""

    def _connect(self) -> Any:
        from ase.db.jsondb import JSONDatabase

        class InMemory(JSONDatabase):
            rows: tuple[dict, list, int] = ({}, [], 1)

            def _read_json(self) -> tuple[dict, list, int]:
                return self.rows

            def _write_json(self, *rows: Any) -> None:
                self.rows = rows

            def to_disk(self) -> None:
                super()._write_json(*self.rows)

        self._part.touch()  # ASE asks for rows where there is a file
        return InMemory(str(self._part), use_lock_file=False)

    def _settle(self) -> None:
        """Write nothing before the end."""

    def _finish(self) -> None:
        if self._written:
            self._database.to_disk()
            put(self._part, self._path, replace=self._overwrite)


class _NumberedSink(Sink):
    """One file per crystal, counted from 0 as ASE counts frames; one that cannot be written has a number too.

    Where two crystals have one name, the second has its number after it.
    """

    _count = 0

    def __init__(self, path: Path, file_format: str, whole: bool, overwrite: bool) -> None:
        super().__init__(path, file_format, whole, overwrite)
        self._named: set[str] = set()

    def _write(self, atoms: Atoms) -> None:
        from ase.io import write

        path, self._count = self._place(name_in(atoms.info)), self._count + 1
        with placed(path, replace=self._overwrite, durable=False) as part:
            write(part, atoms, format=self._format)
            self._tell_if_lost(atoms, part)
            if self._format == "cif":
                name_blocks(part, [name_in(atoms.info)])

    def _place(self, known: str) -> Path:
        """The file of the next crystal, whose info names it ``known``."""
        name = re.sub(r"[^\w.+-]+", "_", self._name or known) or str(self._count)
        made = self._filled(name)
        if made in self._named:
            made = self._filled(f"{name}-{self._count}")
        self._named.add(made)
        return self._path.with_name(made)

    def _filled(self, name: str) -> str:
        return NUMBER.sub(lambda one: name if one[0] == "%s" else one[0] % self._count, self._path.name)

    def _finish(self) -> None:
        """Do nothing: each file is finished already."""

    def _keep(self) -> None:
        for file in filter(Path.exists, map(self._path.with_name, self._named)):
            to_disk(file)
        to_disk(self._path.parent)


class _GatheringSink(Sink):
    """For formats that cannot grow. Each crystal is tried alone first: one that the format cannot hold costs itself.

    Whatever happens in the end, the crystals are written somewhere.
    """

    def __init__(self, path: Path, file_format: str, whole: bool, overwrite: bool) -> None:
        super().__init__(path, file_format, whole, overwrite)
        self._frames: list[Atoms] = []

    def _write(self, atoms: Atoms) -> None:
        from ase.io import write
        from ase.io.formats import ioformats

        if ioformats[self._format].acceptsfd:
            trial = BytesIO() if ioformats[self._format].isbinary else StringIO()
            write(trial, atoms, format=self._format)
            trial.seek(0)
            self._tell_if_lost(atoms, trial)
        self._frames.append(atoms)

    def _finish(self) -> None:
        from ase.io import write

        if not self._written:
            return
        frames: Any = self._frames if len(self._frames) > 1 else self._frames[0]
        try:
            self._refuse_silent_loss()
            write(self._part, frames, format=self._format)
            if self._format == "cif":
                name_blocks(self._part, [name_in(atoms.info) for atoms in self._frames])
        except OSError:
            raise
        except Exception as error:  # whatever ASE's formats raise
            raise OutputError(
                f"{self._format} cannot hold these crystals together ({type(error).__name__}: {error}). They are in "
                f"{self._write_elsewhere()} instead."
            ) from error

    def _write_elsewhere(self) -> Path:
        """Write the crystals to a file of another format, where there is none yet."""
        from ase.io import write

        self._part.unlink(missing_ok=True)
        name = self._path.name.lower()  # ASE takes XDATCAR.* for an XDATCAR
        names = (f"{name}{'' if not n else f'-{n}'}.extxyz" for n in count())
        instead = next(path for path in map(self._path.with_name, names) if not path.exists())
        write(self._part, self._frames, format="extxyz")
        put(self._part, instead)
        return instead

    def _refuse_silent_loss(self) -> None:
        """ASE before 3.28 writes the first crystal's cell for all into an XDATCAR, and says nothing."""
        import ase

        old = tuple(int(part) for part in ase.__version__.split(".")[:2]) < (3, 28)
        cells = [atoms.cell.array for atoms in self._frames]
        if old and self._format == "vasp-xdatcar" and not all(np.array_equal(cell, cells[0]) for cell in cells):
            raise ValueError("ASE before 3.28 writes one cell for all crystals")


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | list | dict | np.ndarray | np.number | None)


_SINKS: dict[str, type[Sink]] = {
    "extxyz": _XyzSink,
    "traj": _TrajectorySink,
    "db": _DatabaseSink,
    "json": _JsonSink,
}
