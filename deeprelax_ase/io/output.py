"""Whether results can be written to a place, in the format that its name says: asked before the work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.files import plain_name
from deeprelax_ase.io.placing import taken

if TYPE_CHECKING:
    from deeprelax_ase.io.source import Source

#: Placeholder for the number of a crystal in the name of its file, or for its own name.
NUMBER = re.compile(r"%(?:0?\d*d|s)")


def check_output(name: str, *, inputs: Iterable[Source], several: bool, overwrite: bool = False) -> str:
    """The format that ``name`` stands for, if results can be written there; nothing is touched.

    Args:
        name: path of the output, or one with ``%d`` or ``%s``, its number or its name, for one file per crystal.
        inputs: files that are read; none of them is overwritten.
        several: whether there is more than one crystal.
        overwrite: whether results of before may be replaced.

    Raises:
        OutputError: says what to give instead.
    """
    path = Path(name)
    if not name:
        raise OutputError("the name of the output is empty. Give a file, such as relaxed.extxyz")
    check_place(path, inputs=inputs, overwrite=overwrite)
    file_format = _format_of(path)
    if several and _is_single(file_format) and not NUMBER.search(path.name):
        numbered = f"{path.stem}-%s{path.suffix}"
        raise OutputError(
            f"{file_format} holds one crystal, and there are several. Use one file for all, such as "
            f"{path.with_name('relaxed.extxyz')}, or one file each: {path.with_name(numbered)}"
        )
    return file_format


def check_place(path: Path, *, inputs: Iterable[Source], overwrite: bool) -> None:
    """Refuse a file, of whatever format, that cannot be written, or would take the place of another.

    Args:
        path: see :func:`check_output`, as of the others.

    Raises:
        OutputError: says what to give instead.
    """
    _check_folder(path)
    for source in inputs:
        if any(_may_overwrite(path, file.path) for file in source.files):
            raise OutputError(f"{path} would overwrite the input {source.name}. Give another name.")
        if source.path.is_dir() and source.path.resolve() in path.resolve().parents:
            raise OutputError(f"{path} lies in the input {source.name}. Give another folder.")
    if not overwrite:
        for there in _results_at(path):
            raise taken(there)


def _check_folder(path: Path) -> None:
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Give the name of a file in it, such as {path / 'relaxed.extxyz'}.")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist. Make it first.")
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"nothing can be written in {path.parent}: {error.strerror}. Give another folder.") from error


def _format_of(path: Path) -> str:
    """ASE's name for the format of a file that is to be written."""
    from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

    try:
        file_format = filetype(str(path), read=False)
        row = get_ioformat(file_format)
    except (UnknownFileTypeError, ValueError):
        raise OutputError(
            f"ASE knows no format for {path}. Use an ending such as .extxyz, .cif, .traj, .db or .vasp; `ase info "
            "--formats` lists them all."
        ) from None
    if not row.can_write:
        raise OutputError(f"ASE reads {file_format} but does not write it. Use .extxyz or .cif instead of {path}.")
    plain = plain_name(path.name)
    if plain != path.name and (file_format in ("traj", "json") or not row.acceptsfd):
        raise OutputError(
            f"{file_format} cannot be written compressed. Give {path.with_name(plain)} instead of {path}."
        )
    return file_format


def _is_single(file_format: str) -> bool:
    from ase.io.formats import ioformats

    return ioformats[file_format].single


def _may_overwrite(output: Path, source: Path) -> bool:
    if not NUMBER.search(output.name):
        return output.exists() and source.exists() and output.samefile(source)
    return output.parent.resolve() == source.parent.resolve() and bool(_numbered(output).fullmatch(source.name))


def _results_at(output: Path) -> Iterator[Path]:
    """Yield the files of results that are there already."""
    if not NUMBER.search(output.name):
        yield from [output] if os.path.lexists(output) else []
        return
    yield from (file for file in output.parent.iterdir() if _numbered(output).fullmatch(file.name))


def _numbered(output: Path) -> re.Pattern[str]:
    """Names of the files that a numbered one stands for, or one with their own names."""
    parts = zip(NUMBER.split(output.name), [*NUMBER.findall(output.name), ""], strict=True)
    kinds = {"": "", "%s": ".+"}
    return re.compile("".join(re.escape(part) + kinds.get(kind, r"\d+") for part, kind in parts))
