"""What may move, on the command line: read from files, said by options, refused where it means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms, FixCartesian, FixScaled
from ase.io import read, write
from typer.testing import CliRunner

from deeprelax_ase.cli import app

pytest.importorskip("pyarrow")

QUICK = ("--members", "1", "--recycles", "1", "--device", "cpu", "-q", "--max-odds-worse", "1")


def displaced() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.5, cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def write_held(path: Path) -> None:
    """Atoms 0 and 1 are fixed, and x and z of atom 2, as each format stores it."""
    atoms = displaced()
    if path.suffix == ".jsonl":
        from pymatgen.io.ase import AseAtomsAdaptor

        structure = AseAtomsAdaptor.get_structure(atoms)
        structure.add_site_property("selective_dynamics", [[False] * 3] * 2 + [[False, True, False]] + [[True] * 3] * 5)
        path.write_text(json.dumps(structure.as_dict()) + "\n")
        return
    kind = FixCartesian if path.suffix == ".extxyz" else FixScaled
    atoms.set_constraint([FixAtoms([0, 1]), kind([2], mask=[True, False, True])])
    moves = {"columns": ["symbols", "positions", "move_mask"]} if path.suffix == ".extxyz" else {}
    write(path, atoms, **moves)


@pytest.mark.parametrize("name", ["POSCAR", "held.extxyz", "held.traj", "held.db", "held.json", "held.jsonl"])
def test_constraints_are_read_from_where_a_file_stores_them(tmp_path, name):
    write_held(tmp_path / name)
    words = ["relax", str(tmp_path / name), "-o", str(tmp_path / "out.traj"), "--fixed-cell", *QUICK]
    assert CliRunner().invoke(app, words).exit_code in (0, 1)
    made = read(tmp_path / "out.traj")
    given = displaced() if name == "held.jsonl" else read(tmp_path / name)
    moved = np.abs(made.positions - given.positions)
    np.testing.assert_allclose([*moved[:2].ravel(), *moved[2, [0, 2]]], 0, atol=1e-12)
    assert moved[2, 1] > 0.05
    assert moved[3:].max() > 0.05


@pytest.mark.parametrize("command", ["relax", "screen"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pressure", "5"], "predicts crystals without pressure"),
        (["--pressure", "5", "-c", "emt:none", "--on-uncertain", "finish"], "finishes every crystal"),
        (["--pressure", "5", "-c", "emt:none", "--finish", "none"], "finishes every crystal"),
        (["--pressure", "nan", "-c", "emt:none"], "Invalid value for '--pressure'"),
        (["--fixed-cell", "--mask", "xx"], "--fixed-cell keeps cells as they are"),
        (["--fixed-cell", "--constant-volume"], "--fixed-cell keeps cells as they are"),
        (["--mask", "xx,up"], "name the components"),
        (["--mask", ""], "name the components"),
        (["--mask", "xy"], "not all that they lead to"),
        (["--seed", "3"], "--seed is that of --rattle"),
        (["--rattle", "0.1", "--keep-symmetry"], "leave one of them out"),
        (["--restart", "somewhere"], "give one with --calculator"),
    ],
)
def test_what_means_nothing_is_refused(tmp_path, command, words, told):
    write(tmp_path / "in.traj", displaced())
    result = CliRunner().invoke(app, [command, str(tmp_path / "in.traj"), "-o", str(tmp_path / "out"), *words])
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
    assert not (tmp_path / "somewhere").exists()


def test_a_symmetry_that_the_mask_breaks_is_a_row(tmp_path):
    write(tmp_path / "in.traj", bulk("NaCl", "rocksalt", a=5.5, cubic=True))
    words = ["relax", str(tmp_path / "in.traj"), "-o", str(tmp_path / "out.traj"), "--keep-symmetry", "--mask", "zz"]
    assert CliRunner().invoke(app, [*words, *QUICK]).exit_code == 1
    made = read(tmp_path / "out.traj")
    assert made.info["deeprelax_status"] == "refused"
    assert "the mask zz breaks it" in made.info["deeprelax_reason"]


def test_screenings_with_another_pressure_do_not_mix(tmp_path):
    write(tmp_path / "in.traj", bulk("Cu", a=3.7))
    words = ["screen", str(tmp_path / "in.traj"), "-o", str(tmp_path / "out"), "--workers", "0", "--device", "cpu"]
    words += ["-c", "ase.calculators.emt:EMT", "--members", "1", "--recycles", "1", "-q", "--mask", "xx,yy,zz"]
    for pressure, code in (("5", 0), ("5", 0), ("6", 2)):
        result = CliRunner().invoke(app, [*words, "--pressure", pressure, "--restart", str(tmp_path / "kept")])
        assert result.exit_code == code, result.output
    assert "begun with other options: {'relax_cell': " in result.output
    assert list((tmp_path / "kept").iterdir()) == []
