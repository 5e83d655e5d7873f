from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from deeprelax_ase.calculators import (
    get_calculator,
    potential_name,
)
from deeprelax_ase.calculators.identity import calculator_name
from deeprelax_ase.errors import CalculatorError
from tests.calculators.units import assert_units_of_ase, distorted_salt


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")  # in CHGNet's own code
def test_chgnet_in_units_of_ase(capfd):
    pytest.importorskip("chgnet")
    calculator = get_calculator("chgnet", device="cpu")
    assert calculator_name(calculator) == "chgnet"
    assert capfd.readouterr() == ("", "")
    assert_units_of_ase(calculator)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_chgnet_of_left_handed_cells_and_of_atoms_far_away():
    pytest.importorskip("chgnet")
    salt = distorted_salt()
    mirrored, far = salt.copy(), salt.copy()
    mirrored.set_cell(salt.cell.array[[1, 0, 2]])
    far.positions += 500 * salt.cell.array[0]
    for atoms in (salt, mirrored, far):
        atoms.calc = get_calculator("chgnet", device="cpu")
    for atoms in (mirrored, far):
        np.testing.assert_allclose(atoms.get_stress(), salt.get_stress(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), salt.get_forces(), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_chgnet_whatever_the_callers_default_type():
    pytest.importorskip("chgnet")
    salt = distorted_salt()
    torch.set_default_dtype(torch.float64)
    try:
        salt.calc = get_calculator("chgnet", device="cpu")
        assert np.isfinite(salt.get_stress()).all()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_chgnet_with_threads_of_its_own(monkeypatch):
    pytest.importorskip("chgnet")
    calculator = get_calculator("chgnet", device="cpu", threads=1)
    seen = []

    def predict_graph(*args, **kwargs):
        seen.append(torch.get_num_threads())
        raise RuntimeError("enough")

    monkeypatch.setattr(calculator.model, "predict_graph", predict_graph)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        salt = distorted_salt()
        salt.calc = calculator
        with pytest.raises(RuntimeError, match="enough"):
            salt.get_potential_energy()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_chgnet_in_double_precision_is_refused():
    with pytest.raises(CalculatorError, match="float32 only"):
        get_calculator("chgnet", dtype="float64")


def test_other_weights_of_its_package():
    pytest.importorskip("chgnet")
    assert potential_name(get_calculator("chgnet:r2scan", device="cpu")) == "CHGNet r2SCAN"
    with pytest.raises(CalculatorError, match=r"no weights '1\.0': take 'r2scan'"):
        get_calculator("chgnet:1.0")


def test_missing_chgnet_says_what_to_install(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "chgnet" or name.endswith(".chgnet")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "chgnet", None)
    with pytest.raises(CalculatorError, match=r'pip install "deeprelax-ase\[chgnet\]"'):
        get_calculator("chgnet")
