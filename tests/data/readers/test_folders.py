from __future__ import annotations

from pathlib import Path

import pytest
from ase.io import write

from deeprelax_ase.data import DataError, PairDataset
from tests.data.conftest import relaxed, unrelaxed


def write_pair(folder: Path, name: str, sides: tuple[str, str], ending: str = ".cif") -> None:
    folder.mkdir(exist_ok=True)
    write(folder / f"{name}{sides[0]}{ending}", unrelaxed(name))
    write(folder / f"{name}{sides[1]}{ending}", relaxed(name))


def test_the_layout_of_the_published_mpf_part(tmp_path: Path) -> None:
    for name in "abc":
        write_pair(tmp_path / "CIF", name, ("_U", "_R"))
    for part, name in (("train", "a"), ("val", "b"), ("test", "c")):
        (tmp_path / f"{part}.csv").write_text(f"mp_id\n{name}\n", encoding="utf-8")
    dataset = PairDataset.read(tmp_path)
    assert dataset.names == ("a", "b", "c")
    assert dataset.pairs.split.tolist() == [0, 1, 2]


def test_a_column_of_another_name(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", ("_unrelaxed", "_relaxed"))
    (tmp_path / "train.csv").write_text("material\na\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no column 'atoms_id' or 'mp_id', only material: name it with --key"):
        PairDataset.read(tmp_path)
    assert PairDataset.read(tmp_path, key="material").names == ("a",)


def test_an_empty_file_costs_its_pair(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", ("_unrelaxed", "_relaxed"))
    write_pair(tmp_path, "b", ("_unrelaxed", "_relaxed"), ".extxyz")
    (tmp_path / "b_relaxed.extxyz").write_text("", encoding="utf-8")
    dataset = PairDataset.read(tmp_path)
    assert dataset.names == ("a",)
    assert [r.name for r in dataset.refused] == ["b"]


def test_cifs_come_before_other_files_of_their_name(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", ("_unrelaxed", "_relaxed"))
    for side in ("unrelaxed", "relaxed"):  # Cryslator's graphs, which are no structures
        (tmp_path / f"a_{side}.json").write_text('{"index1": [0]}', encoding="utf-8")
    (tmp_path / "id_prop_test_all.csv").write_text("a_relaxed,-1.5\na_unrelaxed,-1.0\n", encoding="utf-8")
    dataset = PairDataset.read(tmp_path)
    assert dataset.names == ("a",)
    assert dataset.pairs.split.tolist() == [2]
