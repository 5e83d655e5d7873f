"""Pairs from every format: the same pairs, and what cannot be used is told."""

from __future__ import annotations

import bz2
import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.db import connect
from ase.io import write

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import LEVELS, DataError, PairDataset
from deeprelax_ase.data.matching import MATCH_KINDS
from tests.data.relaxations import frames


def assert_right(dataset: PairDataset, pairs, names: str = "abcd", atol: float = 1e-6) -> None:
    """The data set holds just these pairs: unrelaxed as given, relaxed a rock salt of 0.95 of the size."""
    assert sorted(dataset.names) == sorted(names)
    for n, name in enumerate(dataset.names):
        one = dataset.take(torch.tensor([n])).pairs
        first, last = pairs[name]
        assert one.numbers.tolist() == first.numbers.tolist()
        np.testing.assert_allclose(one.cell_initial[0], first.cell.array, rtol=0, atol=atol)
        images = one.fractional_initial - torch.from_numpy(first.get_scaled_positions(wrap=False))  # files may wrap
        np.testing.assert_allclose(images - images.round(), 0, rtol=0, atol=max(atol, 1e-6))
        np.testing.assert_allclose(one.cell_relaxed[0], last.cell.array, rtol=0, atol=atol)
        difference = one.fractional_relaxed - torch.from_numpy(last.get_scaled_positions())
        difference = difference - difference[0]
        np.testing.assert_allclose(difference - difference.round(), 0, rtol=0, atol=max(atol, 1e-6))
        moved = (one.fractional_relaxed - one.fractional_initial) @ one.cell_relaxed[0]
        assert moved.norm(dim=1).max() < 0.6
        assert moved.mean(dim=0).abs().max() < 1e-6


def test_cif_folder(cifs: Path, pairs) -> None:
    dataset = PairDataset.read(cifs)
    assert_right(dataset, pairs, atol=2e-4)  # what the file has digits for
    assert [dataset.pairs.split[dataset.names.index(name)].item() for name in "abcd"] == [0, 0, 1, 2]
    assert dict(zip(dataset.names, dataset.how, strict=True))["d"] == MATCH_KINDS[1]
    assert dataset.pairs.level.tolist() == [LEVELS.index("PBE")] * 4
    assert dataset.pairs.dft.all()
    assert dataset.in_split("validation").names == ("c",)


def test_how_many_pairs_there_are_is_told_before_the_first(cifs: Path, tmp_path: Path, pairs) -> None:
    """Trajectories alone do not know: one may hold many relaxations."""
    with connect(tmp_path / "all.db") as rows:
        for name, (first, last) in pairs.items():
            rows.write(first, uid=name, relaxed=False)
            rows.write(last, uid=name, relaxed=True)
    write(tmp_path / "all.extxyz", [atoms for name in pairs for atoms in frames(pairs[name], name)])
    for source, total in (
        (cifs, 4),
        (f"{cifs}@0:3", 3),
        ([cifs, cifs], 8),
        (tmp_path / "all.db", 4),
        (tmp_path / "all.extxyz", None),
    ):
        told: list[int | None] = []
        dataset = PairDataset.read(source, expect=told.append, advance=lambda told=told: told.append(1))
        assert told == [total, *[1] * len(dataset)]


def test_cif_folder_without_tables_is_split(cifs: Path, pairs) -> None:
    for table in cifs.glob("*.csv"):
        table.unlink()
    dataset = PairDataset.read(cifs, fractions=(0.5, 0.25, 0.25))
    assert_right(dataset, pairs, atol=2e-4)
    assert dataset.pairs.split.bincount().tolist() == [2, 1, 1]


def test_cif_folder_tells_what_is_missing(cifs: Path) -> None:
    (cifs / "CIF" / "a_relaxed.cif").unlink()
    (cifs / "CIF" / "b_unrelaxed.cif").write_text("no structure", encoding="utf-8")
    (cifs / "train.csv").write_text("atoms_id\na\nb\nzzz\n", encoding="utf-8")
    dataset = PairDataset.read(cifs)
    assert sorted(dataset.names) == ["c", "d"]
    reasons = {refused.name: refused.reason for refused in dataset.refused}
    assert "no such file" in reasons["a"]
    assert "cannot be read" in reasons["b"]
    assert "no zzz_unrelaxed.cif" in reasons["zzz"]


def test_tables_must_fit(cifs: Path) -> None:
    (cifs / "test.csv").write_text("atoms_id\na\n", encoding="utf-8")
    with pytest.raises(DataError, match="a is in train too"):
        PairDataset.read(cifs)
    (cifs / "test.csv").write_text("material\na\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'atoms_id'"):
        PairDataset.read(cifs)


def test_cryslator_layout(tmp_path: Path, pairs) -> None:
    for name, (first, last) in pairs.items():
        write(tmp_path / f"{name}_unrelaxed.cif", first)
        write(tmp_path / f"{name}_relaxed.cif", last)
    for part, names in (("train", "ab"), ("val", "c"), ("test", "dz")):
        rows = "".join(f"{n}_unrelaxed,-1.0\n{n}_relaxed,-1.5\n" for n in names)
        (tmp_path / f"id_prop_{part}_all.csv").write_text(rows, encoding="utf-8")
    dataset = PairDataset.read(tmp_path)
    assert_right(dataset, pairs, atol=2e-4)
    assert [dataset.pairs.split[dataset.names.index(name)].item() for name in "abcd"] == [0, 0, 1, 2]
    assert [refused.name for refused in dataset.refused] == ["z"]


@pytest.mark.parametrize("as_cif", [True, False])
def test_mpf_pickles(tmp_path: Path, pairs, as_cif: bool) -> None:
    def snapshot(atoms):
        structure = Crystal.of(atoms).to_structure()
        return structure.to(fmt="cif") if as_cif else structure

    blocks: tuple[dict, dict] = ({}, {})
    for n, (name, (first, last)) in enumerate(pairs.items()):
        middle = first.copy()
        middle.rattle(0.3, seed=1)
        frames = [snapshot(atoms) for atoms in (first, middle, last)]
        blocks[n % 2][name] = {
            "structure": frames,
            "energy": [0.0] * 3,
            "force": [np.zeros((8, 3))] * 3,
            "id": [1, 2, 3],
        }
    blocks[0]["short"] = {"structure": [snapshot(pairs["a"][0])], "energy": [0.0]}
    for n, block in enumerate(blocks):
        (tmp_path / f"block_{n}.p").write_bytes(pickle.dumps(block))
    dataset = PairDataset.read(tmp_path)
    assert_right(dataset, pairs, atol=1e-5)
    assert [(r.name, "fewer than two snapshots" in r.reason) for r in dataset.refused] == [("short", True)]


class Evil:
    def __reduce__(self):
        return (print, ("run!",))


def test_pickles_that_could_run_code_are_not_read(tmp_path: Path, capsys) -> None:
    (tmp_path / "block_0.p").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(DataError, match=r"builtins\.print, which relaxation data have no need of"):
        PairDataset.read(tmp_path / "block_0.p")
    assert "run!" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps([1, 2]), bz2.compress(b"x")])
def test_damaged_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "block_0.p").write_bytes(content)
    with pytest.raises(DataError, match=r"block_0\.p"):
        PairDataset.read(tmp_path / "block_0.p")


def test_two_databases(tmp_path: Path, pairs) -> None:
    with connect(tmp_path / "unrelaxed.db") as first, connect(tmp_path / "relaxed.db") as last:
        for n, name in enumerate(pairs):
            first.write(pairs[name][0], uid=name, number=n)
        for name in reversed(pairs):
            last.write(pairs[name][1], uid=name, number=7)
        first.write(pairs["a"][0], uid="alone")
    for sources in ([tmp_path], [tmp_path / "relaxed.db", tmp_path / "unrelaxed.db"]):
        dataset = PairDataset.read(sources)
        assert_right(dataset, pairs)
        reason = "relaxed.db has no relaxed row of that name. Add it, or check --key."
        assert [(r.name, r.reason) for r in dataset.refused] == [("alone", reason)]
    with pytest.raises(DataError, match="no pair that can be used"):
        PairDataset.read(tmp_path, key="number")


def test_one_database(tmp_path: Path, pairs) -> None:
    with connect(tmp_path / "all.db") as rows:
        for name, (first, last) in pairs.items():
            rows.write(first, label=name, relaxed=False)
            rows.write(last, label=name, relaxed=True)
    assert_right(PairDataset.read(tmp_path / "all.db", key="label"), pairs)
    with pytest.raises(DataError, match=r"choose one of id, label, relaxed with --key|no pair"):
        PairDataset.read(tmp_path / "all.db")


def test_databases_that_cannot_be_told_apart(tmp_path: Path, pairs) -> None:
    for name in ("one", "two"):
        with connect(tmp_path / f"{name}.db") as rows:
            rows.write(pairs["a"][0], uid="a")
    with pytest.raises(DataError, match="must have 'unrelaxed' in its name"):
        PairDataset.read([tmp_path / "one.db", tmp_path / "two.db"])
    with pytest.raises(DataError, match="says which rows are relaxed"):
        PairDataset.read(tmp_path / "one.db")


def test_a_file_of_many_relaxations(tmp_path: Path, pairs) -> None:
    write(tmp_path / "all.extxyz", [atoms for name in pairs for atoms in frames(pairs[name], name)])
    assert_right(PairDataset.read(tmp_path / "all.extxyz"), pairs)
    with pytest.raises(DataError, match=r"atoms\.info has no 'mp'"):
        PairDataset.read(tmp_path / "all.extxyz", key="mp")


@pytest.mark.parametrize("ending", ["traj", "extxyz"])
def test_a_folder_of_trajectories(tmp_path: Path, pairs, ending: str) -> None:
    for name in pairs:
        write(tmp_path / f"{name}.{ending}", frames(pairs[name]))
    write(tmp_path / f"e.{ending}", pairs["a"][0])
    dataset = PairDataset.read(tmp_path)
    assert_right(dataset, {f"{name}.{ending}": pair for name, pair in pairs.items()}, [f"{n}.{ending}" for n in pairs])
    assert [(r.name, "one frame only" in r.reason) for r in dataset.refused] == [(f"e.{ending}", True)]


def test_wildcards(tmp_path: Path, pairs) -> None:
    for name in pairs:
        write(tmp_path / f"{name}.traj", frames(pairs[name]))
    assert PairDataset.read(str(tmp_path / "[ab].traj")).names == ("a.traj", "b.traj")
    write(tmp_path / "c[1].traj", frames(pairs["c"]))  # a file of that very name
    assert PairDataset.read(tmp_path / "c[1].traj").names == ("c[1].traj",)
    with pytest.raises(DataError, match="no such file or folder"):
        PairDataset.read(tmp_path / "*.extxyz")


def test_sources_of_several_formats_are_told_apart(cifs: Path, tmp_path: Path, pairs) -> None:
    write(tmp_path / "a.traj", frames(pairs["a"]))
    with pytest.raises(DataError, match=r"several formats: cifs \(cif\), a\.traj \(trajectory\)\. Convert each"):
        PairDataset.read([cifs, tmp_path / "a.traj"])


@pytest.mark.parametrize("form", ["list", "lines", "gzip", "jobflow"])
def test_relaxation_documents(tmp_path: Path, pairs, form: str) -> None:
    def plain(atoms) -> dict:
        return Crystal.of(atoms).to_structure().as_dict()

    documents = []
    for name, (first, last) in pairs.items():
        step = {"structure": plain(first)}
        document = {
            "task_id": name,
            "input": {"structure": plain(last)},  # of the last run of two: not where the relaxation began
            "output": {"structure": plain(last), "energy": -1.0},
            "calcs_reversed": [{}, {"output": {"ionic_steps": [step, {"structure": plain(last)}]}}],
        }
        documents.append({"uuid": name, "name": "relax", "output": document} if form == "jobflow" else document)
    documents.append({"task_id": "static", "output": {"energy": 1.0}})
    if form == "lines":
        (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    elif form == "gzip":
        (tmp_path / "d.json.gz").write_bytes(gzip.compress(json.dumps(documents).encode()))
    else:
        (tmp_path / "d.json").write_text(json.dumps(documents), encoding="utf-8")
    key = "uuid" if form == "jobflow" else None
    dataset = PairDataset.read(next(tmp_path.iterdir()), key=key)
    assert_right(dataset, pairs)
    (refused,) = dataset.refused
    assert "no initial structure" in refused.reason


def test_broken_json(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"d\.json cannot be read \(JSONDecodeError"):
        PairDataset.read(tmp_path / "d.json")
