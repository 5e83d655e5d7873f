"""What a screening found, in the files of other programs: whole, or said what is missing."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from contextlib import chdir
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import IO

import numpy as np
import pytest
from ase import Atoms
from ase.io import extxyz, read, write

from deeprelax_ase.crystal import PUT_VACUUM
from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.source import read_frames
from deeprelax_ase.prediction.status import STATUSES
from deeprelax_ase.screening import Folder, RelaxOptions, Shard, export_results, screen
from tests.screening.conftest import QUICK, assert_repeats_as_given, layers, some_crystals


@pytest.fixture(scope="module")
def six_screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("six")
    write(folder / "crystals.extxyz", some_crystals(6))
    screen([folder / "crystals.extxyz"], folder / "out", RelaxOptions(**QUICK), workers=0, block_size=2)
    return folder / "out"


@pytest.fixture
def screened(six_screened: Path, tmp_path: Path) -> Folder:
    return Folder(copytree(six_screened, tmp_path / "out"))


@pytest.mark.parametrize("name", ["relaxed.extxyz", "relaxed.jsonl", "relaxed.db", "relaxed.xyz.gz"])
def test_a_damaged_block_costs_nothing_that_was_written_before(screened: Folder, tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    assert export_results(screened.path, str(output)) == 6
    before = output.read_bytes()
    os.truncate(screened.file(1), 100)
    with pytest.raises(OutputError, match=r"exists already"):
        export_results(screened.path, str(output))
    with pytest.raises(OutputError, match=r"part-00000001\.parquet is missing or damaged"):
        export_results(screened.path, str(output), overwrite=True)
    assert output.read_bytes() == before
    assert not [file for file in tmp_path.iterdir() if "part" in file.name]


def test_a_shard_that_is_missing_is_said(xyz, tmp_path: Path, quick: RelaxOptions) -> None:
    file, out = xyz(7), tmp_path / "out"
    screen([file], out, quick, workers=0, block_size=2, shard=Shard(1, 2))
    with pytest.warns(UserWarning, match=r"3 of 7 crystals are not done yet \(shard 2/2\)"):
        assert export_results(out, str(tmp_path / "relaxed.extxyz")) == 4
    screen([file], out, quick, workers=0, block_size=2, shard=Shard(2, 2))
    assert export_results(out, str(tmp_path / "relaxed.extxyz"), overwrite=True) == 7
    assert [atoms.info["id"] for atoms in read(tmp_path / "relaxed.extxyz", ":")] == [f"crystal-{n}" for n in range(7)]


def test_a_part_of_an_input_is_not_overwritten(xyz, tmp_path: Path, quick: RelaxOptions) -> None:
    screen([f"{xyz(4)}@1:3"], tmp_path / "out", quick, workers=0)
    with pytest.raises(OutputError, match="would overwrite the input"):
        export_results(tmp_path / "out", str(tmp_path / "crystals.extxyz"), overwrite=True)


@pytest.mark.parametrize("name", ["journal.jsonl", "journal-3-of-3.jsonl", "part-00000000.parquet", "screen.json"])
def test_what_the_screening_needs_is_not_overwritten(screened: Folder, tmp_path: Path, name: str) -> None:
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(OutputError, match="belongs to the screening"):
        export_results(screened.path, str(screened.path / name), overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("name", ["x.extxyz", "x-%s.cif", "all.jsonl"])
def test_nothing_is_added_to_the_folder_of_the_screening(screened: Folder, tmp_path: Path, name: str) -> None:
    """What is there is read again by whoever is given the folder: files of crystals would hide the results."""
    before = sorted(screened.path.iterdir())
    with pytest.raises(OutputError, match="lies in the folder of the screening") as told, chdir(screened.path):
        export_results(".", name)
    assert str(told.value).endswith(f"Give ../{name}.")
    with pytest.raises(OutputError, match="lies in the folder of the screening"):
        export_results(screened.path, str(screened.path / name))
    assert sorted(screened.path.iterdir()) == before


def test_numbered_files_that_were_screened_are_not_overwritten(tmp_path: Path, quick: RelaxOptions) -> None:
    (tmp_path / "in").mkdir()
    for number, atoms in enumerate(some_crystals(2)):
        write(tmp_path / "in" / f"{number}.cif", atoms)
    screen([tmp_path / "in"], tmp_path / "out", quick, workers=0)
    with pytest.raises(OutputError, match="would overwrite the input"):
        export_results(tmp_path / "out", str(tmp_path / "in" / "%d.cif"), overwrite=True)


@pytest.mark.parametrize("name", ["all.extxyz", "all.jsonl"])
def test_a_crystal_that_a_format_cannot_hold_costs_itself(
    tmp_path: Path, quick: RelaxOptions, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = some_crystals(1)[0]
    flat.cell[:] = 0
    flat.info = {"id": "flat"}
    write(tmp_path / "set.traj", [*some_crystals(2), flat])
    screen([tmp_path / "set.traj"], tmp_path / "out", quick, workers=0)
    statuses = STATUSES
    if name.endswith("xyz"):
        monkeypatch.setattr("ase.io.extxyz.write_xyz", partial(_write_but, "flat", extxyz.write_xyz))
    with pytest.warns(UserWarning, match=r"1 crystals cannot be written in this format: flat"):
        assert export_results(tmp_path / "out", str(tmp_path / name), statuses=statuses) == 2


def _write_but(name: str, write_xyz: Callable, stream: IO, atoms: Atoms) -> None:
    if atoms.info["id"] == name:
        raise KeyError(name)
    write_xyz(stream, atoms)


@pytest.mark.parametrize("ending", ["extxyz", "jsonl"])
def test_layers_are_exported_in_the_cell_that_they_were_given_in(
    tmp_path: Path, quick: RelaxOptions, ending: str
) -> None:
    """But pymatgen needs a third vector: where there was none, it gets one with vacuum, along which nothing repeats."""
    given, output = layers(), tmp_path / f"out.{ending}"
    write(tmp_path / "in.extxyz", given)
    screen([str(tmp_path / "in.extxyz")], tmp_path / "screened", quick, workers=0)
    assert export_results(tmp_path / "screened", str(output), statuses=STATUSES) == len(given)
    if ending == "extxyz":
        for atoms, before in zip(read(output, ":"), given, strict=True):
            assert_repeats_as_given(atoms, before)
        return
    for line, before in zip(output.read_text().splitlines(), given, strict=True):
        lattice = json.loads(line)["structure"]["lattice"]
        assert list(lattice["pbc"]) == before.pbc.tolist()
        (vector,), (wanted,) = np.array(lattice["matrix"])[~before.pbc], before.cell.array[~before.pbc]
        np.testing.assert_allclose(vector, wanted if wanted.any() else [0, 0, PUT_VACUUM], rtol=0, atol=1e-7)


@pytest.mark.parametrize("calculator", ["none", "tests.batched_emt:springs"])
def test_records_tell_energies_and_what_converged(xyz: Callable[[int], Path], tmp_path: Path, calculator: str) -> None:
    """Energies are those of the calculator; without one nothing has an energy or is converged."""
    out = tmp_path / "out"
    screen([xyz(3)], out, RelaxOptions(device="cpu", calculator=calculator, steps=200), workers=0)
    assert export_results(out, str(tmp_path / "geo-opt.jsonl.gz"), statuses=STATUSES) == 3
    with gzip.open(tmp_path / "geo-opt.jsonl.gz", "rt") as stream:
        records = [json.loads(line) for line in stream]
    (table,) = Folder(out).tables()
    for record, row in zip(records, table.to_pylist(), strict=True):
        assert record["energy"] == row["energy"]
        assert (record["energy"] is None) == (calculator == "none")
        assert record["converged"] == (row["status"] == "converged") == (calculator != "none")
        assert (record["material_id"], record["n_steps"]) == (row["id"], row["steps"] or 0)
    assert [record["structure"]["lattice"]["pbc"] for record in records] == [[True] * 3] * 3
    read_again = read_frames(str(tmp_path / "geo-opt.jsonl.gz"))
    assert [frame.name for frame in read_again] == [record["material_id"] for record in records]
