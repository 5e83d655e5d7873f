from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from ase import Atoms

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data.readers import RawPair, Refused
from deeprelax_ase.data.readers.documents import read_documents
from deeprelax_ase.errors import SourceError
from tests.data.conftest import relaxed, unrelaxed


def plain(atoms: Atoms) -> dict:
    return Crystal.of(atoms).to_structure().as_dict()


def read(folder: Path, document: dict) -> RawPair | Refused:
    (folder / "task.json").write_text(json.dumps(document), encoding="utf-8")
    (found,) = read_documents(folder, None)
    return found


@pytest.mark.parametrize("word", ["structure", "mol_or_struct"])
def test_documents_of_ase_jobs(tmp_path: Path, word: str) -> None:
    steps = [{word: plain(unrelaxed("a"))}, {word: plain(relaxed("a"))}]
    found = read(tmp_path, {"output": {word: plain(relaxed("a")), "ionic_steps": steps}, "input": {}, "uuid": "x"})
    assert isinstance(found, RawPair)
    assert found.name == "x"
    assert found.in_order
    assert found.initial.volume == pytest.approx(unrelaxed("a").get_volume())
    assert found.relaxed.volume == pytest.approx(relaxed("a").get_volume())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"task_type": "Static"}, "no relaxation"),
        ({"state": "failed"}, "did not come to its end"),
        ({"is_force_converged": False}, "did not converge"),
        ({"task_type": "Structure Optimization", "state": "successful", "is_force_converged": True}, None),
    ],
)
def test_documents_say_what_they_are(tmp_path: Path, said: dict, reason: str | None) -> None:
    ends = {"input": {"structure": plain(unrelaxed("a"))}, "output": {"structure": plain(relaxed("a"))}}
    found = read(tmp_path, ends | said)
    if reason is None:
        assert isinstance(found, RawPair)
    else:
        assert isinstance(found, Refused)
        assert reason in found.reason


def test_a_damaged_file_or_line_costs_itself(tmp_path: Path) -> None:
    good = {"input": {"structure": plain(unrelaxed("a"))}, "output": {"structure": plain(relaxed("a"))}}
    (tmp_path / "a.jsonl").write_text(json.dumps(good) + "\n{\n", encoding="utf-8")
    (tmp_path / "b.json.gz").write_bytes(b"no gzip")
    (tmp_path / "c.json").write_text(json.dumps(good), encoding="utf-8")
    found = list(read_documents(tmp_path, None))
    assert [type(item) for item in found] == [RawPair, Refused, Refused, RawPair]
    assert "a.jsonl@1 cannot be read (JSONDecodeError" in found[1].reason
    assert "b.json.gz cannot be read" in found[2].reason


@pytest.mark.parametrize(
    "document",
    [
        *([], 3, None, "text", {}),
        {"calcs_reversed": [3], "output": [], "input": 3},
        {"input": {"structure": {"lattice": 3}}, "output": {"structure": {"lattice": 3}}},
        {"input": {"structure": [1]}, "output": {"structure": [1]}},
        {"input": {"structure": {"lattice": {"matrix": [[1]]}, "sites": [{}]}}, "output": {"structure": {"sites": 1}}},
    ],
)
def test_documents_of_anything_else_are_refused(tmp_path: Path, document: object) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(document) + "\n" + "[" * 10**5, encoding="utf-8")
    found = list(read_documents(tmp_path / "a.jsonl", None))
    assert [type(item) for item in found] == [Refused] * 2


def test_modules_that_a_document_names_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "evil_module.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(modules)
    named = {"@module": "evil_module", "@class": "X"}
    ends = []
    for atoms in (unrelaxed("a"), relaxed("a")):
        document = {**plain(atoms), **named, "properties": {"x": named}}
        document["sites"][0]["properties"] = {"x": named}
        document["lattice"] |= named
        ends.append(document)
    found = read(tmp_path, {"input": {"structure": ends[0]}, "output": {"structure": ends[1]}, **named})
    assert isinstance(found, RawPair)
    assert "evil_module" not in sys.modules


def test_a_file_that_is_away_stops_the_reading(tmp_path: Path) -> None:
    good = {"input": {"structure": plain(unrelaxed("a"))}, "output": {"structure": plain(relaxed("a"))}}
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps(good), encoding="utf-8")
    found = iter(read_documents(tmp_path, None))
    assert isinstance(next(found), RawPair)
    (tmp_path / "b.json").unlink()
    with pytest.raises(SourceError, match="No such file"):
        next(found)
