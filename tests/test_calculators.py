from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from deeprelax_ase import calculators
from deeprelax_ase._matgl import import_matgl
from deeprelax_ase.calculators import M3GNET_MODEL, get_calculator
from deeprelax_ase.errors import CalculatorError

M3GNET = Path(__file__).parents[2] / "shared" / "models" / M3GNET_MODEL

needs_dgl = pytest.mark.skipif(find_spec("dgl") is None, reason="DGL has no wheel for this Python")
needs_m3gnet = pytest.mark.skipif(
    find_spec("dgl") is None or not M3GNET.is_dir(),
    reason="needs DGL, and M3GNet in the data folder beside the repository",
)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(calculators.M3GNET_VARIABLE, raising=False)


def distorted_salt() -> Atoms:
    rng = np.random.default_rng(5)
    atoms = bulk("NaCl", "rocksalt", a=5.8, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += 0.15 * rng.normal(size=atoms.positions.shape)
    return atoms


def assert_units_of_ase(calculator) -> None:
    """Forces and stress are the derivatives of the energy, in eV/Å and eV/Å³ and in ASE's sign and order."""
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

    h = 4e-3  # the potentials compute in float32: a smaller step drowns in rounding
    assert np.abs(forces).max() > 0.1
    assert (energy(h, 0) - energy(-h, 0)) / (2 * h) == pytest.approx(-np.sum(forces * direction), rel=0.02)
    assert np.abs(stress).max() > 1e-3
    assert (energy(0, h) - energy(0, -h)) / (2 * h) == pytest.approx(volume * np.sum(stress * strain), rel=0.02)


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
    with pytest.raises(CalculatorError, match=r"must be one of 'none', 'm3gnet', .*'chgnet' or 'module:factory'"):
        get_calculator(name)


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
    monkeypatch.setenv(calculators.M3GNET_VARIABLE, str(M3GNET))
    salt = distorted_salt()
    salt.calc = get_calculator("m3gnet")
    named = distorted_salt()
    named.calc = get_calculator(f"m3gnet:{M3GNET}")
    assert salt.get_potential_energy() == pytest.approx(named.get_potential_energy(), abs=1e-4)


@needs_dgl
def test_m3gnet_is_left_to_matgl_otherwise(monkeypatch):
    matgl = import_matgl()
    asked = []

    def load_model(path):
        asked.append(path)
        raise RuntimeError("no network")

    monkeypatch.setattr(matgl, "load_model", load_model)
    with pytest.raises(CalculatorError, match=r"set DEEPRELAX_M3GNET to it or say 'm3gnet:FOLDER'; or use 'chgnet'"):
        get_calculator("m3gnet")
    assert asked == [M3GNET_MODEL]


@pytest.mark.parametrize("by_variable", [True, False])
def test_folder_without_a_potential_is_refused(tmp_path, monkeypatch, by_variable):
    (tmp_path / "model.json").touch()
    monkeypatch.setenv(calculators.M3GNET_VARIABLE, str(tmp_path))
    with pytest.raises(CalculatorError, match=r"model\.pt, state\.pt missing"):
        get_calculator("m3gnet" if by_variable else f"m3gnet:{tmp_path}")


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


def test_missing_chgnet_says_what_to_install(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "chgnet"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "chgnet", None)
    with pytest.raises(CalculatorError, match=r'pip install "deeprelax-ase\[chgnet\]"'):
        get_calculator("chgnet")
