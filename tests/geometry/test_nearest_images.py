from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deeprelax_ase.geometry.nearest_images import nearest_displacements, obtuse_superbase

FCC = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64)

#: Changes of lattice vectors, of determinant 1 or -1.
CHANGES = torch.tensor(
    [[[1, 3, 0], [0, 1, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0], [-2, 4, 1]], [[1, 0, 0], [5, 1, 0], [-3, 2, 1]]],
    dtype=torch.float64,
)


def drawn(seed: int, atoms: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Displacements (atoms, 3) in fractional coordinates, an oblique cell (1, 3, 3) of atoms 2.5 Å apart, the batch."""
    generator = torch.Generator().manual_seed(seed)
    cell = FCC + 0.3 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    cell *= (atoms * 16 / torch.linalg.det(cell).abs()) ** (1 / 3)
    moved = noise * torch.randn(atoms, 3, generator=generator, dtype=torch.float64)
    return moved @ torch.linalg.inv(cell), cell[None], torch.zeros(atoms, dtype=torch.int64)


def squares(displacements: Tensor) -> float:
    return float(displacements.square().sum())


def least(difference: Tensor, cell: Tensor) -> float:
    """Every choice among the 20 nearest images of each atom."""
    basis = obtuse_superbase(cell)[0, 1:].numpy()
    away = (difference - difference[0]).numpy() @ cell[0].numpy()
    around = np.array(list(product(range(-2, 3), repeat=3))) @ basis
    inverse = np.linalg.inv(basis)
    choices = []
    for vector in away[1:]:
        images = vector - np.round(vector @ inverse) @ basis + around
        choices.append(images[np.linalg.norm(images, axis=1).argsort()[:20]])
    index = np.stack(np.meshgrid(*(range(20) for _ in choices), indexing="ij"), axis=-1).reshape(-1, len(choices))
    moved = np.stack([np.zeros((len(index), 3)), *(c[index[:, n]] for n, c in enumerate(choices))], axis=1)
    moved -= moved.mean(axis=1, keepdims=True)
    return float((moved**2).sum(axis=(1, 2)).min())


@given(seed=st.integers(0, 10**6), atoms=st.integers(2, 3), noise=st.sampled_from([0.1, 0.4, 0.8]))
@settings(max_examples=50, deadline=None)
def test_no_choice_of_images_is_nearer(seed: int, atoms: int, noise: float) -> None:
    difference, cell, batch = drawn(seed, atoms, noise)
    assert squares(nearest_displacements(difference, cell, batch)) == pytest.approx(least(difference, cell), abs=1e-8)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_four_atoms_off_by_a_fifth_of_the_distance_between_them(seed: int) -> None:
    difference, cell, batch = drawn(seed, 4, 0.3)
    assert squares(nearest_displacements(difference, cell, batch)) == pytest.approx(least(difference, cell), abs=1e-8)


@given(
    seed=st.integers(0, 10**6),
    atoms=st.integers(1, 12),
    noise=st.sampled_from([0.05, 0.3, 1.0]),
    shift=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    change=st.sampled_from(list(CHANGES)),
)
def test_neither_origin_nor_images_nor_lattice_vectors_nor_order_matter(
    seed: int, atoms: int, noise: float, shift: list[float], change: Tensor
) -> None:
    difference, cell, batch = drawn(seed, atoms, noise)
    generator = torch.Generator().manual_seed(seed)
    expected = nearest_displacements(difference, cell, batch)
    moved = difference + torch.tensor(shift, dtype=torch.float64)
    moved += torch.randint(-3, 4, moved.shape, generator=generator)
    other = nearest_displacements(moved @ torch.linalg.inv(change), change @ cell, batch)
    torch.testing.assert_close(other, expected, rtol=0, atol=1e-9)
    order = torch.randperm(atoms, generator=generator)
    torch.testing.assert_close(nearest_displacements(moved[order], cell, batch), expected[order], rtol=0, atol=1e-9)


def test_small_displacements_are_what_they_are_less_their_mean() -> None:
    difference, cell, batch = drawn(0, 12, 0.1)
    expected = (difference - difference.mean(dim=0)) @ cell[0]
    torch.testing.assert_close(nearest_displacements(difference, cell, batch), expected, rtol=0, atol=1e-12)


def test_a_crystal_does_not_depend_on_the_others() -> None:
    parts = [drawn(seed, atoms, 0.6) for seed, atoms in enumerate((1, 7, 2, 80, 3))]
    difference, cell, _ = (torch.cat(values) for values in zip(*parts, strict=True))
    batch = torch.repeat_interleave(torch.arange(5), torch.tensor([1, 7, 2, 80, 3]))
    alone = torch.cat([nearest_displacements(*part) for part in parts])
    torch.testing.assert_close(nearest_displacements(difference, cell, batch), alone, rtol=0, atol=1e-12)


def test_the_type_is_kept() -> None:
    difference, cell, batch = drawn(0, 3, 0.1)
    assert nearest_displacements(difference.float(), cell.float(), batch).dtype == torch.float32


@given(seed=st.integers(0, 10**6))
def test_a_superbase_is_obtuse_and_spans_the_lattice(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cell = 3 * torch.randn(5, 3, 3, generator=generator, dtype=torch.float64)
    found = obtuse_superbase(CHANGES[seed % 3] @ cell)
    torch.testing.assert_close(found.sum(dim=1), torch.zeros(5, 3).double(), rtol=0, atol=1e-9)
    products = (found @ found.mT).masked_fill(torch.eye(4, dtype=torch.bool), -1)
    assert products.max() < 1e-6
    change = found[:, 1:] @ torch.linalg.inv(cell)
    torch.testing.assert_close(change, change.round(), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.linalg.det(change).abs(), torch.ones(5).double(), rtol=0, atol=1e-6)
