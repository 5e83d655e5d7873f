"""What is never handed out: molecules and wires, collisions, fixed atoms that move; in each way to ask for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms, Hookean
from pymatgen.core import Lattice, Structure

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import ConstraintError, DeepRelaxError, UnphysicalPredictionError, VacuumError
from deeprelax_ase.graph import build_graph
from deeprelax_ase.models.model import Model
from deeprelax_ase.prediction.physical import Flaw, keep_physical
from deeprelax_ase.prediction.predictor import Predictor
from tests.geometry.structures import CRYSTALS, LAYERS, SLABS, boxed, chain
from tests.prediction.test_batching import Spoiled

GOOD = bulk("MgO", "rocksalt", a=4.4)


@pytest.fixture(scope="module")
def predictor(shipped) -> Predictor:
    return Predictor(shipped("DeepRelax-PBE"), device="cpu", members=1)


@pytest.fixture(params=["DeepRelax-PBE", "DeepRelax-PBE-v0"])
def each(request, shipped) -> Predictor:
    return Predictor(shipped(request.param), device="cpu", members=1)


def interstitial() -> Atoms:
    """Silicon with another atom 0.52 Å from one."""
    atoms = bulk("Si", cubic=True)
    atoms += Atoms("Si", positions=[atoms.positions[0] + 0.3])
    return atoms


@pytest.mark.parametrize("relax_cell", [None, pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (boxed("H2O", 8.0), r"a molecule.*all three directions.*8\.0 Å along a, 6\.5 Å along b, 7\.4 Å along c"),
        (boxed("CO2", 12.0), "a molecule.*calculator and an ASE optimizer"),
        (chain(), "a wire.*in two directions.*along a, 12.0 Å along b, 1.3 Å along c.*unit of the positions"),
    ],
)
def test_molecules_and_wires_are_refused(each, atoms: Atoms, words: str, relax_cell: bool | None):
    with pytest.raises(VacuumError, match=words):
        each.predict(atoms, relax_cell=relax_cell)
    made = list(each.predict_many([GOOD, atoms, GOOD], relax_cell=relax_cell))
    assert [isinstance(one, VacuumError) for one in made] == [False, True, False]
    np.testing.assert_allclose(made[0].relaxed.cell, each.predict(GOOD, relax_cell=relax_cell).relaxed.cell, atol=1e-6)


@pytest.mark.parametrize("name", ["dry ice", "graphite"])
def test_crystals_of_molecules_and_layers_are_not(predictor, name: str):
    assert np.isfinite(predictor.predict(CRYSTALS[name]()).relaxed.positions).all()


def test_colliding_atoms_are_never_handed_out(predictor):
    class Still(Spoiled):
        def stages(self, given):
            *_, (last, scalars) = self.network.stages(given)
            still = torch.zeros_like(last.displacements), torch.zeros_like(last.strain)
            yield replace(last, displacements=still[0], strain=still[1]), scalars

    networks = torch.nn.ModuleList(Still(network, "") for network in predictor.model.networks)
    still = Predictor(Model(predictor.model.card, networks), device="cpu")
    words = r"end 0\.52 Å apart, and relaxed crystals of their elements keep 1\.78 Å\. Atoms 0 and 8 are 0\.52 Å"
    with pytest.raises(UnphysicalPredictionError, match=words):
        still.predict(interstitial())


def test_a_network_that_lets_atoms_collide_costs_one_record(predictor):
    class Colliding(Spoiled):
        def stages(self, given):
            *_, (last, scalars) = self.network.stages(given)
            first = torch.searchsorted(given.batch, torch.arange(len(given.counts)))
            bad = given.numbers[first] == 55
            displacements = last.displacements.clone()
            displacements[first[bad]] += torch.tensor([3.0, 0.0, 0.0], dtype=displacements.dtype)
            yield replace(last, displacements=displacements), scalars

    networks = torch.nn.ModuleList(Colliding(network, "") for network in predictor.model.networks)
    spoiled = Predictor(Model(predictor.model.card, networks), device="cpu", recycles=1, keep_symmetry=False)
    chloride = Atoms("CsCl", positions=[[0, 0, 0], [3.5, 0, 0]], cell=[7.0, 5.0, 5.0], pbc=True)
    made = list(spoiled.predict_many([GOOD, chloride, GOOD]))
    assert [isinstance(one, UnphysicalPredictionError) for one in made] == [False, True, False]
    assert "atoms 0 and 1 end" in str(made[1])
    assert "Relax this crystal with a calculator" in str(made[1])


def test_a_start_that_is_too_dense_may_be_mended(predictor):
    """Two silicon atoms at two thirds of their bond, in a quarter of their volume."""
    relaxed = predictor.predict(bulk("Si", a=3.5)).relaxed
    assert relaxed.volume == pytest.approx(40.9, rel=0.1)


@pytest.mark.parametrize(
    ("harm", "flaw"), [("nan", Flaw.NOT_FINITE), ("burst", Flaw.VOLUME), ("collapse", Flaw.VOLUME), ("", Flaw.NONE)]
)
def test_each_flaw_has_its_name(harm: str, flaw: Flaw):
    graph = build_graph([Crystal.of(GOOD), Crystal.of(bulk("Cu"))])
    positions, cell = graph.positions.clone(), graph.cell.clone()
    if harm == "nan":
        positions[0, 1] = torch.nan
    elif harm:
        cell[0] = cell[0] * (3.0 if harm == "burst" else 0.3)
    kept, kept_cell, flaws = keep_physical(graph, positions, cell)
    assert flaws.tolist() == [flaw, Flaw.NONE]
    assert torch.equal(kept, graph.positions)
    assert torch.equal(kept_cell, graph.cell)


def fixed_structure(flags: list[list[bool] | None]) -> Structure:
    properties = {"selective_dynamics": flags}
    return Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]], site_properties=properties)


def test_constraints_that_cannot_be_kept_are_refused(predictor):
    atoms = GOOD.copy()
    atoms.set_constraint([FixAtoms([0]), Hookean(0, 1, rt=2.0, k=5.0)])
    with pytest.raises(ConstraintError, match=r"constraints \(Hookean\).*it keeps FixAtoms"):
        predictor.predict(atoms)
    made = list(predictor.predict_many([GOOD, atoms]))
    assert [isinstance(one, ConstraintError) for one in made] == [False, True]


def test_flags_that_fix_nothing_are_no_constraint(predictor):
    found = predictor.predict(fixed_structure([[True, True, True], None]))
    assert not isinstance(found, DeepRelaxError)


def test_slabs_keep_their_cell_unless_asked(each):
    slab, layer = SLABS["Al(111)"](), LAYERS["MoS2"]()
    slab.set_cell(slab.cell.array * [[1.03], [1.03], [1.0]], scale_atoms=True)
    layer.set_cell(layer.cell.array * [[1.03], [1.03], [1.0]], scale_atoms=True)
    kept, moved, bulk_crystal = each.predict_many([slab, layer, GOOD])
    assert kept.relaxed.cell.tobytes() == slab.cell.array.tobytes()
    asked = each.predict(slab, relax_cell=True)
    for made, atoms in ((moved, layer), (asked, slab)):
        np.testing.assert_allclose(made.relaxed.cell[2], atoms.cell.array[2], rtol=0, atol=1e-9)
        assert abs(np.linalg.norm(made.relaxed.cell[0]) - np.linalg.norm(atoms.cell[0])) > 1e-3
    assert bulk_crystal.relaxed.volume != GOOD.get_volume()
    if kept.error is not None:
        assert kept.error.volume is None
        assert bulk_crystal.error.volume is not None


def test_slabs_are_unlike_what_a_model_knows_that_has_learnt_none(shipped):
    model = shipped("DeepRelax-PBE")
    card = replace(model.card, config=model.card.config | {"reads_cell_freedom": False})
    assert Predictor(replace(model, card=card), device="cpu").predict(SLABS["Al(111)"]()).error.ood


@pytest.mark.parametrize("third", [[0, 0, 30.0], [0, 0, 0], [0, 0, 1.0]])
def test_layers_that_repeat_in_two_directions_are_the_same_layers(predictor, third: list[float]):
    atoms = LAYERS["MoS2"]()
    expected = predictor.predict(atoms).to_atoms(atoms)
    atoms.cell[2] = third
    atoms.pbc = (True, True, False)
    relaxed = predictor.predict(atoms).to_atoms(atoms)
    np.testing.assert_allclose(relaxed.positions, expected.positions, rtol=0, atol=1e-5)
    np.testing.assert_allclose(relaxed.cell.array[:2], expected.cell.array[:2], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(relaxed.cell.array[2], third)
    assert relaxed.pbc.tolist() == [True, True, False]
