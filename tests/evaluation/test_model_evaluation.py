"""Predictions of a dataset against its relaxed crystals; what the command shows of it is tested in tests/cli."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprelax_ase import Predictor
from deeprelax_ase.data import PairDataset
from deeprelax_ase.evaluation import PredictedDataset, part_of
from tests.pairs import make_pairs, write_pairs


@pytest.fixture
def dataset(tmp_path: Path) -> PairDataset:
    split = np.array([0, 0, 1, 2, 2, 2])
    return PairDataset.read(write_pairs(tmp_path / "pairs.npz", make_pairs(6), dft=np.ones(6, dtype=bool), split=split))


def test_part_of_a_split_or_of_all(dataset: PairDataset) -> None:
    assert part_of(dataset, "test").names == dataset.names[3:]
    assert part_of(dataset, "test", 2).names == dataset.names[3::2]
    assert part_of(dataset, "all", 4).names == dataset.names[::4]
    with pytest.raises(ValueError, match="Unknown split='exam', must be one of"):
        part_of(dataset, "exam")
    with pytest.raises(ValueError, match="no pairs in the split 'validation'"):
        part_of(part_of(dataset, "test"), "validation")


@pytest.mark.usefixtures("shipped")
def test_figures_are_those_of_each_crystal(dataset: PairDataset, tmp_path: Path) -> None:
    done: list[None] = []
    predictor = Predictor("DeepRelax-PBE", device="cpu")
    found = PredictedDataset.of(predictor, dataset, advance=lambda: done.append(None))
    assert len(done) == len(found.predictions) == len(found.dataset) == 6
    assert found.notes() == []
    assessment = found.assess(match=False)
    metrics = found.metrics(assessment)
    bounds = np.array([p.error.volume_bound for p in found.predictions if p.error is not None])
    share = (assessment.predicted["relative_volume"] <= bounds).mean()
    assert metrics["relative_volume_coverage"]["predicted"] == pytest.approx(share)
    assert found.about()["model"]["name"] == "DeepRelax-PBE"
    assert found.about()["levels"] == {"PBE": 6}
    found.write_crystals(tmp_path / "rows.csv", assessment)
    with (tmp_path / "rows.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == list(dataset.names)
    np.testing.assert_allclose([float(r["lattice"]) for r in rows], assessment.predicted["lattice"], rtol=1e-5)


@pytest.mark.usefixtures("shipped")
def test_cells_that_pairs_keep_are_kept(dataset: PairDataset) -> None:
    fixed = torch.tensor([False, True, False, True, True, False])
    dataset = replace(dataset, pairs=replace(dataset.pairs, fixed_cell=fixed))
    found = PredictedDataset.of(Predictor("DeepRelax-PBE", device="cpu"), dataset)
    assert found.dataset.names == dataset.names
    moved = [np.abs(p.relaxed.cell - p.initial.as_given.cell).max() for p in found.predictions]
    assert [bool(by < 1e-12) for by in moved] == fixed.tolist()


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("every", [2, 1])
def test_volumes_of_kept_cells_have_no_bound_to_be_within(dataset: PairDataset, every: int) -> None:
    found = PredictedDataset.of(Predictor("DeepRelax-PBE", device="cpu"), dataset)
    for place in range(0, len(found.predictions), every):
        prediction = found.predictions[place]
        error = replace(prediction.error, volume=None, volume_bound=None)
        found.predictions[place] = replace(prediction, error=error)
    metrics = found.metrics(found.assess(match=False))
    assert "coordinates_coverage" in metrics
    assert ("relative_volume_coverage" in metrics) == (every > 1)
