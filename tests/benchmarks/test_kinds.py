"""What benchmarks/kinds.py says of each kind of crystal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import kinds
import numpy as np
import pytest

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import crystals_of, load_pairs
from deeprelax_ase.evaluation.cached_predictions import Predicted
from deeprelax_ase.evaluation.metrics import crystal_errors
from tests.pairs import make_pairs, write_pairs


def ending_at(crystals: list[Crystal]) -> Callable[..., Predicted]:
    """Predictions of just these."""
    nothing = np.zeros((len(crystals), 1))
    return lambda predictor, pairs, folder: Predicted(crystals, nothing[:, 0], nothing, nothing)


@pytest.mark.usefixtures("shipped")
def test_rows_of_unmoved_crystals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, out = make_pairs(9), tmp_path / "out.json"
    extra = {
        "kind": np.array([0, 0, 4, 5, 6, 7, 9, 10, 11]),
        "energy_initial": np.ones(9),
        "energy_relaxed": np.zeros(9),
    }
    file = write_pairs(tmp_path / "pairs_generated_d.npz", pairs, dft=np.arange(9) == 7, split=np.full(9, 2))
    with np.load(file) as arrays:
        np.savez(file, **dict(arrays), **extra)
    starts = crystals_of(load_pairs(file), "initial")
    monkeypatch.setattr(kinds, "predicted", ending_at(starts))
    monkeypatch.setattr("sys.argv", ["kinds.py", str(file), "--json", str(out)])
    kinds.main()
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert rows["elements substituted"]["crystals"] == 2
    assert rows["generated, DFT-labelled"]["crystals"] == 1
    errors = crystal_errors(pairs, crystals_of(pairs, "initial"))["coordinates"]
    for row in rows.values():
        assert row["start"] == row["end"]
        assert row["further off"] == 0
    assert rows["elements substituted"]["end"]["coordinates mean"] == pytest.approx(errors[:2].mean(), rel=1e-6)
    assert kinds.MEAN not in rows  # there are no slabs


def test_crystals_stand_for_all_of_their_kind(tmp_path: Path) -> None:
    pairs = make_pairs(10)
    file = write_pairs(tmp_path / "pairs_generated_d.npz", pairs, dft=np.arange(10) < 0, split=np.full(10, 2))
    kind, energies = np.array([4, 4, 4, 0, 0, 0, 0, 0, 0, 0]), np.arange(10.0)
    with np.load(file) as arrays:
        np.savez(file, **dict(arrays), kind=kind, energy_initial=energies, energy_relaxed=energies)
    few = kinds.held_out([file], "relaxed", each=2)
    assert few.minima.tolist() == [0, 2, 3, 9]
    assert few.weights.tolist() == [1.5, 1.5, 3.5, 3.5]
    found = kinds.row(*[{"coordinates": few.minima}] * 2, few.weights)
    assert found["of"] == 10
    assert found["end"]["coordinates mean"] == pytest.approx((1.5 * 2 + 3.5 * 12) / 10)
    assert found["end"]["coordinates median"] == 3
    assert found["end"][kinds.STANDARD_ERROR] == pytest.approx(np.hypot(*np.hypot([6.75, 3.75], [5.25, 15.75])) / 10)


def test_standard_errors_are_how_far_means_scatter() -> None:
    names = list(kinds.KINDS.values())
    values = np.random.default_rng(0).normal(size=(300, len(names), 40))
    draws = [
        {n: kinds.row(*[{"coordinates": v}] * 2, np.ones(40)) for n, v in zip(names, d, strict=True)} for d in values
    ]
    told = [(rows[names[0]], kinds.mean_of_kinds(rows)[kinds.MEAN]) for rows in draws]
    for ends in zip(*[[row["end"] for row in both] for both in told], strict=True):
        means, errors = (np.array([end[key] for end in ends]) for key in ("coordinates mean", kinds.STANDARD_ERROR))
        assert errors.mean() == pytest.approx(means.std(), rel=0.1)


@pytest.mark.usefixtures("shipped")
def test_match_rates_are_of_each_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crystals in cells three times as long are not taken for the relaxed ones."""
    pytest.importorskip("pymatgen")
    pairs, out = make_pairs(4), tmp_path / "out.json"
    relaxed, other = crystals_of(pairs, "relaxed"), crystals_of(pairs, "initial")
    swapped = [crystal.with_geometry(crystal.positions, 3 * crystal.cell) for crystal in other]
    monkeypatch.setattr(kinds, "predicted", ending_at([relaxed[0], *swapped[1:3], relaxed[3]]))
    file = write_pairs(tmp_path / "pairs_generated_d.npz", pairs, dft=np.arange(4) < 0, split=np.full(4, 2))
    with np.load(file) as arrays:
        kind = np.array([0, 0, 4, 5])
        np.savez(file, **dict(arrays), kind=kind, energy_initial=np.ones(4), energy_relaxed=np.zeros(4))
    monkeypatch.setattr("sys.argv", ["kinds.py", str(file), "--match", "--json", str(out)])
    kinds.main()
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    found = {name: rows[name]["end"]["match"] for name in list(kinds.KINDS.values())[:3]}
    assert list(found.values()) == [0.5, 0, 1]
