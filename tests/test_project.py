"""The project's files agree with each other and with the code."""

from __future__ import annotations

import ast
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from ase.io import read
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import deeprelax_ase
from deeprelax_ase.graph.crystal_graph import rows_times_matrices

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()


def constraints(python: str = "3.11") -> dict[str, str]:
    """Pinned versions for a version of Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    assert len({pin.name for pin in here}) == len(here)
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in here}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True, timeout=120)


def requirements(without: str = "") -> list[Requirement]:
    """Return what the package and its extras ask for of others, ``without`` one of the extras."""
    extras = [group for name, group in PROJECT["project"]["optional-dependencies"].items() if name != without]
    found = [Requirement(text) for group in (PROJECT["project"]["dependencies"], *extras) for text in group]
    return [requirement for requirement in found if requirement.name != PROJECT["project"]["name"]]


class TestVersions:
    def test_the_package_says_which_it_is(self):
        assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "deeprelax_ase.__version__"}

    def test_the_changelog_has_an_entry(self):
        changelog = (ROOT / "CHANGELOG.md").read_text()
        headings = re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)
        assert headings[:2] == ["Unreleased", deeprelax_ase.__version__]

    def test_the_installed_metadata_is_current(self):
        try:
            installed = importlib.metadata.version("deeprelax-ase")
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("deeprelax-ase is not installed, only imported from here")
        assert installed == deeprelax_ase.__version__


class TestConstraints:
    @pytest.mark.parametrize(("python", "without"), [("3.11", "matgl"), ("3.12", "dgl")])
    def test_every_requirement_is_pinned_within_its_range(self, python, without):
        """Of the two that bring MatGL, one for each Python."""
        pins = constraints(python)
        for requirement in requirements(without):
            if requirement.marker is not None and not requirement.marker.evaluate({"python_version": python}):
                continue  # for another Python than that of the pins
            assert requirement.specifier.contains(pins[normalized(requirement.name)]), requirement

    def test_torch_comes_first_without_a_local_version(self):
        assert re.fullmatch(r"\d+\.\d+\.\d+", constraints()["torch"])
        assert next(iter(constraints())) == "torch"

    def test_every_pin_is_one_exact_version(self):
        assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in constraints())
        assert not any("+" in version for version in constraints().values())

    def test_the_malicious_lightning_releases_are_excluded(self):
        found = [requirement for requirement in requirements() if requirement.name == "lightning"]
        assert found
        for lightning in found:
            assert not lightning.specifier.contains("2.6.2")
            assert not lightning.specifier.contains("2.6.3")


class TestPackaging:
    def test_the_extra_of_all_is_made_of_extras(self):
        extras = PROJECT["project"]["optional-dependencies"]
        (everything,) = map(Requirement, extras["all"])
        assert normalized(everything.name) == PROJECT["project"]["name"]
        assert everything.extras <= set(extras) - {"all"}

    def test_the_recipe_for_conda_asks_for_what_the_package_asks_for(self):
        recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
        assert recipe["context"]["version"] == deeprelax_ase.__version__
        lines = (line.replace("pytorch ", "torch ").partition(" ") for line in recipe["requirements"]["run"])
        asked = {name: SpecifierSet(versions) for name, _, versions in lines if name != "python"}
        wanted = (Requirement(text) for text in PROJECT["project"]["dependencies"])
        assert asked == {requirement.name: requirement.specifier for requirement in wanted}
        python = PROJECT["project"]["requires-python"]
        assert python == f">={recipe['context']['python_min']}"


class TestImport:
    def test_importing_the_package_is_light(self):
        heavy = "{'torch', 'dgl', 'matgl', 'ase', 'numpy', 'scipy', 'pymatgen'} & set(sys.modules)"
        assert run(f"import sys, deeprelax_ase; print(*{heavy})").stdout == "\n"

    @pytest.mark.slow
    def test_public_names_resolve(self):
        run("import deeprelax_ase as d; [getattr(d, name) for name in d.__all__]")

    def test_public_names_are_there(self):
        assert all(hasattr(deeprelax_ase, name) for name in deeprelax_ase.__all__)

    def test_every_room_names_what_is_public(self):
        rooms = [module.name for module in pkgutil.iter_modules(deeprelax_ase.__path__) if module.ispkg]
        assert "labelling" in rooms
        for room in set(rooms) - {"cli"}:  # a command line, whose names are its commands
            assert import_module(f"deeprelax_ase.{room}").__all__, room

    def test_type_hints_are_shipped(self):
        assert (ROOT / "deeprelax_ase" / "py.typed").is_file()

    def test_unknown_names_are_attribute_errors(self):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = deeprelax_ase.nothing


class TestDocstrings:
    def test_none_begins_with_a_clause_that_has_no_verb(self):
        clause = re.compile(r"(What|Those|That|How|Where|Who|Whose|Which|Why|When)\b")
        for file in sorted((ROOT / "deeprelax_ase").rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                first = (ast.get_docstring(node) or "").partition("\n")[0] if documented else ""
                assert not clause.match(first), f"{file.relative_to(ROOT)}: say what it is or does, not {first!r}"


class TestReadme:
    def test_the_first_lines_relax_a_crystal(self, capsys):
        code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL).group(1)
        assert len(code.splitlines()) == 6
        exec(code, {})
        output = capsys.readouterr().out.splitlines()[-1]  # the log comes first
        *lengths_and_angles, uncertainty = map(float, re.findall(r"\d+\.?\d*", output))
        assert len(lengths_and_angles) == 6
        assert 2.8 < lengths_and_angles[0] < 3.2  # MgO's primitive cell: 2.98 Å measured, 3.18 Å at the start
        assert 0 < uncertainty < 1

    def test_it_is_short(self):
        assert len(README.split()) <= 1000
        assert len(re.findall(r"^\|[ :|-]+\|$", README, flags=re.MULTILINE)) == 1  # tables

    def test_the_badges_are_true(self):
        named = [text.rpartition(" ")[2] for text in PROJECT["project"]["classifiers"] if " :: 3." in text]
        assert " | ".join(named) in (ROOT / "docs" / "_static" / "python.svg").read_text()
        assert f">{PROJECT['project']['license']}<" in (ROOT / "docs" / "_static" / "licence.svg").read_text()

    def test_the_version_to_cite_is_this_one(self):
        cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)[1]
        assert cited == deeprelax_ase.__version__

    def test_the_make_targets_exist(self):
        makefile = (ROOT / "Makefile").read_text()
        for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target

    def test_the_extras_exist(self):
        extras = PROJECT["project"]["optional-dependencies"]
        table = (ROOT / "docs" / "installation.md").read_text().partition("| extra | adds |")[2].partition("\n\n")[0]
        assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(extras)


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """``examples/relax_crystal.py`` as a module."""
    spec = spec_from_file_location("relax_crystal", ROOT / "examples" / "relax_crystal.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


class TestExample:
    def test_the_file_for_the_command_line_holds_the_same_crystals(self, example):
        stored = read(ROOT / "examples" / "unrelaxed.extxyz", index=":")
        made = example.candidates()
        assert len(stored) == len(made)
        for atoms, candidate in zip(stored, made, strict=True):
            assert atoms.info["name"] == f"{candidate.formula} in the cell of {candidate.prototype}"
            assert atoms.numbers.tolist() == candidate.atoms.numbers.tolist()
            np.testing.assert_allclose(atoms.positions, candidate.atoms.positions, rtol=0, atol=1e-7)
            np.testing.assert_allclose(atoms.cell.array, candidate.atoms.cell.array, rtol=0, atol=1e-12)

    def test_the_crystals_are_what_they_are_called(self, example):
        for candidate in example.candidates():
            formula = candidate.atoms.symbols.formula
            assert formula.reduce()[0].count() == type(formula)(candidate.formula).count()

    def test_the_crystals_start_off_their_measured_lattice(self, example):
        for candidate in example.candidates():
            assert 0.02 < abs(example.volume_error(candidate.atoms, candidate)) < 0.4

    def test_volume_error_of_the_measured_lattice_is_zero(self, example):
        (candidate,) = (entry for entry in example.candidates() if entry.formula == "AlN")
        atoms = candidate.atoms.copy()
        cellpar = atoms.cell.cellpar()
        cellpar[:3] = candidate.measured
        atoms.set_cell(cellpar, scale_atoms=True)
        assert example.volume_error(atoms, candidate) == pytest.approx(0, abs=1e-12)
        assert example.lattice(atoms) == "3.11 4.98"


class TestShapes:
    """Checks of tensors' shapes are on where they are asked for."""

    @pytest.mark.shapes
    def test_they_are_checked_where_a_test_is_marked(self):
        with pytest.raises(TypeCheckError):
            rows_times_matrices(torch.zeros(2, 3), torch.zeros(1, 3, 3))

    def test_they_are_not_elsewhere(self):
        assert rows_times_matrices(torch.zeros(2, 3), torch.zeros(1, 3, 3)).shape == (2, 3)
