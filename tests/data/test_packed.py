from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprelax_ase.data import DataError, PairDataset, RelaxationPairs, read_packed, write_packed
from deeprelax_ase.data.packed import is_packed
from deeprelax_ase.graph.crystal_graph import rows_times_matrices


@pytest.fixture
def pairs(pairs_of) -> RelaxationPairs:
    """Seven pairs that differ in whatever is packed, some of their atoms outside the cell."""
    made, which = pairs_of(7), torch.arange(7)
    shift = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)[torch.arange(len(made.numbers)) % 3, None]
    return replace(
        made,
        fractional_initial=made.fractional_initial + shift,
        fractional_relaxed=made.fractional_relaxed + shift,
        fixed_cell=which % 3 == 0,
        dft=which % 2 == 0,
        level=which % 3,
        split=which % 3 - 1,
        kind=which - 1,
        energy_relaxed=torch.where(which == 3, torch.nan, -1.5 * which.double()),
    )


def moved(pairs: RelaxationPairs, side: str, other: RelaxationPairs) -> torch.Tensor:
    """(N, 3) Å from the atoms of ``pairs`` to those of ``other``, up to whole lattice vectors."""
    change = getattr(other, f"fractional_{side}") - getattr(pairs, f"fractional_{side}")
    return rows_times_matrices(change - change.round(), getattr(pairs, f"cell_{side}")[pairs.batch])


def test_packed_pairs_come_back(pairs: RelaxationPairs, tmp_path: Path) -> None:
    write_packed(tmp_path / "packed.npz", pairs)
    back = read_packed(tmp_path / "packed.npz")
    for name in ("numbers", "counts", "level", "split", "dft", "kind", "fixed_cell", "has_forces"):
        assert torch.equal(getattr(back, name), getattr(pairs, name)), name
        assert getattr(back, name).dtype == getattr(pairs, name).dtype, name
    for side in ("initial", "relaxed"):
        assert (getattr(back, f"cell_{side}") - getattr(pairs, f"cell_{side}")).abs().max() <= 0.51e-4
    torch.testing.assert_close(back.energy_relaxed, pairs.energy_relaxed, rtol=0, atol=0, equal_nan=True)
    longest = torch.linalg.vector_norm(pairs.cell_initial, dim=2).sum(dim=1).max().item()
    of_start = longest * 2**-17
    assert moved(pairs, "initial", back).abs().max() <= of_start
    assert moved(pairs, "relaxed", back).abs().max() <= 2.5e-4 + of_start
    assert 0 <= back.fractional_initial.min() < back.fractional_initial.max() < 1


def test_atoms_keep_their_images_between_the_two_sides(pairs: RelaxationPairs, tmp_path: Path) -> None:
    write_packed(tmp_path / "packed.npz", pairs)
    back = read_packed(tmp_path / "packed.npz")
    before, after = (p.fractional_relaxed - p.fractional_initial for p in (pairs, back))
    assert (after - before).abs().max() < 1e-4  # no lattice vector between them


def test_files_are_read_one_after_the_other(pairs: RelaxationPairs, tmp_path: Path) -> None:
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    write_packed(files[0], pairs)
    write_packed(files[1], pairs.take(torch.tensor([2])))
    back = read_packed(files, dtype=torch.float32)
    assert back.kind.tolist() == [-1, 0, 1, 2, 3, 4, 5, 1]
    for name in ("fractional_initial", "fractional_relaxed", "cell_initial", "cell_relaxed", "forces", "virial"):
        assert getattr(back, name).dtype == torch.float32, name


def test_data_sets_know_packed_files(pairs: RelaxationPairs, tmp_path: Path) -> None:
    file = tmp_path / "packed.npz"
    write_packed(file, pairs)
    dataset = PairDataset.read(file)
    assert dataset.names[:2] == ("packed[0]", "packed[1]")
    assert torch.equal(dataset.pairs.fractional_relaxed, read_packed(file).fractional_relaxed)
    dataset.save(tmp_path / "plain.npz")
    assert (is_packed(file), is_packed(tmp_path / "plain.npz")) == (True, False)
    plain = PairDataset.read(tmp_path / "plain.npz").pairs
    assert plain.kind.tolist() == pairs.kind.tolist()
    assert plain.fixed_cell.tolist() == pairs.fixed_cell.tolist()
    with pytest.raises(DataError, match="no labels but 'relaxed'"):
        PairDataset.read(file, labels="m3gnet")


def test_atoms_that_move_too_far_are_refused(pairs: RelaxationPairs, tmp_path: Path) -> None:
    far = replace(pairs, fractional_relaxed=pairs.fractional_relaxed + 5.0)
    with pytest.raises(ValueError, match="at most 13 Å"):
        write_packed(tmp_path / "packed.npz", far)


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "part.npz", cell_change=np.zeros(1))
    with pytest.raises(ValueError, match=r"lacks the arrays.*'moves'"):
        read_packed(tmp_path / "part.npz")
