from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from deeprelax_ase.uncertainty.calibration import (
    FEATURES,
    Calibration,
    ErrorFeatures,
)
from deeprelax_ase.uncertainty.kinds import BULK, DEFECT, KINDS, LAYER, OXIDE, SLAB, kinds_of
from deeprelax_ase.uncertainty.worsening import WorseningModel
from tests.uncertainty.error_laws import LAW, make_features, one


@pytest.fixture
def calibration() -> Calibration:
    coordinates = replace(LAW, factors=((2.0,), (3.0,), (4.0,), (5.0,), (6.0,)))
    volume = replace(LAW, intercept=-1.0, factors=((2.5,), (3.5,), (4.5,), (5.5,), (6.5,)))
    return Calibration(3, coordinates, volume, ood_limits=(0.1,) * len(FEATURES))


# Kinds


@pytest.mark.parametrize(
    ("oxide", "layered", "kept", "kind"),
    [
        (False, False, False, BULK),
        (True, False, False, OXIDE),
        (False, True, False, LAYER),
        (True, True, False, LAYER),
        (False, True, True, SLAB),
        (True, True, True, SLAB),
        (False, False, True, DEFECT),
        (True, False, True, DEFECT),
    ],
)
def test_kinds(oxide: bool, layered: bool, kept: bool, kind: int):
    told = [np.array([value]) for value in (oxide, layered, kept)]
    assert kinds_of(*told).tolist() == kinds_of(*map(torch.from_numpy, told)).tolist() == [kind]


# Reading


def test_power_law_below_the_ceiling():
    law = replace(LAW, ceiling=1e9)
    expected = np.exp(-0.5) * 0.01**0.8 * 0.02**-0.3 * 0.01**0.6
    np.testing.assert_allclose(law.expected(one(0.01, shape_scale=0.02)), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [1.0, 1e3, 1e300])
def test_ceiling_holds(value: float):
    (expected,) = LAW.expected(one(value))
    assert 0.5 * LAW.ceiling < expected <= LAW.ceiling


@pytest.mark.parametrize("steep", [1.0, 1e3])
def test_features_of_zero_are_read(steep: float):
    law = replace(LAW, exponents=tuple(steep * e for e in LAW.exponents))
    (expected,) = law.expected(one(0.0))
    assert 0 <= expected < 1e-3
    assert np.isfinite(one(0.0).logarithms()).all()


def test_tensors_and_arrays_read_alike(rng, calibration: Calibration, monkeypatch):
    """Tensors come from the device in one copy: each waits for all that the device still has to do."""
    copies, copy = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda values: copies.append(values) or copy(values))
    features = make_features(rng, 5)
    tensors = ErrorFeatures(*(torch.from_numpy(getattr(features, f.name)) for f in fields(ErrorFeatures)))
    assert calibration.read(tensors) == calibration.read(features)
    assert len(copies) == 1
    assert features.logarithms().shape == (5, len(FEATURES))


def test_reading(calibration: Calibration):
    count = len(KINDS)
    read = calibration.read(ErrorFeatures(*np.full((len(FEATURES), count), 0.05), kind=np.arange(count)))
    (coordinates,), (volume,) = (model.expected(one(0.05)) for model in (calibration.coordinates, calibration.volume))
    for kind, found in enumerate(read):
        bounds = (2.0 + kind) * coordinates, (2.5 + kind) * volume
        told = [found.coordinates, found.coordinates_bound, found.volume, found.volume_bound]
        assert told == pytest.approx([coordinates, bounds[0], volume, bounds[1]])
        assert not found.ood
    plain = read[0]
    assert {type(value) for value in vars(plain).values()} <= {float, bool, type(None)}


@pytest.mark.parametrize("name", FEATURES)
def test_one_feature_out_of_distribution_is_enough(calibration: Calibration, name: str):
    assert [error.ood for error in calibration.read(one(0.05, **{name: 0.11}))] == [True]
    assert [error.ood for error in calibration.read(one(0.05, **{name: 0.09}))] == [False]


# Cards


def on_card(calibration: Calibration) -> dict:
    return {"1": {}, str(calibration.recycles): calibration.to_dict()}


def test_round_trip(calibration: Calibration):
    assert Calibration.of_card(on_card(calibration), 3) == calibration
    assert Calibration.of_card(on_card(calibration), 2) is None
    assert Calibration.of_card({}, 3) is None


@pytest.mark.parametrize("part", ["coordinates", "volume"])
@pytest.mark.parametrize("count", [0, 8, 10])
def test_another_number_of_exponents_is_refused(calibration: Calibration, part: str, count: int):
    values = calibration.to_dict()
    values[part]["exponents"] = [0.1] * count
    with pytest.raises(ValueError, match=f"{count} exponents for 9 error features"):
        Calibration.of_card({"3": values}, 3)


@pytest.mark.parametrize("part", ["coordinates", "volume"])
def test_another_number_of_factors_is_refused(calibration: Calibration, part: str):
    values = calibration.to_dict()
    values[part]["factors"] = [[1.0], [2.0]]
    with pytest.raises(ValueError, match="5 and 2 rows of factors for 5 kinds of crystals"):
        Calibration.of_card({"3": values}, 3)


@pytest.mark.parametrize("sizes", [(), (0.1, 0.2)])
def test_factors_without_their_sizes_are_refused(calibration: Calibration, sizes: tuple[float, ...]):
    values = calibration.to_dict()
    values["volume"]["sizes"] = (sizes,) * len(KINDS)
    with pytest.raises(ValueError, match="differ in number, or there are none"):
        Calibration.of_card({"3": values}, 3)


def test_another_number_of_ood_limits_is_refused(calibration: Calibration):
    with pytest.raises(ValueError, match="3 limits for 9 error features"):
        Calibration.of_card({"3": calibration.to_dict() | {"ood_limits": [1.0, 2.0, 3.0]}}, 3)


@pytest.mark.parametrize("name", ["coordinates", "volume", "ood_limits"])
def test_a_missing_part_is_named(calibration: Calibration, name: str):
    values = calibration.to_dict()
    del values[name]
    with pytest.raises(KeyError, match=name):
        Calibration.of_card({"3": values}, 3)


def test_reading_needs_neither_torch_nor_crepes():
    code = "import sys, deeprelax_ase.uncertainty.calibration; print({'torch', 'crepes', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The odds that a prediction ends further off


@pytest.fixture
def with_odds(calibration: Calibration) -> Calibration:
    none = (0.0,) * len(FEATURES)
    law = WorseningModel((-3.0, -3.0, -3.0, -1.0, -3.0), (-1.0, -1.0), (none, none), (1.0, 1.0, 1.0, 3.0, 1.0))
    return replace(calibration, worsening=law)


def test_odds_are_read_with_the_errors(with_odds: Calibration):
    steps = np.array([0.0, 0.01, 0.1, 0.02])
    features = ErrorFeatures(*np.full((len(FEATURES), 4), 0.05), kind=np.array([BULK, BULK, BULK, SLAB]))
    errors = with_odds.read(features, steps)
    still, short, long, slab = (error.odds_worse for error in errors)
    assert still == 0
    assert short == pytest.approx(1 / (1 + np.exp(3) * 0.01))
    assert long == pytest.approx(1 / (1 + np.exp(3) * 0.1))
    assert slab == pytest.approx(1 / (1 + np.exp(1) * 0.02))
    assert [error.odds_margin for error in errors] == [1, 1, 1, 3]


def test_without_steps_there_are_no_odds(with_odds: Calibration, calibration: Calibration):
    assert with_odds.read(one(0.05))[0].odds_worse is None
    assert calibration.read(one(0.05), np.array([0.1]))[0].odds_worse is None


def test_round_trip_with_odds(with_odds: Calibration):
    assert Calibration.of_card(on_card(with_odds), 3) == with_odds
