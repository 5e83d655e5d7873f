from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data.readers import RawPair, Refused
from deeprelax_ase.data.readers.documents import read_documents
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
    assert "is not JSON" in found[1].reason
    assert "cannot be read" in found[2].reason
