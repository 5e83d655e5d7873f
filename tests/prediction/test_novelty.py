"""Novelty of crystals under the shipped models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.outliers import cut_free, scaled
from deeprelax_ase.graph import build_graph
from deeprelax_ase.models.model import Model
from deeprelax_ase.models.registry import available_models
from deeprelax_ase.prediction.inference import atom_scalars, relax
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.uncertainty.novelty import Novelty
from tests.crystals import CRYSTALS, every_crystal, perovskite, rotation


@pytest.fixture(scope="module")
def model(shipped) -> Model:
    return shipped("DeepRelax-PBE")


@pytest.mark.parametrize("name", [card.name for card in available_models() if card.novelty])
def test_no_shipped_model_finds_plain_crystals_novel(shipped, name: str):
    atoms = [bulk("NaCl", "rocksalt", a=5.64), bulk("MgO", "rocksalt", a=4.21), bulk("Si"), bulk("Cu"), perovskite()]
    assert (novelty_of(shipped(name), *map(Crystal.of, atoms)) < 0.1).all()


def novelty_of(model: Model, *crystals: Crystal) -> np.ndarray:
    """(n,) the novelty of each, all in one batch."""
    graph = build_graph(crystals, settings=model.config.graph)
    novelty = Novelty.from_tensors(model.novelty)
    return novelty.of(atom_scalars(model, graph), graph.numbers, graph.batch, len(crystals)).numpy()


@every_crystal
def test_it_is_the_same_turned_shifted_and_in_another_order(model: Model, crystal: Crystal):
    turn, order = rotation(3), np.random.default_rng(2).permutation(len(crystal))
    moved = (crystal.positions + np.array([0.3, -1.7, 2.9]))[order] @ turn.T
    same = Crystal(crystal.numbers[order], moved, crystal.cell @ turn.T)
    np.testing.assert_allclose(novelty_of(model, same), novelty_of(model, crystal), rtol=2e-3)


@every_crystal
def test_it_is_the_same_of_a_supercell(model: Model, crystal: Crystal):
    supercell = Crystal.of(crystal.to_atoms().repeat((2, 1, 1)))
    np.testing.assert_allclose(novelty_of(model, supercell), novelty_of(model, crystal), rtol=2e-3)


def test_a_batch_is_its_crystals(model: Model):
    together = novelty_of(model, *CRYSTALS.values())
    alone = [novelty_of(model, crystal)[0] for crystal in CRYSTALS.values()]
    np.testing.assert_allclose(together, alone, rtol=2e-3)


def test_known_crystals_are_within_and_others_beyond_the_limit(model: Model):
    known = [bulk("NaCl", "rocksalt", a=5.5), bulk("MgO", "rocksalt", a=4.21), perovskite(), bulk("Si"), bulk("Cu")]
    assert (novelty_of(model, *map(Crystal.of, known)) < 0.1).all()
    silicon, copper, oxide = (Crystal.of(atoms) for atoms in (bulk("Si"), bulk("Cu"), perovskite()))
    strange = [scaled(silicon, 3.0), scaled(copper, 0.5), scaled(oxide, 0.4)]
    assert (novelty_of(model, *strange) > 1).all()
    assert novelty_of(model, cut_free(silicon, [0, 1], 12.0))[0] > 0.1  # a wire: most, not all, are beyond 1


@pytest.mark.parametrize("name", [card.name for card in available_models() if card.novelty])
def test_every_shipped_model_finds_molecules_novel(shipped, name: str):
    molecules = [molecule(formula, vacuum=6.0, pbc=True) for formula in ("H2O", "CH3CH2OH", "NaCl", "Si2")]
    assert (novelty_of(shipped(name), *map(Crystal.of, molecules)) > 1).all()


def test_table_relaxer_reads_the_unrelaxed_crystal_once(model: Model):
    graph = build_graph([CRYSTALS["rattled perovskite"]], settings=model.config.graph, dtype=torch.float64)
    assert torch.equal(relax(model, graph).scalars, atom_scalars(model, graph))


def test_a_prediction_tells_it_with_its_errors(model: Model):
    predictor = Predictor(model, device="cpu")
    known, strange = CRYSTALS["rocksalt"], scaled(Crystal.of(bulk("Si")), 3.0)
    near, far = predictor.predict_many([known, strange])
    assert near.error.novelty == pytest.approx(novelty_of(model, known)[0], rel=2e-3)
    assert near.error.novelty < 1 < far.error.novelty
    assert (near.error.ood, far.error.ood) == (False, True)
    assert far.info["deeprelax_novelty"] == far.error.novelty


def test_fewer_members_change_nothing_of_it(model: Model):
    graph = build_graph([CRYSTALS["rocksalt"]], settings=model.config.graph, dtype=torch.float64)
    one = Model(model.card, model.networks[:1], model.novelty)
    assert torch.equal(relax(one, graph).scalars, relax(model, graph).scalars)
