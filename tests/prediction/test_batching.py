"""Batches that do not work as a whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeviceError, ModelError, OversizeError, StructureError, UnphysicalPredictionError
from deeprelax_ase.models.model import Model
from deeprelax_ase.prediction.batching import attempt
from deeprelax_ase.prediction.predictor import Predictor

CPU = torch.device("cpu")


def crystals(*sizes: int) -> list[Crystal]:
    return [Crystal.of(bulk("Cu").repeat((n, 1, 1))) for n in sizes]


def test_the_crystal_that_fails_is_found_and_no_other_suffers() -> None:
    calls: list[int] = []

    def make(batch):
        calls.append(len(batch))
        if any(len(c) == 3 for c in batch):
            raise StructureError("three atoms")
        return [len(c) for c in batch]

    made = attempt(make, crystals(1, 2, 3, 4, 1, 2, 4, 5), CPU)
    assert isinstance(made[2], StructureError)
    assert [m for m in made if isinstance(m, int)] == [1, 2, 4, 1, 2, 4, 5]
    assert calls == [8, 4, 2, 2, 1, 1, 4]


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"),
    ],
)
def test_a_batch_too_large_is_halved_until_it_fits(error: Exception) -> None:
    def make(batch):
        if sum(map(len, batch)) > 4:
            raise error
        return [len(c) for c in batch]

    made = attempt(make, crystals(2, 2, 1, 9, 3), CPU)
    assert [m for m in made if isinstance(m, int)] == [2, 2, 1, 3]
    assert isinstance(made[3], OversizeError)
    assert "9 atoms" in str(made[3])


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), np.linalg.LinAlgError("singular"), KeyError("x")]
)
def test_whatever_a_crystal_raises_costs_itself(error: Exception) -> None:
    def make(batch):
        if any(len(c) == 3 for c in batch):
            raise error
        return [len(c) for c in batch]

    made = attempt(make, crystals(1, 3, 2), CPU)
    assert made[::2] == [1, 2]
    assert isinstance(made[1], StructureError)
    assert f"the prediction failed ({type(error).__name__}: " in str(made[1])


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ModelError("of another version"), ModelError),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceError),
    ],
)
def test_what_no_crystal_is_at_fault_of_is_passed_on(error: Exception, raised: type[Exception]) -> None:
    def make(batch):
        raise error

    with pytest.raises(raised, match=r"of another version|illegal memory access"):
        attempt(make, crystals(1, 2), CPU)


def test_nothing_makes_nothing() -> None:
    assert attempt(lambda batch: 1 / 0, [], CPU) == []  # type: ignore[arg-type, return-value]


class TestNumbersThatAreNone:
    """A network gone wrong on one crystal, among good ones."""

    @pytest.fixture
    def predictor(self, shipped):
        return Predictor(shipped("DeepRelax-PBE"), device="cpu", members=1)

    @pytest.mark.parametrize("harm", ["nan", "burst", "collapse"])
    def test_costs_one_record(self, predictor, harm: str) -> None:
        good = [bulk("NaCl", "rocksalt", a=5.4), bulk("MgO", "rocksalt", a=4.4)]
        expected = [predictor.predict(atoms) for atoms in good]
        networks = torch.nn.ModuleList(Spoiled(network, harm) for network in predictor.model.networks)
        spoiled = Predictor(Model(predictor.model.card, networks), device="cpu")
        made = list(spoiled.predict_many([good[0], bulk("CsCl", "cesiumchloride", a=4.1), good[1]]))
        assert isinstance(made[1], UnphysicalPredictionError)
        assert "DeepRelax-PBE predicts no crystal" in str(made[1])
        for one, alone in zip((made[0], made[2]), expected, strict=True):
            np.testing.assert_allclose(one.relaxed.positions, alone.relaxed.positions, rtol=0, atol=1e-5)
            np.testing.assert_allclose(one.relaxed.cell, alone.relaxed.cell, rtol=0, atol=1e-5)
        with pytest.raises(UnphysicalPredictionError):
            spoiled.predict(bulk("CsCl", "cesiumchloride", a=4.1))


class Spoiled(torch.nn.Module):
    """A network that has gone wrong about crystals that begin with caesium."""

    def __init__(self, network: torch.nn.Module, harm: str) -> None:
        super().__init__()
        self.network, self.harm = network, harm

    def stages(self, given):
        *_, (last, scalars) = self.network.stages(given)
        bad = given.numbers[torch.searchsorted(given.batch, torch.arange(len(given.counts)))] == 55
        displacements, strain = last.displacements.clone(), last.strain.clone()
        if self.harm == "nan":
            displacements[bad[given.batch]] = torch.nan
        else:
            strain[bad] = (torch.eye(3) * (2.0 if self.harm == "burst" else -2.0)).to(strain)
        yield replace(last, displacements=displacements, strain=strain), scalars


def test_without_a_space_group_symmetry_holds_all_the_same(shipped) -> None:
    atoms = bulk("CsCl", "cesiumchloride", a=4.4)
    found = Predictor(shipped("DeepRelax-PBE"), device="cpu", members=1, keep_symmetry=False).predict(atoms)
    looked = Predictor(shipped("DeepRelax-PBE"), device="cpu", members=1).predict(atoms)
    np.testing.assert_allclose(found.relaxed.cell, looked.relaxed.cell, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.relaxed.positions, looked.relaxed.positions, rtol=0, atol=1e-5)
