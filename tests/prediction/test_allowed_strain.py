"""How a cell may move: what is kept is kept to the last bit, by both kinds of networks, or refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, mx2
from ase.units import GPa

from deeprelax_ase import AllowedStrain, DeepRelaxOptimizer
from deeprelax_ase.errors import ConstraintError
from deeprelax_ase.labelling import LabelOptions
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.screening.options import RelaxOptions
from tests.crystals import BY_DISTANCES, CRYSTALS, DISTORTED, END_TO_END

MASKS = [(1, 1, 0, 0, 0, 1), (0, 0, 1, 0, 0, 0), (1, 1, 1, 0, 0, 0), (0, 1, 1, 1, 0, 0), (1, 0, 0, 0, 0, 0)]


@pytest.fixture(scope="module", params=[END_TO_END, BY_DISTANCES])
def predictor(request, shipped) -> Predictor:
    return Predictor(shipped(request.param), device="cpu", leave_within_error=False)


def slow(masks: list) -> list:
    return [pytest.param(mask, marks=pytest.mark.slow) for mask in masks]


def layer() -> Atoms:
    return mx2("MoS2", a=3.3, vacuum=8)


@pytest.mark.parametrize("mask", [*MASKS[:2], *slow(MASKS[2:])], ids=str)
def test_masked_components_stay_to_the_last_bit(predictor, mask):
    for name in DISTORTED:
        crystal = CRYSTALS[name]
        made = predictor.predict(crystal, relax_cell=AllowedStrain(mask)).relaxed
        held = AllowedStrain(mask).matrix == 0
        deformation = np.linalg.solve(crystal.cell, made.cell)
        for axis in np.flatnonzero(held.all(axis=0)):
            np.testing.assert_array_equal(made.cell[:, axis], crystal.cell[:, axis], name)
        np.testing.assert_allclose(deformation[held], np.eye(3)[held], rtol=0, atol=1e-14)
        assert np.abs(deformation - np.eye(3)).max() > 1e-4, name


@pytest.mark.parametrize("mask", [(1, 1, 1, 1, 1, 1), MASKS[0], *slow(MASKS[1:4])], ids=str)
def test_the_volume_is_kept(predictor, mask):
    for name in DISTORTED:
        made = predictor.predict(CRYSTALS[name], relax_cell=AllowedStrain(mask, constant_volume=True))
        assert abs(made.volume_change) < 1e-10, name
        assert made.error is None or made.error.volume is None


def test_a_batch_is_as_one_alone(predictor):
    cell = AllowedStrain((1, 1, 0, 0, 0, 1), constant_volume=True)
    crystals = [CRYSTALS[name] for name in DISTORTED]
    for crystal, made in zip(crystals, predictor.predict_many([*crystals], relax_cell=cell), strict=True):
        alone = predictor.predict(crystal, relax_cell=cell)
        np.testing.assert_allclose(made.relaxed.cell, alone.relaxed.cell, atol=1e-3)
        np.testing.assert_allclose(made.relaxed.positions, alone.relaxed.positions, atol=1e-2)


def test_what_allows_all_or_nothing_is_the_plain_word(predictor):
    crystal = CRYSTALS[next(iter(DISTORTED))]
    for cell, word in ((AllowedStrain(), True), (AllowedStrain((0,) * 6), False)):
        one, other = (predictor.predict(crystal, relax_cell=asked).relaxed for asked in (cell, word))
        assert one.positions.tobytes() == other.positions.tobytes()
        assert one.cell.tobytes() == other.cell.tobytes()


def test_layers_are_strained_within_plane_and_mask(predictor):
    atoms = layer()
    before = atoms.cell.array
    made = predictor.predict(atoms, relax_cell=AllowedStrain((1, 0, 1, 0, 0, 0))).relaxed
    np.testing.assert_array_equal(made.cell[:, 1:], before[:, 1:])
    assert np.abs(made.cell[:, 0] - before[:, 0]).max() > 1e-4
    made = predictor.predict(atoms, relax_cell=AllowedStrain(constant_volume=True)).relaxed
    assert made.volume == pytest.approx(atoms.get_volume(), rel=1e-10)
    np.testing.assert_allclose(made.cell[2], before[2], rtol=0, atol=1e-12)


def test_a_mask_across_a_tilted_layer_is_refused(predictor):
    atoms = layer()
    atoms.rotate(30, "x", rotate_cell=True)
    mask = AllowedStrain((1, 1, 0, 0, 0, 1))
    with pytest.raises(ConstraintError, match="along no Cartesian axes"):
        predictor.predict(atoms, relax_cell=mask)
    with pytest.raises(ConstraintError, match="along no Cartesian axes"):
        DeepRelaxOptimizer(atoms, predictor=predictor, logfile=None, relax_cell=mask)
    made = predictor.predict(atoms, relax_cell=AllowedStrain(constant_volume=True)).relaxed
    assert made.volume == pytest.approx(atoms.get_volume(), rel=1e-10)


def test_layers_feel_no_pressure(shipped):
    from ase.calculators.emt import EMT

    atoms = layer()
    atoms.calc = EMT()
    with pytest.raises(ConstraintError, match=r"layer or slab.*it feels none"):
        DeepRelaxOptimizer(atoms, logfile=None, relax_cell=AllowedStrain(pressure=GPa))


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        ((1, 1, 1), "no symmetric choice"),
        ((1, 1, 1, 0, 0, 0.5), "no symmetric choice"),
        (np.triu(np.ones((3, 3))), "no symmetric choice"),
        ((1, 1, 1, 0, 0, np.nan), "no symmetric choice"),
    ],
)
def test_masks_that_are_none(mask, told):
    with pytest.raises(ConstraintError, match=told):
        AllowedStrain(mask)


@pytest.mark.parametrize("mask", [(0, 0, 0, 0, 0, 1), (1, 1, 1, 1, 1, 0), (1, 0, 1, 0, 0, 1)], ids=str)
def test_masks_that_cannot_be_kept_are_refused_by_every_door(predictor, mask):
    cell = AllowedStrain(mask)
    assert not cell.closed
    for ask in (
        lambda: predictor.predict(layer(), relax_cell=cell),
        lambda: DeepRelaxOptimizer(layer(), logfile=None, relax_cell=cell),
        lambda: RelaxOptions(relax_cell=cell),
    ):
        with pytest.raises(ConstraintError, match="not all that they lead to"):
            ask()


@pytest.mark.parametrize("given", [[1, 1, 0, 0, 0, 1], (1, 1, 1, 1, 1, 1), "fixed", 0, 1, {}], ids=str)
def test_what_says_nothing_of_a_cell_is_refused_by_every_door(predictor, given):
    for ask in (
        lambda: predictor.predict(layer(), relax_cell=given),
        lambda: DeepRelaxOptimizer(layer(), logfile=None, relax_cell=given),
        lambda: LabelOptions("m3gnet", relax_cell=given),
        *([] if given == {} else [lambda: RelaxOptions(relax_cell=given)]),  # an AllowedStrain, as documents write it
    ):
        with pytest.raises(ValueError, match=re.escape(f"relax_cell={given!r}")):
            ask()


def test_a_truth_value_of_numpy_keeps_a_cell():
    atoms = bulk("Cu", cubic=True, a=3.8)
    optimizer = DeepRelaxOptimizer(atoms, logfile=None, relax_cell=np.bool_(False))
    optimizer.run()
    np.testing.assert_array_equal(atoms.cell, bulk("Cu", cubic=True, a=3.8).cell)
    assert RelaxOptions(relax_cell=np.bool_(False)).to_dict()["relax_cell"] is False


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("xx,yy,xy", (1, 1, 0, 0, 0, 1)),
        ("zz", (0, 0, 1, 0, 0, 0)),
        ("xx yy", (1, 1, 0, 0, 0, 0)),
        ("110001", (1, 1, 0, 0, 0, 1)),
        ("1,1,1,0,0,0", (1, 1, 1, 0, 0, 0)),
    ],
)
def test_masks_are_read_from_words(text, mask):
    assert AllowedStrain.parse_mask(text) == mask


def test_ases_own_matrix_is_taken():
    mask = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert AllowedStrain(mask).mask == (1, 1, 0, 0, 0, 1)
    np.testing.assert_array_equal(AllowedStrain(mask).matrix, mask)
