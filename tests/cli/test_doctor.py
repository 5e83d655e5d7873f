"""``deeprelax doctor``, here and where things are missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deeprelax_ase.calculators.potentials import M3GNET_VARIABLE, TENSORNET_VARIABLE
from deeprelax_ase.cli import app
from deeprelax_ase.cli import doctor as command
from deeprelax_ase.models import available_models
from deeprelax_ase.models.loading import load_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (M3GNET_VARIABLE, TENSORNET_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Hides modules from those who look for them, as if they were not installed."""
    find = command.find_spec

    def hide(*names: str) -> None:
        monkeypatch.setattr(command, "find_spec", lambda name: None if name in names else find(name))

    return hide


def doctor(*options: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *options], env={"COLUMNS": "80"})


def facts(*options: str) -> tuple[int, dict]:
    result = doctor("--json", *options)
    return result.exit_code, json.loads(result.stdout)


class TestHere:
    def test_models_load_and_nothing_has_to_be_mended(self):
        code, found = facts()
        assert (code, found["healthy"], found["problems"]) == (0, True, [])
        assert found["models"] == {card.name: "loads" for card in available_models()}
        assert found["versions"]["torch"]
        assert re.fullmatch(r"\d+ cores, \d+ threads of torch, \d+ GiB of memory", found["devices"]["cpu"])

    def test_it_is_told_in_80_columns_with_whole_commands(self, without):
        without("gpaw", "sevenn", "matgl", "chgnet", "torch_sim")
        result = doctor()
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[-1] == "Nothing has to be mended."
        for extra in ("gpaw", "sevennet", "matgl", "chgnet", "torchsim", "torchsim,sevennet"):
            assert f'pip install "deeprelax-ase[{extra}]"' in result.stdout


#: Each model is loaded once by what asks for other things.
LOADED = cache(load_model)


class TestMissing:
    @pytest.fixture(autouse=True)
    def loaded_once(self, monkeypatch):
        monkeypatch.setattr("deeprelax_ase.models.loading.load_model", LOADED)

    def test_extras(self, without):
        without("plotly", "pyarrow")
        code, found = facts()
        assert code == 0
        assert found["extras"]["report"]["command"] == 'pip install "deeprelax-ase[report]"'
        assert found["extras"]["report"]["versions"]["plotly"] is None
        assert found["extras"]["screening"]["command"] == 'pip install "deeprelax-ase[screening]"'

    def test_potentials(self, without):
        without("matgl", "dgl", "sevenn", "chgnet")
        _, found = facts()
        states = {name: row["state"] for name, row in found["potentials"].items()}
        assert states == dict.fromkeys(("m3gnet", "tensornet", "chgnet", "sevennet"), "missing")
        assert f"or set {M3GNET_VARIABLE} to a folder" in found["potentials"]["m3gnet"]["how"]

    @pytest.mark.parametrize("module", ["torch", "spglib"])
    def test_what_nothing_works_without(self, without, module):
        without(module)
        code, found = facts()
        assert (code, found["healthy"]) == (1, False)
        assert found["problems"][0].startswith(f"{module} cannot be found: pip install ")

    def test_a_folder_that_holds_no_potential(self, monkeypatch, tmp_path):
        monkeypatch.setenv(M3GNET_VARIABLE, str(tmp_path))
        code, found = facts()
        assert code == 1
        assert "which lacks model.json, model.pt, state.pt" in found["problems"][0]
        result = doctor()
        assert result.exit_code == 1
        assert "To mend: m3gnet: " in result.stdout

    def test_the_folder_of_m3gnet_is_enough_for_it_alone(self, without, monkeypatch, tmp_path):
        for name in ("model.json", "model.pt", "state.pt"):
            (tmp_path / name).touch()
        for name in (M3GNET_VARIABLE, TENSORNET_VARIABLE):
            monkeypatch.setenv(name, str(tmp_path))
        without("matgl", "dgl")
        found = facts()[1]["potentials"]
        assert (found["m3gnet"]["state"], found["tensornet"]["state"]) == ("ready", "missing")

    def test_damaged_weights(self, monkeypatch, tmp_path):
        (tmp_path / "Mine.json").write_text("{}")
        monkeypatch.setattr("deeprelax_ase.models.registry.WEIGHTS", tmp_path)
        code, found = facts()
        assert code == 1
        assert found["problems"][0].startswith("Mine does not load: ")


def test_potentials_that_do_not_load(monkeypatch, tmp_path):
    for name in ("model.json", "model.pt", "state.pt"):
        (tmp_path / name).touch()
    monkeypatch.setenv(M3GNET_VARIABLE, str(tmp_path))
    monkeypatch.setattr("deeprelax_ase.cli.doctor.EXTRA_OF", {"m3gnet": ("matgl",)})
    code, found = facts("--load")
    assert code == 1
    assert found["potentials"]["m3gnet"]["state"] == "broken"
    assert str(tmp_path) in found["problems"][0]


def test_it_runs_where_imports_fail():
    """In a process that finds none of these, needed ones among them."""
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'torch', 'ase', 'scipy', 'matgl', 'pyarrow', 'plotly', 'pymatgen'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "sys.argv = ['deeprelax', 'doctor', '--json']\n"
        "from deeprelax_ase.cli import main\n"
        "main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, timeout=60)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == ["torch, ase, scipy cannot be found: pip install --force-reinstall deeprelax-ase"]
    assert found["extras"]["screening"]["command"] == 'pip install "deeprelax-ase[screening]"'


def test_extras_are_those_of_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, (_, modules) in command.EXTRAS.items():
        for distribution in modules:
            assert any(re.match(rf"{distribution}\b", asked) for asked in extras[name]), (name, distribution)
