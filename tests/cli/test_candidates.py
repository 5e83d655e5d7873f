"""``deeprelax candidates``: what it writes, says and refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from typer.testing import CliRunner, Result

from deeprelax_ase import cli
from deeprelax_ase.labelling import is_neutral
from tests.labelling.test_candidates import MOS2, SOURCES


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["candidates", *map(str, arguments)])


@pytest.fixture
def sources(folder: Path) -> Path:
    crystals = [crystal.to_atoms() for crystal in (*SOURCES, MOS2)]
    for n, atoms in enumerate(crystals):
        atoms.info["material_id"] = f"source-{n}"
    write("sources.extxyz", crystals)
    return folder / "sources.extxyz"


def test_what_is_written_tells_where_it_is_from(sources: Path) -> None:
    result = run(sources, "-n", 30, "--seed", 2, "-o", "out.extxyz")
    assert result.exit_code == 0, result.output
    made = read("out.extxyz", ":")
    assert result.stdout.startswith("30 candidates written to out.extxyz: ")
    assert [atoms.info["id"] for atoms in made] == [f"candidate-2-{n}" for n in range(30)]
    assert {atoms.info["source"] for atoms in made} <= {f"source-{n}" for n in range(len(SOURCES) + 1)}
    for atoms in made:
        assert atoms.pbc.all() == (atoms.info["kind"] not in ("slab", "layer"))


@pytest.mark.parametrize("name", ["out.db", "out.json", "out-%02d.cif"])
def test_the_ending_tells_the_format(sources: Path, name: str) -> None:
    assert run(sources, "-n", 3, "-o", name, "-q").stdout == ""
    assert run(sources, "-n", 3, "-o", "same.extxyz").exit_code == 0
    files = sorted(sources.parent.glob("out*"))
    found = [atoms for file in files for atoms in read(file, ":")]
    for atoms, same in zip(found, read("same.extxyz", ":"), strict=True):
        assert atoms.get_chemical_formula() == same.get_chemical_formula()
        assert atoms.get_volume() == pytest.approx(same.get_volume(), rel=1e-5)


def test_the_same_seed_writes_the_same_file(sources: Path) -> None:
    for name, seed in (("a.extxyz", 5), ("b.extxyz", 5), ("c.extxyz", 6)):
        run(sources, "-n", 8, "--seed", seed, "-o", name)
    first, again, other = (Path(f"{name}.extxyz").read_text() for name in "abc")
    assert first == again
    assert first != other.replace("candidate-6", "candidate-5")


def test_kinds_elements_and_neutrality_are_kept_to(sources: Path) -> None:
    arguments = ("--kind", "strained=3", "--kind", "shared", "--elements", "Li,Na K,Cl,Br", "--neutral")
    assert run(sources, "-n", 40, "-o", "out.extxyz", *arguments).exit_code == 0
    made = read("out.extxyz", ":")
    kinds = [atoms.info["kind"] for atoms in made]
    assert kinds.count("strained") > kinds.count("shared") > 0
    for atoms in made:
        assert set(atoms.symbols) <= {"Li", "Na", "K", "Cl", "Br"}
        assert is_neutral(atoms.numbers)


def test_known_systems_alone(sources: Path) -> None:
    known = {frozenset(crystal.numbers.tolist()) for crystal in (*SOURCES, MOS2)}
    for options, inside in (((), False), (("--known-systems",), True)):
        run(sources, "-n", 30, "-o", "out.extxyz", "--overwrite", *options)
        made = {frozenset(atoms.numbers.tolist()) for atoms in read("out.extxyz", ":")}
        assert (made <= known) == inside


def test_fewer_than_wanted_is_said(sources: Path) -> None:
    result = run(f"{sources}@0:1", "-n", 50, "--kind", "substituted", "--kind", "layer", "-o", "out.extxyz")
    assert result.exit_code == 1
    assert "fewer than wanted: nothing else was found" in result.stderr
    nothing = run(f"{sources}@0:1", "-n", 5, "--kind", "layer", "-o", "none.extxyz")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert not Path("none.extxyz").exists()


def test_sources_that_cannot_be_used_are_told(sources: Path) -> None:
    bad = [SOURCES[0].to_atoms(), Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]), Atoms("Cm", cell=np.eye(3) * 3, pbc=True)]
    write("bad.extxyz", bad)
    result = run("bad.extxyz", "-n", 2, "--kind", "rattled", "-o", "out.extxyz")
    assert result.exit_code == 0, result.output
    assert "2 sources left out: bad.extxyz@1: the structure has no periodic cell" in result.stderr
    alone = run("bad.extxyz@1", "-n", 2, "-o", "other.extxyz")
    assert alone.exit_code == 2
    assert "no source can be used" in alone.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--kind", "molten"), "unknown kinds of candidates: molten; known are substituted, "),
        (("--kind", "slab=much"), "the share must be a number, such as slab=0.5"),
        (("--kind", "slab=0"), "one of them positive"),
        (("--elements", "Li,Xx"), "Xx is no element"),
        (("-o", "nowhere/out.extxyz"), "does not exist"),
        (("-o", "POSCAR"), "holds one crystal"),
    ],
)
def test_refusals_say_what_to_give(sources: Path, options: tuple[str, ...], told: str) -> None:
    result = run(sources, "-n", 3, "-o", "out.extxyz", *options)
    assert result.exit_code == 2
    assert told in result.stderr
    assert sorted(file.name for file in sources.parent.iterdir()) == ["sources.extxyz"]


def test_nothing_is_replaced_unasked(sources: Path) -> None:
    Path("out.extxyz").write_text("mine")
    assert run(sources, "-n", 1, "-o", "out.extxyz").exit_code == 2
    assert Path("out.extxyz").read_text() == "mine"
    assert run(sources, "-n", 1, "-o", sources, "--overwrite").exit_code == 2
