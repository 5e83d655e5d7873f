"""``deeprelax label``: what it says, its exit codes, and that its folder goes wherever pairs are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from ase.io import write
from typer.testing import CliRunner, Result

pytest.importorskip("pyarrow", reason="needs pyarrow")

from deeprelax_ase import cli
from tests.labelling.alloys import EMT_NAME, alloys


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def label(*arguments: object, calculator: str = EMT_NAME) -> Result:
    options = ("--workers", 0, "--finish", "fast", "--fmax", 0.05, "--device", "cpu")
    return run("label", "-c", calculator, *options, *arguments)


@pytest.fixture
def candidates(folder: Path) -> Path:
    crystals = alloys(8)
    crystals[3] = Atoms("CuAu", [[0, 0, 0], [0, 0, 2.5]], cell=[12] * 3, pbc=True)
    crystals[5].set_cell(crystals[5].cell.array * 0.78, scale_atoms=True)
    write("candidates.extxyz", crystals)
    return folder / "candidates.extxyz"


def test_what_came_of_each_is_told(candidates: Path) -> None:
    result = label(candidates, "--out", "labelled", "--fractions", 0.5, 0.25, 0.25, "--group-by", "pair")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("6 labelled of 8; 8 relaxed now, in ")
    assert sorted(lines[1:3]) == [
        "1 dropped: left its basin: |ln V ratio| above 0.6",
        "1 dropped: refused: the atoms are a molecule",
    ]
    assert lines[3] == "pairs written to labelled/pairs.npz: train 3, validation 2, test 1"
    again = label(candidates, "--out", "labelled", "--quiet")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "0 relaxed now" in label(candidates, "--out", "labelled").stdout


def test_its_folder_is_a_source_of_pairs(candidates: Path) -> None:
    label(candidates, "--out", "labelled", "-q")
    checked = run("data", "check", "labelled")
    assert checked.exit_code == 0, checked.output
    assert "6 pairs" in checked.stdout
    assert "nothing suspicious" in checked.stdout
    assert "2 pairs" in run("data", "check", "labelled@0:2").stdout


def test_parts_without_a_pair_are_told(candidates: Path) -> None:
    few = (f"{candidates}@0:2", "--out", "few")
    told = label(*few, "--fractions", 0.8, 0.2, 0).stderr
    assert "no pairs for validation: label more candidates, or give other --fractions." in told
    assert "Those of one composition stay together; --group-by pair parts them." in told
    assert label(*few, "--fractions", 0.5, 0.5, 0, "--group-by", "pair").stderr == ""
    told = label(*few, "--group-by", "pair").stderr
    assert "no pairs for" in told
    assert "stay together" not in told
    assert label(*few, "--quiet").stderr == ""


def test_what_is_rattled_is_split_by_the_same_seed(candidates: Path) -> None:
    few = (f"{candidates}@0:1", "--fmax", 0.2)
    assert label(*few, "--out", "rattled", "--rattle", 0.02, "--seed", 3).exit_code == 0
    again = label(*few, "--out", "rattled", "--rattle", 0.02, "--seed", 4)
    assert again.exit_code == 2
    assert "rattle_seed" in again.stderr, "other starts need another folder"
    assert [label(*few, "--out", "given", "--seed", seed).exit_code for seed in (3, 4)] == [0, 0], (
        "another split does not"
    )


def test_shards_tell_of_the_others(candidates: Path) -> None:
    first = label(candidates, "--out", "labelled", "--block-size", 4, "--shard", "2/2")
    assert first.exit_code == 0
    assert "4 crystals of other shares are not done yet" in first.stdout


def test_failures_are_told_by_their_causes(candidates: Path) -> None:
    result = label(candidates, "--out", "labelled", calculator="tests.labelling.alloys:Forbidding")
    assert "dropped: failed: " in result.stdout
    assert "no gold here" in result.stdout
    assert "not finite" in result.stdout


def test_without_a_pair_the_exit_code_says_so(candidates: Path) -> None:
    result = label(f"{candidates}@3:4", "--out", "labelled")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:] == ["1 dropped: refused: the atoms are a molecule"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-c", "emtt"), "Unknown calculator 'emtt'"),
        (("--finish", "downhill"), "does not relax in batches"),
        (("--fmax", "0"), "no relaxation ends at"),
        (("--level", "LDA"), "Unknown --level LDA"),
        (("--fractions", "1", "1", "1"), "add up to 1"),
        (("--group-by", "colour"), "Unknown --group-by colour"),
        (("--shard", "3"), "a shard is written i/n"),
    ],
)
def test_refusals_show_before_the_work(candidates: Path, options: tuple[str, ...], told: str) -> None:
    result = label(candidates, "--out", "labelled", *options)
    assert result.exit_code == 2
    assert told in result.stderr
    assert not Path("labelled").exists()


def test_a_missing_file_is_told(folder: Path) -> None:
    result = label("nothing.extxyz", "--out", "labelled", calculator="emtt")  # nor is the potential looked for before
    assert result.exit_code == 2
    assert "no such file" in result.stderr
