"""Screenings that are refused before a crystal is read: other inputs, wrong options, folders that are not theirs."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
from ase.io import write

from deeprelax_ase.errors import ModelError, OutputError
from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.run import screen
from tests.screening.conftest import some_crystals


def test_a_changed_input_is_refused(xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions) -> None:
    file = xyz(4)
    screen([file], tmp_path / "out", quick, workers=0, block_size=2)
    text = file.read_text()
    file.write_text(text.replace("crystal-3", "crystal-7"))
    with pytest.raises(OutputError, match=r"crystals\.extxyz has changed"):
        screen([file], tmp_path / "out", quick, workers=0, block_size=2)
    file.write_text(text)
    assert screen([file], tmp_path / "out", quick, workers=0, block_size=2).done == 4


def test_wrong_options_show_at_once(xyz: Callable[[int], Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no calibrated errors to hold against max_error"):
        screen([xyz(2)], tmp_path / "out", RelaxOptions(recycles=5, max_error=0.1, device="cpu"))
    assert not (tmp_path / "out").exists()
    for wrong, told in (
        ({"on_uncertain": "finish"}, "give one with calculator="),
        ({"on_uncertain": "skip", "calculator": "m3gnet"}, "finishes every crystal"),
        ({"on_uncertain": "ignore"}, "must be one of"),
        ({"max_volume_error": -1.0}, "must be a fraction"),
        ({"fmax": 0}, "give one above 0"),
        ({"fmax": math.nan}, "give one above 0"),
    ):
        with pytest.raises(ValueError, match=told):
            RelaxOptions(**wrong)


@pytest.mark.parametrize("out", ["in", "in/deep/out"])
def test_results_do_not_mix_with_inputs(tmp_path: Path, quick: RelaxOptions, out: str) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.cif", some_crystals(1))
    with pytest.raises(OutputError, match=r"lies in the input .*Give another folder"):
        screen([tmp_path / "in"], tmp_path / out, quick, workers=0)
    assert [file.name for file in (tmp_path / "in").iterdir()] == ["a.cif"]


def test_results_are_not_their_own_input(xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions) -> None:
    screen([xyz(2)], tmp_path / "out", quick, workers=0)
    with pytest.raises(OutputError, match=r"part-00000000\.parquet belongs to the results"):
        screen([tmp_path / "out" / "part-00000000.parquet"], tmp_path / "out", quick, workers=0)


def test_a_folder_without_a_name_is_none(xyz: Callable[[int], Path], quick: RelaxOptions, tmp_path: Path) -> None:
    with chdir(tmp_path), pytest.raises(OutputError, match="is empty"):
        screen([xyz(1)], "", quick, workers=0)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is no folder"):
        screen([xyz(1)], tmp_path / "file", quick, workers=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_key_that_names_nothing_is_refused(
    xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions, workers: int
) -> None:
    """The rows would be named by their files, and the folder could not be gone on with under the right key."""
    told = r"id_key='nosuch' is a key of no structure\. Take one of theirs \(material_id\), or leave it out"
    with pytest.raises(ValueError, match=told):
        screen([xyz(3)], tmp_path / "out", quick, workers=workers, id_key="nosuch")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("error:id_key")
def test_a_key_that_only_later_structures_can_have_is_told(
    xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions
) -> None:
    """The warning, an error here, comes before the screening begins."""
    with pytest.raises(UserWarning, match="'nosuch' is a key of none of the first 1,000 structures"):
        screen([xyz(1001)], tmp_path / "out", quick, workers=0, id_key="nosuch")


def test_a_key_that_some_have_names_these(tmp_path: Path, quick: RelaxOptions) -> None:
    crystals = some_crystals(2)
    crystals[1].info = {"code": 7}
    write(tmp_path / "some.extxyz", crystals)
    screen([tmp_path / "some.extxyz"], tmp_path / "out", quick, workers=0, id_key="code")
    ids = [name for table in Folder(tmp_path / "out").tables(["id"]) for name in table["id"].to_pylist()]
    assert ids[1] == "7"
    assert ids[0] != "7"
