from __future__ import annotations

import sys

import pytest
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from deeprelax_ase.calculators import (
    get_batched,
    get_calculator,
)
from deeprelax_ase.errors import CalculatorError

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


@pytest.mark.parametrize("name", ["vasp", "", "none:x", ":EMT", ".emt:EMT", "a b:c", "ase.calculators.emt:"])
def test_unknown_names_are_refused(name):
    with pytest.raises(
        CalculatorError, match=r"must be one of 'none', 'm3gnet', .*'tensornet', .*'sevennet' or 'module:factory'"
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


def test_a_factory_that_knows_devices_is_told_which_one(tmp_path, monkeypatch):
    (tmp_path / "my_potential.py").write_text(
        "from ase.calculators.emt import EMT\nasked = []\ndef make(device='where it likes'):\n"
        "    asked.append(device)\n    return EMT()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for device in ("cpu", "cuda", "auto"):
        get_batched("my_potential:make", device=device)
    assert sys.modules["my_potential"].asked == ["cpu", "cuda", "where it likes"]


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("no_such_module_anywhere:EMT", "PYTHONPATH"),
        ("ase.calculators.emt:Emt", "has no 'Emt'"),
        ("math:pi", "gave an object of float; it must be an ASE calculator class"),
        ("builtins:dict", "gave an object of dict"),
    ],
)
def test_bad_factories_are_refused(name, mend):
    with pytest.raises(CalculatorError, match=mend):
        get_calculator(name)
