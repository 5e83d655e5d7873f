"""Relaxations frame by frame: the first frame and the last one are a pair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deeprelax_ase.data.readers.raw import RawPair, Refused, raw_pair
from deeprelax_ase.io.files import plain_name
from deeprelax_ase.io.frame import name_in
from deeprelax_ase.io.source import part_of, path_of, read_frames

if TYPE_CHECKING:
    from ase import Atoms

ENDINGS = (".extxyz", ".xyz", ".traj", "XDATCAR", ".xdatcar")

#: Keys of ``atoms.info`` by which relaxations in one file are told apart, where none is named.
_USUAL_KEYS = ("relaxation_id", "material_id", "mp_id", "id", "name")


def is_trajectory(path: Path) -> bool:
    """Whether ``path`` is a file of many frames, or a folder of such files."""
    return any(_files(path)) if path.is_dir() else plain_name(path.name).endswith(ENDINGS)


def read_trajectories(path: Path, key: str | None) -> Iterator[RawPair | Refused]:
    """One pair of each file, or of each value of ``atoms.info[key]`` in it.

    ``path@index`` is some frames of a file, or some files of a folder.
    """
    folder = path_of(path)
    for file in part_of(path, lambda: _files(folder)) if folder.is_dir() else [path]:
        yield from _read(file, key)


def _files(folder: Path) -> Iterator[Path]:
    yield from (file for file in sorted(folder.iterdir()) if file.is_file() and is_trajectory(file))


def _read(file: Path, key: str | None) -> Iterator[RawPair | Refused]:
    ends: dict[str, tuple[Atoms, Atoms]] = {}
    bad: dict[str, str] = {}
    previous: str | None = None
    broken = ""
    for frame in read_frames(file):
        if frame.atoms is None:
            broken = str(frame.error)
            continue
        name = name_in(frame.atoms.info, key, _USUAL_KEYS) or (None if key else file.name)
        if name is None:
            yield Refused(frame.label, f"atoms.info has no {key!r}, only {sorted(frame.atoms.info)}")
            continue
        if broken and name != previous:  # the last frame of the one before, or the first of this one
            bad |= {n: broken for n in (previous, name) if n is not None}
        broken, previous = "", name
        ends[name] = (ends[name][0] if name in ends else frame.atoms, frame.atoms)
    if broken:
        bad[previous or file.name] = broken
    for name, reason in bad.items():
        yield Refused(name, f"its first or its last frame cannot be read: {reason}")
    for name, (first, last) in ends.items():
        if name in bad:
            continue
        if first is last:
            yield Refused(name, "there is one frame only: a relaxation has at least two")
        else:
            yield raw_pair(name, first, last, in_order=True)
