"""Batches that do not work as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import OversizeError, StructureError
from deeprelax_ase.prediction import inference
from deeprelax_ase.prediction.batching import attempt

CPU = torch.device("cpu")


def crystals(*sizes: int) -> list[Crystal]:
    return [Crystal.of(bulk("Cu").repeat((n, 1, 1))) for n in sizes]


def test_who_is_to_blame_is_found_and_nobody_else_suffers() -> None:
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
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"),
    ],
)
def test_a_batch_too_large_is_halved_until_it_fits(error: RuntimeError) -> None:
    def make(batch):
        if sum(map(len, batch)) > 4:
            raise error
        return [len(c) for c in batch]

    made = attempt(make, crystals(2, 2, 1, 9, 3), CPU)
    assert [m for m in made if isinstance(m, int)] == [2, 2, 1, 3]
    assert isinstance(made[3], OversizeError)
    assert "9 atoms" in str(made[3])


def test_other_errors_are_passed_on() -> None:
    def make(batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        attempt(make, crystals(1, 2), CPU)


def test_nothing_makes_nothing() -> None:
    assert attempt(lambda batch: 1 / 0, [], CPU) == []  # type: ignore[arg-type, return-value]


class TestNumbersThatAreNone:
    """A network gone wrong on one crystal, among good ones."""

    @pytest.fixture
    def predictor(self, shipped):
        from deeprelax_ase.prediction.predictor import Predictor

        return Predictor(shipped("DeepRelax-PBE"), device="cpu", members=1)

    @pytest.mark.parametrize("harm", ["nan", "burst", "collapse"])
    def test_costs_one_record(self, predictor, monkeypatch, harm: str) -> None:
        from deeprelax_ase.errors import UnphysicalPredictionError

        good = [bulk("NaCl", "rocksalt", a=5.4), bulk("MgO", "rocksalt", a=4.4)]
        expected = [predictor.predict(atoms) for atoms in good]
        refine = inference._refine

        def spoiled(model, graph, dtype, relax_cell, known):
            found = refine(model, graph, dtype, relax_cell, known)
            bad = graph.numbers[torch.searchsorted(graph.batch, torch.arange(len(graph.cell)))] == 55
            if harm == "nan":
                found.displacements[:, bad[graph.batch]] = np.nan
            else:
                found.strain[:, bad] = torch.eye(3) * (2.0 if harm == "burst" else -2.0)
            return found

        monkeypatch.setattr(inference, "_refine", spoiled)
        made = list(predictor.predict_many([good[0], bulk("CsCl", "cesiumchloride", a=4.1), good[1]]))
        assert isinstance(made[1], UnphysicalPredictionError)
        assert "DeepRelax-PBE predicts no crystal" in str(made[1])
        for one, alone in zip((made[0], made[2]), expected, strict=True):
            np.testing.assert_allclose(one.relaxed.positions, alone.relaxed.positions, rtol=0, atol=1e-5)
            np.testing.assert_allclose(one.relaxed.cell, alone.relaxed.cell, rtol=0, atol=1e-5)
        with pytest.raises(UnphysicalPredictionError):
            predictor.predict(bulk("CsCl", "cesiumchloride", a=4.1))


def test_without_a_space_group_symmetry_holds_all_the_same(shipped) -> None:
    from deeprelax_ase.prediction.predictor import Predictor

    atoms = bulk("CsCl", "cesiumchloride", a=4.4)
    found = Predictor(shipped("DeepRelax-PBE"), device="cpu", members=1, find_symmetry=False).predict(atoms)
    looked = Predictor(shipped("DeepRelax-PBE"), device="cpu", members=1).predict(atoms)
    np.testing.assert_allclose(found.relaxed.cell, looked.relaxed.cell, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.relaxed.positions, looked.relaxed.positions, rtol=0, atol=1e-5)
