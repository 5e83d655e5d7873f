"""Truly relaxed crystals beside the results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.report import outcome_of


def test_a_reference_of_some_is_found_by_names(screened: Path, tmp_path: Path) -> None:
    true = read(screened / "true.extxyz", index=":")
    write(tmp_path / "some.extxyz", [true[2], true[0]])
    errors = outcome_of(screened / "out", reference=tmp_path / "some.extxyz").true_errors
    assert np.isnan(errors).tolist() == [False, True, False, True]
    whole = outcome_of(screened / "out", reference=screened / "true.extxyz").true_errors
    np.testing.assert_array_equal(errors[[0, 2]], whole[[0, 2]])


def test_a_reference_that_does_not_fit(screened: Path, tmp_path: Path) -> None:
    with pytest.raises(StructureFileError, match="no such file"):
        outcome_of(screened / "out", reference=tmp_path / "nothing")
    write(tmp_path / "more.extxyz", [*read(screened / "true.extxyz", index=":"), bulk("Cu")])
    with pytest.raises(StructureFileError, match="5 crystals instead of 4"):
        outcome_of(screened / "out", reference=tmp_path / "more.extxyz")
    write(tmp_path / "others.extxyz", [bulk("CaO", "rocksalt", a=4.8)] * 4)
    with pytest.raises(StructureFileError, match="other atoms"):
        outcome_of(screened / "out", reference=tmp_path / "others.extxyz")
