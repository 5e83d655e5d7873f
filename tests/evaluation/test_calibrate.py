"""How a calibration is fitted and held against true errors; the command is tested in tests/cli."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deeprelax_ase.data import RelaxationPairs, crystals_of
from deeprelax_ase.evaluation.cached_predictions import Predicted
from deeprelax_ase.evaluation.calibrate import coverage, labels_for, thinned
from deeprelax_ase.evaluation.novelty import makers_for
from deeprelax_ase.uncertainty.calibration import FEATURES, Calibration, ErrorModel
from deeprelax_ase.uncertainty.kinds import BULK, DEFECT, KINDS


def test_labels_are_those_of_the_level():
    assert [labels_for(level) for level in ("PBE", "OAM", "M3GNet", "")] == ["relaxed", "relaxed", "m3gnet", "relaxed"]


@pytest.mark.parametrize(("every", "kept"), [(1, range(12)), (5, [0, 3, 5, 10, 11]), (100, [0, 3, 11])])
def test_thinning_keeps_what_dft_relaxed(pairs_of, every: int, kept):
    pairs = pairs_of(12)
    pairs.dft[[3, 11]] = True
    assert torch.equal(thinned(pairs, every).cell_initial, pairs.cell_initial[list(kept)])


def relaxed_as(pairs: RelaxationPairs, *, scale: float = 1.0) -> Predicted:
    """Predictions of the relaxed crystals themselves, ``scale`` times as long; all features 0.01, of bulk."""
    crystals = [c.with_geometry(c.positions * scale, c.cell * scale) for c in crystals_of(pairs, "relaxed")]
    features = np.full((len(pairs), len(FEATURES) + 1), 0.01)
    features[:, -1] = BULK
    return Predicted(crystals, np.zeros(len(pairs)), features, np.full((len(pairs), 2), np.nan))


def test_coverage_of_all_and_of_groups(pairs_of):
    pairs = pairs_of(40)
    flat, factors = (0.0,) * len(FEATURES), ((2.0,),) * len(KINDS)
    always = ErrorModel(intercept=np.log(0.02), exponents=flat, ceiling=1e9, sizes=factors, factors=factors)
    predicted = relaxed_as(pairs, scale=1.01)
    predicted = replace(predicted, crystals=[*predicted.crystals[:30], *relaxed_as(pairs, scale=1.03).crystals[30:]])
    last = np.arange(40) >= 30
    limits = (5.0,) * len(FEATURES)
    report = coverage(Calibration(1, always, always, limits), predicted, pairs, {"last": last, "few": last & False})
    assert set(report) == {"all", "last"}
    assert (report["all"]["crystals"], report["last"]["crystals"]) == (40, 10)
    assert report["all"]["volume coverage"] == 0.75  # 3 % are below 4 %, 9 % are not
    assert report["last"]["volume coverage"] == 0
    assert report["all"]["volume error"] == pytest.approx(0.75 * 0.030301 + 0.25 * 0.092727)
    assert report["last"]["volume expected"] == pytest.approx(0.02)
    assert report["all"]["coordinates coverage"] == 1
    assert report["all"]["ood"] == 0
    first = np.arange(40) < 25
    predicted.features[first, -1] = DEFECT  # whose cells are kept, so that volumes are not off
    report = coverage(Calibration(1, always, always, limits), predicted, pairs, {"first": first})
    assert report["all"]["volume coverage"] == pytest.approx(5 / 15)
    assert not [name for name in report["first"] if name.startswith("volume")]


def test_kinds_that_were_taught_are_no_outliers(pairs_of):
    pairs = pairs_of(6)
    assert {"slab", "layer", "vacancy", "dopant"} <= set(makers_for(pairs, [3, 9]))
    pairs.kind[:] = torch.tensor([0, 7, 9, 0, 0, 4])
    left = set(makers_for(pairs, [3, 9]))
    assert "slab" in left
    assert not {"layer", "vacancy", "dopant"} & left
