from __future__ import annotations

import numpy as np
import pytest
import torch

from deeprelax_ase.data import Pairs
from deeprelax_ase.evaluation import TITLES, UNITS, assess, errors_of
from tests.training.conftest import make_pairs


@pytest.fixture
def pairs() -> Pairs:
    return make_pairs(6)


def test_the_unrelaxed_crystals_are_their_own_dummy(pairs: Pairs) -> None:
    found = assess(pairs, pairs.scaled_initial, pairs.cell_initial, match=False)
    for name, values in found.predicted.items():
        np.testing.assert_array_equal(values, found.unrelaxed[name], err_msg=name)
        assert (values > 0).all(), name
    summary = found.summary()
    assert all(summary[name]["improvement_percent"] == 0 for name in found.predicted)
    assert summary["crystals"]["predicted"] == len(found) == 6


def test_the_relaxed_crystals_have_no_error(pairs: Pairs) -> None:
    found = assess(pairs, pairs.scaled_relaxed, pairs.cell_relaxed, match=False)
    for name, values in found.predicted.items():
        np.testing.assert_allclose(values, 0, rtol=0, atol=1e-12, err_msg=name)
        assert found.summary()[name]["improvement_percent"] == pytest.approx(100)


def test_errors_by_hand(pairs: Pairs) -> None:
    """Every relaxed crystal is 0.95 of the unrelaxed one in length: with its atoms in place, only lengths differ."""
    found = errors_of(pairs, pairs.scaled_relaxed, pairs.cell_initial)
    volume = torch.linalg.det(pairs.cell_relaxed).abs()
    np.testing.assert_allclose(found["coordinates"], 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["volume"], volume * (0.95**-3 - 1), rtol=1e-10)
    np.testing.assert_allclose(found["relative_volume"], 0.95**-3 - 1, rtol=1e-10)
    lattice = pairs.cell_relaxed.abs().mean(dim=(1, 2)) * (1 / 0.95 - 1)
    np.testing.assert_allclose(found["lattice"], lattice, rtol=1e-10)
    np.testing.assert_allclose(found["turned_lattice"], lattice, rtol=1e-9)
    positions = torch.einsum("nk,nkx->nx", pairs.scaled_relaxed, pairs.cell_relaxed[pairs.batch]).abs().mean(dim=1)
    expected = torch.zeros(6, dtype=torch.float64).index_add(0, pairs.batch, positions) / pairs.counts * (1 / 0.95 - 1)
    np.testing.assert_allclose(found["cartesian"], expected, rtol=1e-9)
    assert (found["bond_length"] > 0.1).all()


def test_single_precision_is_enough_for_predictions(pairs: Pairs) -> None:
    exact = assess(pairs, pairs.scaled_initial, pairs.cell_initial, match=False)
    single = assess(pairs, pairs.scaled_initial.float(), pairs.cell_initial.float(), match=False)
    for name in exact.predicted:
        np.testing.assert_allclose(single.predicted[name], exact.predicted[name], rtol=0, atol=1e-4, err_msg=name)


def test_matches_and_rmsd(pairs: Pairs) -> None:
    pytest.importorskip("pymatgen")
    advanced = []
    cell = pairs.cell_relaxed.clone()
    cell[0, 2] *= 1.6
    found = assess(pairs, pairs.scaled_relaxed, cell, advance=lambda: advanced.append(1))
    assert len(advanced) == 12
    assert found.predicted["match"].tolist() == [0, 1, 1, 1, 1, 1]
    assert found.predicted["rmsd"][0] == 1
    assert found.predicted["rmsd"][1:].max() < 1e-6
    before = found.unrelaxed["match"].mean()  # of a rate, more is better
    assert found.summary()["match"]["improvement_percent"] == pytest.approx(100 * (5 / 6 - before) / before)
    again = assess(pairs, pairs.scaled_relaxed, cell, jobs=2)
    assert again.predicted["rmsd"].tolist() == found.predicted["rmsd"].tolist()


def test_uncertainty_is_ranked_against_the_bond_lengths(pairs: Pairs) -> None:
    error = errors_of(pairs, pairs.scaled_initial, pairs.cell_initial)["bond_length"]
    for sign in (1, -1):
        found = assess(pairs, pairs.scaled_initial, pairs.cell_initial, uncertainty=sign * error**3, match=False)
        assert found.summary()["uncertainty_rank_correlation"]["predicted"] == pytest.approx(sign)
    part = found.take(np.array([0, 2]))
    assert len(part) == 2
    assert part.uncertainty is not None
    assert part.uncertainty.tolist() == [found.uncertainty[0], found.uncertainty[2]]
    assert part.unrelaxed["volume"].tolist() == found.unrelaxed["volume"][[0, 2]].tolist()


def test_every_metric_has_a_unit_and_a_title() -> None:
    assert UNITS.keys() == TITLES.keys()
