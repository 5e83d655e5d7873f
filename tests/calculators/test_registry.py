from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.stress import full_3x3_to_voigt_6_stress

from deeprelax_ase.calculators import (
    M3GNET_POTENTIAL,
    M3GNET_VARIABLE,
    TENSORNET_POTENTIAL,
    TENSORNET_VARIABLE,
    get_calculator,
)
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.graph.matgl_import import import_matgl

M3GNET = Path(os.environ.get("DEEPRELAX_SHARED", Path(__file__).parents[3] / "shared")) / "models" / M3GNET_POTENTIAL

needs_dgl = pytest.mark.skipif(find_spec("dgl") is None, reason="DGL has no wheel for this Python")
needs_m3gnet = pytest.mark.skipif(
    find_spec("dgl") is None or not M3GNET.is_dir(),
    reason="needs DGL, and M3GNet in the data folder beside the repository",
)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(M3GNET_VARIABLE, raising=False)
    monkeypatch.delenv(TENSORNET_VARIABLE, raising=False)


def distorted_salt() -> Atoms:
    rng = np.random.default_rng(5)
    atoms = bulk("NaCl", "rocksalt", a=5.8, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += 0.15 * rng.normal(size=atoms.positions.shape)
    return atoms


def assert_units_of_ase(calculator, *, step: float = 4e-3, rel: float = 0.02, forces_above: float = 0.1) -> None:
    """Forces and stress are the derivatives of the energy, in eV/Å and eV/Å³ and in ASE's sign and order.

    A step of less than 4e-3 Å drowns in rounding where the energy is computed in float32.
    """
    atoms = distorted_salt()
    atoms.calc = calculator
    rng = np.random.default_rng(6)
    direction = rng.normal(size=(8, 3))
    strain = rng.normal(size=(3, 3))
    strain = 0.5 * (strain + strain.T)
    forces, stress, volume = atoms.get_forces(), atoms.get_stress(voigt=False), atoms.get_volume()

    def energy(displacement: float, deformation: float) -> float:
        moved = atoms.copy()
        moved.positions += displacement * direction
        moved.set_cell(moved.cell.array @ (np.eye(3) + deformation * strain), scale_atoms=True)
        moved.calc = calculator
        return float(moved.get_potential_energy())

    h = step
    assert np.abs(forces).max() > forces_above
    assert (energy(h, 0) - energy(-h, 0)) / (2 * h) == pytest.approx(-np.sum(forces * direction), rel=rel)
    assert np.abs(stress).max() > 0.01 * forces_above
    assert (energy(0, h) - energy(0, -h)) / (2 * h) == pytest.approx(volume * np.sum(stress * strain), rel=rel)
    np.testing.assert_array_equal(atoms.get_stress(), full_3x3_to_voigt_6_stress(stress))


# Names


def test_none():
    assert get_calculator("none") is None


def test_factory_may_be_a_class():
    assert isinstance(get_calculator("ase.calculators.emt:EMT"), EMT)


def test_kwargs_reach_the_factory():
    calculator = get_calculator("ase.calculators.lj:LennardJones", device="cpu", sigma=2.5)
    assert isinstance(calculator, LennardJones)
    assert calculator.parameters.sigma == 2.5


def test_factory_may_be_a_function_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "my_own_calculators.py").write_text(
        "from ase.calculators.emt import EMT\nready = EMT()\ndef make():\n    return EMT()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(get_calculator("my_own_calculators:make"), EMT)
    assert get_calculator("my_own_calculators:ready") is sys.modules["my_own_calculators"].ready


@pytest.mark.parametrize(
    "name", ["vasp", "", "none:x", "chgnet:x", ":EMT", ".emt:EMT", "a b:c", "ase.calculators.emt:"]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(
        CalculatorError, match=r"must be one of 'none', 'm3gnet', .*'tensornet', .*'chgnet' or 'module:factory'"
    ):
        get_calculator(name)


@pytest.mark.parametrize("option", [{"dtype": "float16"}, {"dtype": "double"}, {"threads": 0}, {"threads": -1}])
@pytest.mark.parametrize("name", ["m3gnet", "chgnet", "ase.calculators.emt:EMT"])
def test_bad_options_are_refused(name, option):
    with pytest.raises(CalculatorError, match=r"must be 'float32' or 'float64'|must be 1 or more"):
        get_calculator(name, **option)


def test_options_that_are_given_reach_the_factory(tmp_path, monkeypatch):
    (tmp_path / "my_dft.py").write_text(
        "from ase.calculators.emt import EMT\nasked = []\ndef make(**options):\n    asked.append(options)\n"
        "    return EMT()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    get_calculator("my_dft:make")
    get_calculator("my_dft:make", device="cuda", dtype="float64", threads=2, kpts=3)
    assert sys.modules["my_dft"].asked == [{}, {"dtype": "float64", "threads": 2, "kpts": 3}]


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("no_such_module_anywhere:EMT", "PYTHONPATH"),
        ("ase.calculators.emt:Emt", "has no 'Emt'"),
        ("math:pi", "gave a float; it must be an ASE calculator class"),
        ("builtins:dict", "gave a dict"),
    ],
)
def test_bad_factories_are_refused(name, mend):
    with pytest.raises(CalculatorError, match=mend):
        get_calculator(name)


# M3GNet


@needs_m3gnet
def test_m3gnet_in_units_of_ase(capfd):
    calculator = get_calculator(f"M3GNet:{M3GNET}")
    assert capfd.readouterr() == ("", "")
    assert_units_of_ase(calculator)


@needs_m3gnet
def test_m3gnet_is_found_by_the_environment_variable(monkeypatch):
    monkeypatch.setenv(M3GNET_VARIABLE, str(M3GNET))
    salt = distorted_salt()
    salt.calc = get_calculator("m3gnet")
    named = distorted_salt()
    named.calc = get_calculator(f"m3gnet:{M3GNET}")
    assert salt.get_potential_energy() == pytest.approx(named.get_potential_energy(), abs=1e-4)


@needs_m3gnet
def test_m3gnet_in_double_precision():
    """Rounding no longer hides an error: the derivatives agree to nine digits, and nothing is left set in float64."""
    calculator = get_calculator(str(M3GNET), dtype="float64")
    assert_units_of_ase(calculator, step=1e-5, rel=1e-6)
    assert calculator.results["forces"].dtype == np.float64
    assert matgl_and_torch_dtypes() == (torch.float32, np.float32, torch.float32)


@needs_m3gnet
def test_precisions_agree_and_live_side_by_side():
    energies = {}
    both = [get_calculator(str(M3GNET), dtype=dtype) for dtype in ("float32", "float64", "float32")]
    for calculator in (*both, *both):
        salt = distorted_salt()
        salt.calc = calculator
        energies.setdefault(calculator.dtype, set()).add(salt.get_potential_energy())
        salt.get_forces()
    single, double = energies["float32"], energies["float64"]
    assert len(double) == 1
    assert 0 < abs(single.pop() - double.pop()) < 1e-4


def matgl_and_torch_dtypes() -> tuple:
    import matgl

    return matgl.float_th, matgl.float_np, torch.get_default_dtype()


@needs_m3gnet
def test_dtype_is_put_back_after_an_error():
    calculator = get_calculator(str(M3GNET), dtype="float64")
    atoms = bulk("Po", "sc", a=3.3)  # not among the elements of M3GNet
    atoms.calc = calculator
    with pytest.raises(KeyError):
        atoms.get_potential_energy()
    assert matgl_and_torch_dtypes() == (torch.float32, np.float32, torch.float32)


@needs_m3gnet
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
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


@needs_m3gnet
@pytest.mark.parametrize(("threads", "used"), [(None, 3), (1, 1), (2, 2)])
def test_threads_are_those_of_the_calculation_alone(monkeypatch, threads, used):
    calculator = get_calculator(str(M3GNET), threads=threads)
    seen, forward = [], calculator.potential.forward

    def spy(*args, **kwargs):
        seen.append(torch.get_num_threads())
        return forward(*args, **kwargs)

    monkeypatch.setattr(calculator.potential, "forward", spy)
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


PRETRAINED = [
    ("m3gnet", M3GNET_POTENTIAL, "DEEPRELAX_M3GNET"),
    ("TensorNet", TENSORNET_POTENTIAL, "DEEPRELAX_TENSORNET"),
]


@needs_dgl
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

    torch.manual_seed(1)
    network = TensorNet(element_types=("Na", "Cl"), units=8, nblocks=1, num_rbf=4, is_intensive=False)
    return Potential(model=network, data_std=5.0, calc_stresses=True)


@needs_dgl
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


@needs_dgl
def test_tensornet_in_units_of_ase(tmp_path, small_tensornet):
    small_tensornet.save(tmp_path / "mine")
    calculator = get_calculator(f"tensornet:{tmp_path / 'mine'}", dtype="float64")
    assert_units_of_ase(calculator, step=1e-4, rel=1e-4, forces_above=1e-3)


@needs_dgl
def test_a_network_without_forces_is_refused(tmp_path, small_tensornet):
    small_tensornet.model.save(tmp_path / "bare")
    with pytest.raises(CalculatorError, match="holds a TensorNet, which is no potential"):
        get_calculator(str(tmp_path / "bare"))


@needs_dgl
def test_damaged_potential_is_refused(tmp_path, capfd):
    for name in ("model.json", "model.pt", "state.pt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CalculatorError, match="cannot load the potential in"):
        get_calculator(f"m3gnet:{tmp_path}")
    assert capfd.readouterr() == ("", "")  # MatGL prints the traceback itself


@pytest.mark.parametrize("package", ["matgl", "dgl"])
def test_missing_matgl_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CalculatorError, match=r'pip install "deeprelax-ase\[matgl\]"'):
        get_calculator("m3gnet")


# CHGNet


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")  # in CHGNet's own code
def test_chgnet_in_units_of_ase(capfd):
    pytest.importorskip("chgnet")
    calculator = get_calculator("chgnet", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert_units_of_ase(calculator)


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


def test_missing_chgnet_says_what_to_install(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "chgnet" or name.endswith(".chgnet")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "chgnet", None)
    with pytest.raises(CalculatorError, match=r'pip install "deeprelax-ase\[chgnet\]"'):
        get_calculator("chgnet")
