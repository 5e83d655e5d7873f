from __future__ import annotations

from pathlib import Path

import pytest
from ase.io import write

from deeprelax_ase.data.readers import FORMATS, DataError, RawPair, Refused, format_of
from deeprelax_ase.data.readers.trajectories import read_trajectories
from tests.data.conftest import relaxed, unrelaxed


def relaxations(file: Path, damaged: int | None) -> dict[str, RawPair | Refused]:
    """What is read of two relaxations of three frames each, one of whose frames is damaged."""
    frames = []
    for name in "ab":
        for atoms in (unrelaxed(name), unrelaxed(name), relaxed(name)):
            atoms.info["id"] = name
            frames.append(atoms)
    write(file, frames, format="extxyz")
    if damaged is not None:
        lines = file.read_text(encoding="utf-8").splitlines()
        lines[damaged * 10 + 5] = "X what is this"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {item.name: item for item in read_trajectories(file, None)}


def test_frames_of_one_relaxation_are_in_order(tmp_path: Path) -> None:
    found = relaxations(tmp_path / "all.extxyz", None)
    assert list(found) == ["a", "b"]
    assert all(isinstance(item, RawPair) and item.in_order for item in found.values())


def test_a_damaged_frame_on_the_way_costs_nothing(tmp_path: Path) -> None:
    found = relaxations(tmp_path / "all.extxyz", 1)
    assert all(isinstance(item, RawPair) for item in found.values())


def test_a_damaged_first_or_last_frame_costs_those_whose_it_may_be(tmp_path: Path) -> None:
    for damaged, lost in ((0, "a"), (2, "ab"), (3, "ab"), (5, "b")):
        found = relaxations(tmp_path / "all.extxyz", damaged)
        assert sorted(found) == ["a", "b"]
        refused = {name: item.reason for name, item in found.items() if isinstance(item, Refused)}
        assert sorted(refused) == list(lost)
        assert all("its first or its last frame cannot be read" in reason for reason in refused.values())


def test_some_frames_of_a_file(tmp_path: Path) -> None:
    relaxations(tmp_path / "all.extxyz", None)
    part = tmp_path / "all.extxyz@3:"
    assert format_of([part]) is FORMATS["trajectory"]
    assert [item.name for item in read_trajectories(part, None)] == ["b"]
    with pytest.raises(DataError, match="no such file"):
        format_of([tmp_path / "missing.extxyz"])
