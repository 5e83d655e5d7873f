from __future__ import annotations

import os
import pickle
import sys
import warnings

import pytest
import torch
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from deeprelax_ase.calculators import get_batched, get_calculator, scope
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


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("{folder}/own_forces.py:make", "PYTHONPATH={folder} and 'own_forces:make'"),
        ("{folder}/own_forces.py", "PYTHONPATH={folder} and 'own_forces:FACTORY'"),
        ("own_forces.py:make", "PYTHONPATH=. and 'own_forces:make'"),
        ("own_forces.py", "PYTHONPATH=. and 'own_forces:FACTORY'"),
        ("{folder}/network.pth", "is a file, and a path must be the folder .* give 'module:function'"),
        ("network.pth", "is a file, and a path must be the folder .* give 'module:function'"),
    ],
)
def test_a_file_in_a_calculators_place_is_told_how_it_is_named(name, mend, tmp_path, monkeypatch):
    """It is not run: a path may come from elsewhere."""
    (tmp_path / "own_forces.py").write_text("raise SystemExit('run')\n")
    (tmp_path / "network.pth").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CalculatorError, match=mend.format(folder=tmp_path)):
        get_batched(name.format(folder=tmp_path))


def test_how_torch_reads_pickles_is_as_before_once_a_potential_is_there(tmp_path, monkeypatch):
    """MACE sets this variable when it is imported; its files need it each time, and nothing else should have it."""
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(scope, "_wanted", {})
    for module, opens in (("lets_all_run", f"os.environ['{variable}'] = '1'"), ("reads_its_file", "")):
        (tmp_path / f"{module}.py").write_text(
            f"import os\nimport torch\nfrom ase.calculators.emt import EMT\n{opens}\n"
            f"def make():\n    torch.load('{tmp_path}/whole.pt')\n    return EMT()\n"
        )
    torch.save(EMT(), tmp_path / "whole.pt")  # code in a pickle
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CalculatorError, match="UnpicklingError"):
        get_calculator("reads_its_file:make")
    with warnings.catch_warnings(action="ignore"):  # torch tells of the variable
        for name in ("lets_all_run:make", "lets_all_run:make", "reads_its_file:make"):
            assert isinstance(get_calculator(name), EMT)
            assert variable not in os.environ
            with pytest.raises(pickle.UnpicklingError):
                torch.load(tmp_path / "whole.pt")
        monkeypatch.setenv(variable, "0")  # as the user has it
        get_calculator("lets_all_run:make")
        assert os.environ[variable] == "0"
