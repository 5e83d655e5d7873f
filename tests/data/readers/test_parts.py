"""``@0:10`` after the name of any source of pairs: just these, in order, and nothing else is looked into."""

from __future__ import annotations

import json
import pickle
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from ase.db import connect
from ase.io import write

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import DataError, PairDataset
from tests.data.conftest import COMPOUNDS, relaxed, unrelaxed
from tests.data.relaxations import frames

Source = list[str]


def plain(atoms) -> dict:
    return Crystal.of(atoms).to_structure().as_dict()


def document(name: str) -> dict:
    ends = {"input": {"structure": plain(unrelaxed(name))}, "output": {"structure": plain(relaxed(name))}}
    return {"task_id": name, **ends}


def written(file: Path, text: str) -> Source:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return [f"{file}@"]


def cifs(folder: Path) -> Source:
    for name in COMPOUNDS:
        write(folder / f"{name}_unrelaxed.cif", unrelaxed(name))
        write(folder / f"{name}_relaxed.cif", relaxed(name))
    return [f"{folder}@"]


def cryslator(folder: Path) -> Source:
    rows = "".join(f"{n}_unrelaxed,-1.0\n{n}_relaxed,-1.5\n" for n in COMPOUNDS)
    (folder / "id_prop_test_all.csv").write_text(rows, encoding="utf-8")
    return cifs(folder)


def blocks(folder: Path) -> Source:
    for n, names in enumerate(("abc", "d")):
        made = {
            name: {"structure": [Crystal.of(f(name)).to_structure() for f in (unrelaxed, relaxed)]} for name in names
        }
        (folder / f"block_{n}.p").write_bytes(pickle.dumps(made))
    return [f"{folder}@"]


def databases(folder: Path, ending: str = "db") -> Source:
    with connect(folder / f"unrelaxed.{ending}") as first, connect(folder / f"relaxed.{ending}") as last:
        for name in COMPOUNDS:
            first.write(unrelaxed(name), uid=name)
        for name in reversed(COMPOUNDS):
            last.write(relaxed(name), uid=name)
    return [f"{folder}@"]


def unrelaxed_rows(folder: Path) -> Source:
    databases(folder)
    return [f"{folder / 'unrelaxed.db'}@", str(folder / "relaxed.db")]


def runs(folder: Path) -> Source:
    for name in COMPOUNDS:
        write(folder / f"{name}.extxyz", frames((unrelaxed(name), relaxed(name)), name))
    return [f"{folder}@"]


#: Sources of the pairs a, b, c, d, in that order.
SOURCES: dict[str, Callable[[Path], Source]] = {
    "CIFs": cifs,
    "Cryslator's CIFs": cryslator,
    "pickles": blocks,
    "folder of databases": databases,
    "databases": unrelaxed_rows,
    "folder of trajectories": runs,
    "list of documents": lambda folder: written(folder / "d.json", json.dumps([document(n) for n in COMPOUNDS])),
    "documents by name": lambda folder: written(folder / "d.json", json.dumps({n: document(n) for n in COMPOUNDS})),
    "lines": lambda folder: written(folder / "d.jsonl", "".join(json.dumps(document(n)) + "\n" for n in COMPOUNDS)),
    "folder of documents": lambda folder: [
        f"{folder}@" for n in COMPOUNDS if written(folder / f"{n}.json", json.dumps(document(n)))
    ][:1],
}


def read(source: Source, index: str) -> PairDataset:
    return PairDataset.read([name.removesuffix("@") + (f"@{index}" if name.endswith("@") else "") for name in source])


@pytest.mark.parametrize("kind", SOURCES)
def test_parts_of_every_source(tmp_path: Path, kind: str) -> None:
    source = SOURCES[kind](tmp_path)
    for index, names in ((":", "abcd"), ("0:2", "ab"), ("-1", "d"), ("::2", "ac"), ("1", "b"), ("2:99", "cd")):
        part = read(source, index)
        assert "".join(name[0] for name in part.names) == names, index
        assert part.refused == (), index
    for index in ("7:9", "99", "-6"):
        with pytest.raises(DataError, match="index"):
            read(source, index)


#: What damages the pair c, and where that is told to be.
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "CIFs": (lambda folder: (folder / "c_relaxed.cif").write_text("data_x\n"), r"c_relaxed\.cif cannot be read"),
    "databases": (
        lambda folder: garbled(folder / "relaxed.db", "positions", 2),
        r"the relaxed crystal: .*relaxed\.db@id=2 cannot be read \(ValueError.*Check that it opens",
    ),
    "folder of trajectories": (
        lambda folder: (folder / "c.extxyz").write_text("8\nno"),
        r"c\.extxyz@0 cannot be read \(the file ends after 0 of 8 atoms\)",
    ),
    "lines": (
        lambda folder: replaced(folder / "d.jsonl", '"task_id": "c"', "{"),
        r"d\.jsonl@2 cannot be read \(JSONDecodeError",
    ),
    "folder of documents": (lambda folder: (folder / "c.json").write_text("{"), r"c\.json cannot be read \(JSON"),
}


def garbled(file: Path, column: str, number: int) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"UPDATE systems SET {column} = ? WHERE id = ?", (b"123", number))
        connection.commit()


def replaced(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_pair_costs_itself_and_is_told_once(tmp_path: Path, kind: str) -> None:
    source = SOURCES[kind](tmp_path)
    damage, told = DAMAGE[kind]
    damage(tmp_path)
    whole = read(source, ":")
    assert "".join(name[0] for name in whole.names) == "abd"
    (refused,) = whole.refused
    assert re.search(told, refused.reason)
    with pytest.raises(DataError, match=re.escape(refused.reason)):
        read(source, "2")
    assert read(source, "0:2").refused == read(source, "3").refused == ()


def test_documents_before_the_damage_in_a_list_are_read(tmp_path: Path) -> None:
    (source,) = SOURCES["list of documents"](tmp_path)
    replaced(tmp_path / "d.json", '"task_id": "c"', "{")
    whole = read([source], ":")
    assert whole.names == ("a", "b")
    (refused,) = whole.refused
    assert "d.json@2 cannot be read beyond its structure 2 (it is no JSON: Expecting property name" in refused.reason
    assert read([source], "0:2").refused == ()


def test_keys_of_a_row_that_cannot_be_read(tmp_path: Path) -> None:
    """Nobody knows whose row it is: it is told by its number, and its partner has none."""
    source = databases(tmp_path)
    garbled(tmp_path / "relaxed.db", "key_value_pairs", 2)
    whole = read(source, ":")
    assert whole.names == ("a", "b", "d")
    row, partner = whole.refused
    assert row.name.endswith("relaxed.db@id=2")
    assert "cannot be read (" in row.reason
    assert (partner.name, "relaxed.db has no relaxed row of that name" in partner.reason) == ("c", True)


def test_parts_of_both_databases(tmp_path: Path) -> None:
    """Who asks for parts of both is told which rows have no partner in them."""
    databases(tmp_path)
    both = PairDataset.read([f"{tmp_path}/unrelaxed.db@0:2", f"{tmp_path}/relaxed.db@uid=b"])
    assert both.names == ("b",)
    (alone,) = both.refused
    assert alone.name == "a"
    assert alone.reason.startswith("relaxed.db@uid=b has no relaxed row of that name")
    later = PairDataset.read([f"{tmp_path}/unrelaxed.db", f"{tmp_path}/relaxed.db@-1"])
    assert (later.names, later.refused) == (("a",), ())


def test_databases_in_json(tmp_path: Path) -> None:
    databases(tmp_path, "json")
    read_as = [f"{tmp_path}/unrelaxed.json@1:", f"{tmp_path}/relaxed.json"]
    dataset = PairDataset.read(read_as, format="ase-db")
    assert (dataset.names, dataset.refused) == (("b", "c", "d"), ())


def test_a_part_of_one_database_of_both_sides(tmp_path: Path) -> None:
    with connect(tmp_path / "all.db") as rows:
        for name in COMPOUNDS:
            rows.write(unrelaxed(name), uid=name, relaxed=False)
            rows.write(relaxed(name), uid=name, relaxed=True)
    assert PairDataset.read(f"{tmp_path}/all.db@0:4").names == ("a", "b")
    cut = PairDataset.read(f"{tmp_path}/all.db@2:7")
    assert (cut.names, [r.name for r in cut.refused]) == (("b", "c"), ["d"])
    with pytest.raises(DataError, match=r"all\.db@0 holds no relaxed row\. Check the file and the index"):
        PairDataset.read(f"{tmp_path}/all.db@0")


@pytest.mark.parametrize(
    "name", ["d.json", "d.jsonl", "d.extxyz", "d.traj", "d.p", "d.npz", "unrelaxed.db", "id_prop_test_all.csv"]
)
def test_empty_files_are_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    source = tmp_path if name.endswith(".csv") else tmp_path / name
    if name == "unrelaxed.db":
        connect(tmp_path / "relaxed.db").write(relaxed("a"), uid="a")
        source = tmp_path
    with pytest.raises(DataError, match=source.name):
        PairDataset.read(source)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("d.json@two", "the index 'two' is not understood. Write @3"),
        ("d.json@::0", "the index '::0' is not understood"),
        ("nowhere@0:2", "nowhere: no such file or folder"),
    ],
)
def test_what_is_no_part_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, told: str) -> None:
    SOURCES["list of documents"](tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=told):
        PairDataset.read(source)
