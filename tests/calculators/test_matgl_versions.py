"""Potentials of one version of MatGL under another, and those that its hub hands out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, mx2

from deeprelax_ase.calculators import (
    M3GNET_POTENTIAL,
    get_batched,
    get_calculator,
    load_m3gnet,
    model_for,
    potential_name,
)
from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS, digest_of
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.graph.matgl_import import import_matgl
from deeprelax_ase.models.registry import DEFAULT_MODEL, M3GNET_RELAX_MODEL
from tests.calculators.units import (
    M3GNET,
    assert_units_of_ase,
    distorted_salt,
    needs_dgl,
    needs_m3gnet,
    needs_matgl,
    needs_newer,
    needs_weights,
)

#: Where the version of MatGL is asked for.
RUNS_ON_DGL = "deeprelax_ase.calculators.potentials.runs_on_dgl"


def small_potential(seed: int = 0, architecture: str = "M3GNet"):
    """A potential of MatGL's for four elements, with the weights that it is born with."""
    import_matgl()
    import matgl.models
    from matgl.apps.pes import Potential

    torch.manual_seed(seed)
    sizes = {"TensorNet": {"units": 8, "nblocks": 1, "num_rbf": 4}, "M3GNet": {"units": 8, "nblocks": 1}}[architecture]
    network = getattr(matgl.models, architecture)
    elements = ("Na", "Cl", "Mo", "S")
    return Potential(network(element_types=elements, is_intensive=False, **sizes), data_std=5.0, calc_stresses=True)


# M3GNet-MP-2021.2.8-PES without DGL


@pytest.fixture
def own_m3gnet(monkeypatch):
    """``own_m3gnet(**options)``: the calculator that its folder gives where DGL is not installed."""
    monkeypatch.setattr(RUNS_ON_DGL, lambda: False)
    return lambda **options: get_calculator(f"m3gnet:{M3GNET}", **options)


@needs_weights
@pytest.mark.parametrize("absent", ["matgl", "dgl"])
def test_it_needs_no_matgl(own_m3gnet, monkeypatch, absent):
    """And is computed where MatGL 2 lacks its DGL, as on Python 3.12."""
    monkeypatch.setattr(RUNS_ON_DGL, lambda: absent == "dgl")
    monkeypatch.setitem(sys.modules, absent, None)
    calculator = own_m3gnet()
    assert calculator.name == "m3gnet"
    assert potential_name(calculator) == M3GNET_POTENTIAL
    assert model_for(calculator) == M3GNET_RELAX_MODEL
    assert_units_of_ase(calculator)


@needs_m3gnet
@pytest.mark.parametrize(("dtype", "off"), [pytest.param("float32", 2e-5, marks=pytest.mark.slow), ("float64", 1e-5)])
def test_it_equals_that_of_matgl_2(own_m3gnet, monkeypatch, dtype, off):
    ours = own_m3gnet(dtype=dtype)
    monkeypatch.undo()
    theirs = get_calculator(f"m3gnet:{M3GNET}", dtype=dtype)
    layer = mx2("MoS2", vacuum=8)
    layer.rattle(0.05, seed=1)
    for atoms in (distorted_salt(), bulk("Cu"), layer):
        found = []
        for calculator in (ours, theirs):
            atoms.calc = calculator
            found.append(
                np.concatenate([[atoms.get_potential_energy()], atoms.get_forces().ravel(), atoms.get_stress()])
            )
        np.testing.assert_allclose(found[0] / len(atoms), found[1] / len(atoms), rtol=0, atol=off)


@needs_weights
def test_it_refuses_elements_that_it_does_not_know(own_m3gnet):
    atoms = bulk("Po", "sc", a=3.3)
    atoms.calc = own_m3gnet()
    with pytest.raises(CalculatorError, match="does not know Po"):
        atoms.get_potential_energy()


# Layers and wires


@pytest.fixture(params=["MatGL", "ours"])
def either(request, tmp_path, monkeypatch):
    """A calculator of MatGL's, whatever its version, and ours."""
    if request.param == "ours":
        if not M3GNET.is_dir():
            pytest.skip("needs M3GNet")
        return request.getfixturevalue("own_m3gnet")(dtype="float64")
    request.getfixturevalue("needs_matgl")
    small_potential().save(tmp_path / "mine")
    return get_calculator(str(tmp_path / "mine"), dtype="float64")


def layer(pbc) -> Atoms:
    atoms = mx2("MoS2", vacuum=8)
    atoms.rattle(0.05, seed=1)
    atoms.pbc = pbc
    return atoms


@pytest.mark.parametrize("moved", [pytest.param(0, marks=pytest.mark.slow), 13.7])
def test_a_layer_is_no_molecule(either, moved):
    """As it is with enough vacuum, and whatever the length of the vector out of it."""
    crystal, alone, short = layer(True), layer((True, True, False)), layer((True, True, False))
    short.cell[2] *= 0.2
    alone.positions[:, 2] += moved
    for atoms in (crystal, alone, short):
        atoms.calc = either
        atoms.get_forces()
        stress = atoms.get_stress() * atoms.get_volume()
        np.testing.assert_allclose(atoms.get_potential_energy(), crystal.get_potential_energy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), crystal.get_forces(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(stress, crystal.get_stress() * crystal.get_volume(), rtol=0, atol=1e-4)


def test_a_layer_without_a_third_vector_has_no_stress(either):
    atoms = layer((True, True, False))
    atoms.cell[2] = 0
    atoms.calc = either
    atoms.get_forces()
    assert "stress" not in either.results


def test_a_layer_is_computed_once(either, monkeypatch):
    atoms = layer((True, True, False))
    atoms.calc = either
    atoms.get_forces()
    assert either.atoms == atoms
    assert not either.calculation_required(atoms, ["energy", "forces", "stress"])


def test_a_wire_is_no_molecule(either):
    wire = Atoms("MoS", positions=[[0, 0, 0], [0, 0.4, 2.4]], cell=[12, 12, 4.9], pbc=(False, False, True))
    inside = wire.copy()
    inside.pbc = True
    energies = []
    for atoms in (wire, inside):
        atoms.calc = either
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)


# Of another version


@pytest.mark.parametrize(
    "modules", [("matgl.apps._pes_dgl", "matgl.models._m3gnet"), ("a", "b._tensornet_dgl"), ("a", "b._tensornet_pyg")]
)
def test_what_matgl_2_stored_is_refused_by_later_versions(tmp_path, monkeypatch, modules):
    """They would load it without a word, and compute other energies."""
    monkeypatch.setattr(RUNS_ON_DGL, lambda: False)
    for name in ("model.pt", "state.pt"):
        (tmp_path / name).touch()
    stored = {"@module": modules[0], "kwargs": {"model": {"@module": modules[1], "init_args": {}}}}
    (tmp_path / "model.json").write_text(json.dumps(stored))
    with pytest.raises(CalculatorError, match=r'was stored by MatGL 2, .*pip install "deeprelax-ase\[dgl\]"'):
        get_calculator(str(tmp_path))


@needs_dgl
def test_what_it_stores_says_so(tmp_path, monkeypatch):
    """The real files, as the version that is installed writes them."""
    small_potential().save(tmp_path)
    monkeypatch.setattr(RUNS_ON_DGL, lambda: False)
    with pytest.raises(CalculatorError, match="was stored by MatGL 2"):
        get_calculator(str(tmp_path))


@needs_dgl
def test_other_weights_under_the_name_of_m3gnet_are_refused(monkeypatch):
    """The hub has new ones under old names."""
    monkeypatch.setattr(import_matgl(), "load_model", lambda name: small_potential())
    with pytest.raises(CalculatorError, match=r"are other weights, .*DEEPRELAX_M3GNET"):
        get_calculator("m3gnet")


@needs_newer
def test_ours_does_not_take_that_of_a_newer_version(tmp_path):
    """Its weights are as many and as large, and mean something else."""
    import_matgl()
    from matgl.apps.pes import Potential
    from matgl.models import M3GNet

    Potential(M3GNet(element_types=("Na", "Cl"), is_intensive=False)).save(tmp_path)
    with pytest.raises(CalculatorError, match="does not say that MatGL 2 stored it"):
        load_m3gnet(tmp_path)
    assert get_batched(f"m3gnet:{tmp_path}").one_by_one


@needs_dgl
def test_ours_takes_one_of_your_own_of_matgl_2(tmp_path):
    import_matgl()
    from matgl.apps.pes import Potential
    from matgl.models import M3GNet

    theirs = Potential(M3GNet(element_types=("Na", "Cl"), is_intensive=False), element_refs=torch.tensor([1.0, 2.0]))
    theirs.save(tmp_path)
    assert load_m3gnet(tmp_path).weights_digest == digest_of(theirs.state_dict()) != M3GNET_WEIGHTS


# The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> list[str]:
    """Names that MatGL asks its hub for, which has the same small potential under each."""
    small_potential().save(tmp_path / "there")
    asked = []

    def download(repo_id: str, filename: str, **options) -> str:
        asked.append(repo_id)
        return str(tmp_path / "there" / filename)

    monkeypatch.setattr("matgl.utils.io.hf_hub_download", download)
    return asked


@needs_newer
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("m3gnet", "materialyze/M3GNet-PES-MatPES-PBE-2025.2"),
        ("tensornet", "materialyze/TensorNet-PES-MatPES-PBE-2025.2"),
        ("matgl:M3GNet-PES-MatPES-r2SCAN-2025.2", "materialyze/M3GNet-PES-MatPES-r2SCAN-2025.2"),
        ("matgl:me/mine", "me/mine"),
        ("MatGL:M3GNet-MP-2021.2.8-PES", "materialyze/M3GNet-MP-2021.2.8-PES"),
    ],
)
def test_the_hub_is_asked_by_name(hub, name, found):
    """And whatever it hands out, it is not the weights whose minima we have learnt."""
    calculator = get_calculator(name)
    assert set(hub) == {found}
    known_as = found.removeprefix("materialyze/")
    assert potential_name(calculator).startswith(f"{known_as} ")
    assert model_for(calculator) == DEFAULT_MODEL
    assert_units_of_ase(get_calculator(name, dtype="float64"), step=1e-4, rel=1e-4, forces_above=1e-5)


@needs_matgl
def test_a_name_that_the_hub_does_not_have(monkeypatch):
    def load_model(path):
        raise ValueError("no such model")

    monkeypatch.setattr("requests.head", lambda *where, **options: None)
    monkeypatch.setattr(import_matgl(), "load_model", load_model)
    with pytest.raises(CalculatorError, match=r"neither has no-such in its cache .* and give it as the calculator"):
        get_calculator("matgl:no-such")


@needs_matgl
def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch, tmp_path):
    """Left to itself it is asked twelve times, with 46 seconds of pauses."""
    import_matgl()  # on its backend, before another import of it
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # whatever the tests were started with
    monkeypatch.setattr("matgl.utils.io.PRETRAINED_MODELS_BASE_URL", "http://127.0.0.1:9/", raising=False)
    monkeypatch.chdir(tmp_path)
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(CalculatorError, match=r"download it \(its hub does not answer\)\. Copy its folder"):
        get_calculator("matgl:no-such")
    assert not pauses
    assert before == constants.HF_HUB_OFFLINE


@needs_newer
@pytest.mark.parametrize("architecture", ["M3GNet", "TensorNet"])
def test_a_folder_of_its_own(tmp_path, architecture):
    small_potential(architecture=architecture).save(tmp_path / "mine")
    calculator = get_calculator(str(tmp_path / "mine"), dtype="float64")
    assert calculator.name == architecture.lower()
    assert potential_name(calculator).startswith(f"{architecture.lower()} ")
    assert_units_of_ase(calculator, step=1e-4, rel=1e-4, forces_above=1e-5)
    single = get_calculator(str(tmp_path / "mine"))
    energies = []
    for each in (calculator, single):
        salt = distorted_salt()
        salt.calc = each
        energies.append(salt.get_potential_energy())
    assert 0 < abs(energies[0] - energies[1]) < 1e-4
