from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from ase.build import bulk

from deeprelax_ase.calculators import (
    M3GNET_POTENTIAL,
    M3GNET_VARIABLE,
    TENSORNET_POTENTIAL,
    TENSORNET_VARIABLE,
    get_calculator,
)
from deeprelax_ase.calculators.identity import calculator_name
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.graph.matgl_import import import_matgl, runs_on_dgl
from tests.calculators.units import M3GNET, assert_units_of_ase, distorted_salt, needs_matgl, needs_weights


@needs_weights
def test_m3gnet_in_units_of_ase(capfd):
    calculator = get_calculator(f"M3GNet:{M3GNET}")
    assert calculator_name(calculator) == "m3gnet"
    assert capfd.readouterr() == ("", "")
    assert_units_of_ase(calculator)


@needs_weights
def test_m3gnet_is_found_by_the_environment_variable(monkeypatch):
    monkeypatch.setenv(M3GNET_VARIABLE, str(M3GNET))
    salt = distorted_salt()
    salt.calc = get_calculator("m3gnet")
    named = distorted_salt()
    named.calc = get_calculator(f"m3gnet:{M3GNET}")
    assert salt.get_potential_energy() == pytest.approx(named.get_potential_energy(), abs=1e-4)


@needs_weights
def test_m3gnet_in_double_precision():
    """Rounding no longer hides an error: the derivatives agree to nine digits, and nothing is left set in float64."""
    calculator = get_calculator(str(M3GNET), dtype="float64")
    assert_units_of_ase(calculator, step=1e-5, rel=1e-6)
    assert calculator.results["forces"].dtype == np.float64
    assert matgl_and_torch_dtypes() == (torch.float32, np.float32, torch.float32)


@needs_weights
def test_elements_that_it_does_not_know():
    salt = distorted_salt()
    salt.numbers[0] = 84
    salt.calc = get_calculator(str(M3GNET))
    with pytest.raises(CalculatorError, match="does not know Po"):
        salt.get_potential_energy()


@needs_weights
def test_precisions_agree_and_live_side_by_side():
    energies = {}
    both = [get_calculator(str(M3GNET), dtype=dtype) for dtype in ("float32", "float64", "float32")]
    for dtype, calculator in zip(("float32", "float64", "float32") * 2, (*both, *both), strict=True):
        salt = distorted_salt()
        salt.calc = calculator
        energies.setdefault(dtype, set()).add(salt.get_potential_energy())
        salt.get_forces()
    single, double = energies["float32"], energies["float64"]
    assert len(double) == 1
    assert 0 < abs(single.pop() - double.pop()) < 1e-4


def matgl_and_torch_dtypes() -> tuple:
    matgl = pytest.importorskip("matgl")
    return matgl.float_th, matgl.float_np, torch.get_default_dtype()


@needs_weights
def test_dtype_is_put_back_after_an_error():
    calculator = get_calculator(str(M3GNET), dtype="float64")
    atoms = bulk("Po", "sc", a=3.3)  # not among the elements of M3GNet
    atoms.calc = calculator
    with pytest.raises(CalculatorError):
        atoms.get_potential_energy()
    assert matgl_and_torch_dtypes() == (torch.float32, np.float32, torch.float32)


@needs_weights
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("default", [torch.float64, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_the_callers_default_type_is_neither_used_nor_changed(dtype, default):
    salt, other = distorted_salt(), distorted_salt()
    salt.calc = get_calculator(str(M3GNET), dtype=dtype)
    torch.set_default_dtype(default)
    try:
        other.calc = get_calculator(str(M3GNET), dtype=dtype)
        forces = other.get_forces()
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(forces, salt.get_forces(), rtol=0, atol=1e-5)


@needs_weights
@pytest.mark.parametrize(("threads", "used"), [(None, 3), pytest.param(1, 1, marks=pytest.mark.slow), (2, 2)])
def test_threads_are_those_of_the_calculation_alone(monkeypatch, threads, used):
    calculator = get_calculator(str(M3GNET), threads=threads)
    network = calculator.potential if runs_on_dgl() else calculator.potential.network
    seen, forward = [], network.forward

    def spy(*args, **kwargs):
        seen.append(torch.get_num_threads())
        return forward(*args, **kwargs)

    monkeypatch.setattr(network, "forward", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        salt = distorted_salt()
        salt.calc = calculator
        salt.get_forces()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [used]


# MatGL's potentials: where they are looked for


@pytest.fixture
def downloads(monkeypatch) -> list[str]:
    """What MatGL is asked to load by name; it fails."""
    asked = []

    def load_model(path):
        asked.append(path)
        raise RuntimeError("no such file there")

    monkeypatch.setattr(import_matgl(), "load_model", load_model)
    return asked


NAMES = (
    (M3GNET_POTENTIAL, TENSORNET_POTENTIAL)
    if runs_on_dgl()
    else ("M3GNet-PES-MatPES-PBE-2025.2", "TensorNet-PES-MatPES-PBE-2025.2")
)
PRETRAINED = [("m3gnet", NAMES[0], "DEEPRELAX_M3GNET"), ("TensorNet", NAMES[1], "DEEPRELAX_TENSORNET")]


@needs_matgl
@pytest.mark.parametrize(("name", "model", "variable"), PRETRAINED)
def test_matgl_looks_for_what_has_no_folder(downloads, name, model, variable):
    with pytest.raises(CalculatorError, match=rf"neither has {model} .* set {variable} to it .* or use 'chgnet'"):
        get_calculator(name)
    assert downloads == [model]


@pytest.mark.parametrize(("name", "model", "variable"), PRETRAINED)
@pytest.mark.parametrize("by_variable", [True, False])
def test_folder_without_a_potential_is_refused(tmp_path, monkeypatch, by_variable, name, model, variable):
    (tmp_path / "model.json").touch()
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(CalculatorError, match=rf"model\.pt, state\.pt missing.*set {variable} .* looks for {model}"):
        get_calculator(name if by_variable else f"{name}:{tmp_path}")


@pytest.mark.parametrize("name", ["/no/such/folder", "no/such/folder", "~/no-such-folder-of-mine"])
def test_path_that_leads_nowhere_is_refused(name):
    with pytest.raises(CalculatorError, match=r"folder.* is not the folder of a MatGL potential"):
        get_calculator(name)


# A path, and TensorNet


@pytest.fixture
def small_tensornet():
    """A potential of TensorNet's architecture for Na and Cl, with the weights that it is born with."""
    import_matgl()
    from matgl.apps.pes import Potential
    from matgl.models import TensorNet

    torch.manual_seed(0)
    network = TensorNet(element_types=("Na", "Cl"), units=8, nblocks=1, num_rbf=4, is_intensive=False)
    return Potential(model=network, data_std=5.0, calc_stresses=True)


@needs_matgl
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_folder_by_its_path(tmp_path, monkeypatch, small_tensornet, dtype):
    small_tensornet.save(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(tmp_path / "mine"), "mine", "./mine", "~/mine", "tensornet:mine", "m3gnet:~/mine"):
        calculator = get_calculator(name, dtype=dtype)
        assert type(calculator.potential.model).__name__ == "TensorNet"
    monkeypatch.setenv(TENSORNET_VARIABLE, "~/mine")
    assert type(get_calculator("tensornet").potential.model).__name__ == "TensorNet"


@needs_matgl
def test_tensornet_in_units_of_ase(tmp_path, small_tensornet):
    small_tensornet.save(tmp_path / "mine")
    calculator = get_calculator(f"tensornet:{tmp_path / 'mine'}", dtype="float64")
    assert_units_of_ase(calculator, step=1e-4, rel=1e-4, forces_above=1e-3)


@needs_matgl
def test_a_network_without_forces_is_refused(tmp_path, small_tensornet):
    small_tensornet.model.save(tmp_path / "bare")
    with pytest.raises(CalculatorError, match="holds a TensorNet, which is no potential"):
        get_calculator(str(tmp_path / "bare"))


@needs_matgl
def test_damaged_potential_is_refused(tmp_path, capfd):
    for name in ("model.json", "model.pt", "state.pt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CalculatorError, match="cannot load the potential in"):
        get_calculator(f"m3gnet:{tmp_path}")
    assert capfd.readouterr() == ("", "")  # MatGL prints the traceback itself


def test_missing_matgl_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matgl", None)
    with pytest.raises(CalculatorError, match=r'pip install "deeprelax-ase\[matgl\]"'):
        get_calculator("m3gnet")
