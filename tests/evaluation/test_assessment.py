from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.evaluation.assessment import TITLES, UNITS, Assessment, assess
from deeprelax_ase.evaluation.metrics import prediction_errors
from deeprelax_ase.graph.settings import GraphSettings
from tests.pairs import make_pairs


@pytest.fixture
def pairs() -> RelaxationPairs:
    return make_pairs(6)


def test_the_unrelaxed_crystals_are_their_own_dummy(pairs: RelaxationPairs) -> None:
    found = assess(pairs, pairs.fractional_initial, pairs.cell_initial, match=False)
    for name, values in found.predicted.items():
        np.testing.assert_array_equal(values, found.unrelaxed[name], err_msg=name)
        assert (values > 0).all(), name
    summary = found.summary()
    assert all(summary[name]["improvement_percent"] == 0 for name in found.predicted)
    assert summary["crystals"]["predicted"] == len(found) == 6


def test_the_relaxed_crystals_have_no_error(pairs: RelaxationPairs) -> None:
    found = assess(pairs, pairs.fractional_relaxed, pairs.cell_relaxed, match=False)
    for name, values in found.predicted.items():
        np.testing.assert_allclose(values, 0, rtol=0, atol=1e-12, err_msg=name)
        assert found.summary()[name]["improvement_percent"] == pytest.approx(100)


def test_errors_by_hand(pairs: RelaxationPairs) -> None:
    """Every relaxed crystal is 0.95 of the unrelaxed one in length: with its atoms in place, only lengths differ."""
    found = prediction_errors(
        pairs, pairs.fractional_relaxed, pairs.cell_initial, graph=pair_graph(pairs, GraphSettings())
    )
    volume = torch.linalg.det(pairs.cell_relaxed).abs()
    np.testing.assert_allclose(found["coordinates"], 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["volume"], volume * (0.95**-3 - 1), rtol=1e-10)
    np.testing.assert_allclose(found["relative_volume"], 0.95**-3 - 1, rtol=1e-10)
    lattice = pairs.cell_relaxed.abs().mean(dim=(1, 2)) * (1 / 0.95 - 1)
    np.testing.assert_allclose(found["lattice"], lattice, rtol=1e-10)
    np.testing.assert_allclose(found["rotation_free_lattice"], lattice, rtol=1e-9)
    positions = torch.einsum("nk,nkx->nx", pairs.fractional_relaxed, pairs.cell_relaxed[pairs.batch]).abs().mean(dim=1)
    expected = torch.zeros(6, dtype=torch.float64).index_add(0, pairs.batch, positions) / pairs.counts * (1 / 0.95 - 1)
    np.testing.assert_allclose(found["cartesian"], expected, rtol=1e-9)
    assert (found["bond_length"] > 0.1).all()


def test_bond_lengths_are_compared_on_a_given_graph_alone(pairs: RelaxationPairs) -> None:
    given = (pairs, pairs.fractional_initial, pairs.cell_initial)
    assert prediction_errors(*given, graph=pair_graph(pairs, GraphSettings())).keys() - prediction_errors(*given) == {
        "bond_length"
    }


def test_single_precision_is_enough_for_predictions(pairs: RelaxationPairs) -> None:
    exact = assess(pairs, pairs.fractional_initial, pairs.cell_initial, match=False)
    single = assess(pairs, pairs.fractional_initial.float(), pairs.cell_initial.float(), match=False)
    for name in exact.predicted:
        np.testing.assert_allclose(single.predicted[name], exact.predicted[name], rtol=0, atol=1e-4, err_msg=name)


def test_matches_and_rmsd(pairs: RelaxationPairs) -> None:
    pytest.importorskip("pymatgen")
    advanced = []
    cell = pairs.cell_relaxed.clone()
    cell[0, 2] *= 1.6
    found = assess(pairs, pairs.fractional_relaxed, cell, advance=lambda: advanced.append(1))
    assert len(advanced) == 12
    assert found.predicted["match"].tolist() == [0, 1, 1, 1, 1, 1]
    assert found.predicted["rmsd"][0] == 1
    assert found.predicted["rmsd"][1:].max() < 1e-6
    before = found.unrelaxed["match"].mean()  # of a rate, more is better
    assert found.summary()["match"]["improvement_percent"] == pytest.approx(100 * (5 / 6 - before) / before)


def test_uncertainty_is_ranked_against_the_bond_lengths(pairs: RelaxationPairs) -> None:
    error = assess(pairs, pairs.fractional_initial, pairs.cell_initial, match=False).predicted["bond_length"]
    for sign in (1, -1):
        found = assess(pairs, pairs.fractional_initial, pairs.cell_initial, uncertainty=sign * error**3, match=False)
        assert found.summary()["uncertainty_rank_correlation"]["predicted"] == pytest.approx(sign)
    part = found.take(np.array([0, 2]))
    assert len(part) == 2
    assert part.uncertainty is not None
    assert part.uncertainty.tolist() == [found.uncertainty[0], found.uncertainty[2]]
    assert part.unrelaxed["volume"].tolist() == found.unrelaxed["volume"][[0, 2]].tolist()


def test_every_metric_has_a_unit_and_a_title() -> None:
    assert UNITS.keys() == TITLES.keys()


def test_rounding_is_nothing_to_improve() -> None:
    tiny = {"coordinates": np.array([1e-8, 3e-8]), "bond_length": np.array([0.1, 0.3])}
    summary = Assessment(tiny, tiny | {"bond_length": np.array([0.2, 0.6])}).summary()
    assert summary["coordinates"]["improvement_percent"] is None
    assert summary["bond_length"]["improvement_percent"] == pytest.approx(50)


def test_json_is_strict(pairs: RelaxationPairs) -> None:
    found = assess(pairs, pairs.fractional_initial, pairs.cell_initial, uncertainty=np.ones(6), match=False)
    text = json.loads(found.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert text == found.summary()
    assert text["uncertainty_rank_correlation"]["predicted"] is None  # all alike


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fractional": torch.zeros(3, 3)}, r"fractional must be \(18, 3\) for these pairs, got \(3, 3\)"),
        ({"cell": torch.zeros(3, 3)}, r"cell must be \(6, 3, 3\)"),
        ({"uncertainty": np.zeros(5)}, r"uncertainty must be \(6,\)"),
    ],
)
def test_other_shapes_are_refused(pairs: RelaxationPairs, change: dict, message: str) -> None:
    given = {"fractional": pairs.fractional_initial, "cell": pairs.cell_initial, **change}
    with pytest.raises(ValueError, match=message):
        assess(pairs, given.pop("fractional"), given.pop("cell"), match=False, **given)


def test_no_pairs_are_refused(pairs: RelaxationPairs) -> None:
    none = pairs.take(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="no pairs"):
        assess(none, none.fractional_initial, none.cell_initial, match=False)
