from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deeprelax_ase.data import PairDataset, concatenate
from deeprelax_ase.data.checks import check, swapped
from deeprelax_ase.data.fingerprints import fingerprints
from deeprelax_ase.data.pairs import displacement_sizes
from deeprelax_ase.data.readers import Refused


@pytest.fixture
def dataset(cifs: Path) -> PairDataset:
    return PairDataset.read(cifs)


def joined(dataset: PairDataset, *parts: PairDataset) -> PairDataset:
    everything = (dataset, *parts)
    return PairDataset(
        concatenate([d.pairs for d in everything]),
        tuple(f"{name}{n or ''}" for n, d in enumerate(everything) for name in d.names),
        tuple(how for d in everything for how in d.how),
        (),
        tuple(t for d in everything for t in d.turned),
    )


def test_a_clean_set(dataset: PairDataset) -> None:
    report = check(dataset)
    assert report.clean
    assert report.counts["pairs"] == 4
    assert report.counts["atoms"] == 32
    assert report.counts["splits"] == {"train": 2, "validation": 1, "test": 1}
    assert report.counts["levels"] == {"PBE": 4}
    assert report.counts["matched"] == {"as given": 3, "reordered": 1}
    assert report.elements == {"Li": 1, "O": 2, "F": 1, "Na": 1, "Mg": 1, "Cl": 1, "Ca": 1}
    volume = report.distributions["volume ratio"]
    assert volume["median"] == pytest.approx(1.05**-3, abs=1e-3)
    assert report.distributions["atoms"]["max"] == 8
    assert report.leakage["test"] == {"pairs": 1, "same crystal": 0, "same formula": 0, "same chemical system": 0}


def test_duplicates_and_leakage_are_found_in_any_order_of_the_atoms(dataset: PairDataset) -> None:
    copy = dataset.in_split("train").take(torch.tensor([0]))
    order = torch.arange(7, -1, -1)
    atoms = {
        name: getattr(copy.pairs, name)[order]
        for name in ("numbers", "fractional_initial", "fractional_relaxed", "forces")
    }
    copy = replace(copy, pairs=replace(copy.pairs, **atoms, split=torch.tensor([2])))
    report = check(joined(dataset, copy))
    assert report.duplicates == [["a", "a1"]]
    assert report.leakage["test"]["same crystal"] == 1
    assert report.leakage["test"]["same formula"] == 1
    assert not report.clean


def test_suspicious_pairs_are_named(dataset: PairDataset) -> None:
    pairs = dataset.pairs
    cell = pairs.cell_relaxed.clone()
    cell[0] *= 0.6  # atoms at 0.6 of their distances: none on top of another
    fractional = pairs.fractional_relaxed.clone()
    fractional[8:16, 0] += torch.tensor([0.5, -0.5] * 4)
    initial = pairs.fractional_initial.clone()
    initial[17] = initial[16] + 0.01
    still = replace(
        pairs,
        cell_relaxed=torch.cat([cell[:3], pairs.cell_initial[3:]]),
        fractional_relaxed=torch.cat([fractional[:24], initial[24:]]),
        fractional_initial=initial,
    )
    report = check(replace(dataset, pairs=still, turned=(0.0, 0.0, 0.2, 0.0)))
    assert report.suspicious["|ln V ratio| above 0.6"] == ["a"]
    assert report.suspicious["mean displacement above 1.2 Å"] == ["b"]
    assert report.suspicious["nothing relaxed"] == ["d"]
    assert report.suspicious["overlapping atoms, unrelaxed"] == ["c"]
    assert report.suspicious["relaxed crystal was turned"] == ["c"]
    assert not report.clean


def test_swapped_atoms_are_named(dataset: PairDataset) -> None:
    fractional = dataset.pairs.fractional_relaxed.clone()
    fractional[[9, 11]] = fractional[[11, 9]]  # of one element: the files have them in different orders
    fractional[[24, 25]] = fractional[[25, 24]]  # of two
    pairs = replace(dataset.pairs, fractional_relaxed=fractional)
    assert swapped(dataset.pairs).tolist() == [False] * 4
    assert swapped(pairs).tolist() == [False, True, False, True]
    assert check(replace(dataset, pairs=pairs)).suspicious["two atoms swapped places"] == ["b", "d"]


def test_mirror_images_are_named(dataset: PairDataset) -> None:
    report = check(replace(dataset, how=(*dataset.how[:3], "mirror image")))
    assert report.suspicious == {"relaxed crystal is a mirror image": ["d"]}


def test_lonely_atoms_are_named(dataset: PairDataset) -> None:
    huge = replace(dataset.pairs, cell_initial=dataset.pairs.cell_initial * 5)
    assert check(replace(dataset, pairs=huge)).suspicious["an atom alone, unrelaxed"] == list(dataset.names)


def test_refusals_are_grouped_by_reason(dataset: PairDataset) -> None:
    report = check(replace(dataset, refused=(Refused("x", "no"), Refused("y", "no"), Refused("z", "never"))))
    assert report.refused == {"no": ["x", "y"], "never": ["z"]}
    assert report.counts["refused"] == 3
    assert not report.clean


def test_fingerprints_know_neither_cell_nor_origin(dataset: PairDataset) -> None:
    pairs = dataset.pairs
    change = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, -1, 1]], dtype=torch.float64)
    other = replace(
        pairs,
        cell_initial=change @ pairs.cell_initial,
        fractional_initial=pairs.fractional_initial @ torch.linalg.inv(change) + 0.3,
    )
    assert fingerprints(other, "initial") == fingerprints(pairs, "initial")
    assert len(set(fingerprints(pairs, "initial"))) == 4


def test_mean_displacements_by_hand(dataset: PairDataset) -> None:
    pairs = dataset.pairs
    moved = torch.zeros_like(pairs.fractional_initial)
    moved[::8, 0] = 0.1
    found = displacement_sizes(replace(pairs, fractional_relaxed=pairs.fractional_initial + moved), "mean")
    assert found.tolist() == pytest.approx((0.1 * pairs.cell_relaxed[:, 0].norm(dim=1) / 8).tolist())
