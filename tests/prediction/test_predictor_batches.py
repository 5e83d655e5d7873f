"""The predictor on many crystals: in batches, lazily, in order; a bad one costs its own result."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from deeprelax_ase.errors import (
    EmptyStructureError,
    MissingCellError,
    NonFiniteError,
    OverlappingAtomsError,
    StructureError,
    UnsupportedElementError,
)
from deeprelax_ase.models.model import Model
from deeprelax_ase.prediction.devices import default_atoms_per_batch
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from tests.crystals import CRYSTALS, END_TO_END, assert_same


@pytest.mark.parametrize(
    ("dtype", "atol", "atoms_per_batch"),
    [pytest.param("float32", 1e-5, None, marks=pytest.mark.slow), ("float64", 1e-10, 9)],
)
def test_batch_is_as_single(model: Model, make, dtype: str, atol: float, atoms_per_batch: int | None):
    once = {"recycles": 1} if model.card.name == END_TO_END else {}  # the others have none
    predictor = make(dtype=dtype, members=2, **once)
    together = list(predictor.predict_many(CRYSTALS.values(), atoms_per_batch=atoms_per_batch))
    assert len(together) == len(CRYSTALS)
    for crystal, prediction in zip(CRYSTALS.values(), together, strict=True):
        alone = predictor.predict(crystal)
        assert prediction.initial is crystal
        assert_same(alone, prediction, atol=atol)
        np.testing.assert_array_equal(prediction.uncertainty.bonds, alone.uncertainty.bonds)
        np.testing.assert_allclose(prediction.uncertainty.per_bond, alone.uncertainty.per_bond, rtol=0, atol=atol)


def test_bonds_are_left_out_on_request(make):
    predictor = make(members=1)
    for whole, slim in zip(
        predictor.predict_many(CRYSTALS.values()), predictor.predict_many(CRYSTALS.values(), bonds=False), strict=True
    ):
        assert_same(whole, slim, atol=0)
        assert slim.uncertainty.bonds.shape == (0, 5)
        assert slim.uncertainty.per_bond.shape == (0,)
        np.testing.assert_array_equal(whole.uncertainty.per_atom, slim.uncertainty.per_atom)


def test_batches_on_a_gpu_follow_what_a_process_may_use_of_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0, raising=False)
    whole = default_atoms_per_batch(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.1, raising=False)
    assert whole == 32_432
    assert default_atoms_per_batch(torch.device("cuda:0")) == 3_243
    assert default_atoms_per_batch(torch.device("cpu")) == 200


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, about itself
@pytest.mark.parametrize("name", [END_TO_END, "DeepRelax-PBE-v0"])
def test_compiled_networks_predict_the_same(name: str):
    plain, compiled = (Predictor(name, device="cpu", dtype="float64", compile=c) for c in (False, True))
    for a, b in zip(plain.predict_many(CRYSTALS.values()), compiled.predict_many(CRYSTALS.values()), strict=True):
        assert_same(a, b, atol=1e-9)


def test_both_graph_backends_agree(make, needs_matgl):
    matgl, plain = make(dtype="float64", graph_backend="matgl", members=1), make(dtype="float64", members=1)
    crystals = [CRYSTALS[name] for name in ("perovskite", "hcp", "wurtzite", "triclinic")]
    assert_same(matgl.predict(crystals[0]), plain.predict(crystals[0]), atol=1e-10)
    for a, b in zip(matgl.predict_many(crystals), plain.predict_many(crystals), strict=True):
        assert_same(a, b, atol=1e-10)


def test_many_are_read_as_they_are_needed(predictor: Predictor):
    read = []

    def structures():
        for k in range(100):
            read.append(k)
            yield CRYSTALS["hcp"]

    predictions = predictor.predict_many(structures(), atoms_per_batch=4)
    assert read == []
    next(predictions)
    assert len(read) <= 3
    assert predictor.predict_many(iter([])) is not None
    assert list(predictor.predict_many([])) == []


def test_a_crystal_larger_than_a_batch(make):
    predictor = make(members=1)
    crystals = [CRYSTALS["hcp"], CRYSTALS["rattled rocksalt"], CRYSTALS["hcp"]]
    assert [len(p.relaxed) for p in predictor.predict_many(crystals, atoms_per_batch=1)] == [2, 8, 2]


def test_bad_ones_yield_their_error(make):
    predictor = make(members=1)
    good = [CRYSTALS["hcp"], CRYSTALS["rattled perovskite"], CRYSTALS["rocksalt"].to_atoms()]
    helium = bulk("Cu", cubic=True)
    helium.numbers[1] = 2
    broken = bulk("Cu", cubic=True)
    broken.positions[2] = np.nan
    overlapping = bulk("Cu", cubic=True)
    overlapping.positions[1] = overlapping.positions[0]
    mixed = [broken, good[0], overlapping, good[1], helium, molecule("H2O"), good[2], Atoms()]
    expected = [
        NonFiniteError,
        Prediction,
        OverlappingAtomsError,
        Prediction,
        UnsupportedElementError,
        MissingCellError,
        Prediction,
        EmptyStructureError,
    ]
    results = list(predictor.predict_many(mixed))
    assert [type(result) for result in results] == expected
    for result, alone in zip(results[1::2][:2] + results[6:7], map(predictor.predict, good), strict=True):
        assert_same(alone, result, atol=1e-5)
    for structure, result in zip(mixed, results, strict=True):
        if isinstance(result, StructureError):
            with pytest.raises(type(result), match=f"^{re.escape(str(result))}$"):  # no number within the batch in it
                predictor.predict(structure)


def test_all_bad(predictor: Predictor):
    assert [type(r) for r in predictor.predict_many([Atoms(), molecule("H2")])] == [
        EmptyStructureError,
        MissingCellError,
    ]
