from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.training import AugmentationSettings
from deeprelax_ase.training.augment import augment

PairsOf = Callable[..., RelaxationPairs]
NOTHING = {"interpolated": 0.0, "relaxed": 0.0, "perturbed": 0.0, "strained": 0.0, "rattled": 0.0, "rewrapped": 0.0}


def augmented(pairs: RelaxationPairs, *, seed: int = 11, **shares: Any) -> RelaxationPairs:
    return augment(pairs, AugmentationSettings(**{**NOTHING, **shares}), torch.Generator().manual_seed(seed))


def changed(a: Tensor, b: Tensor) -> Tensor:
    """(G,) whether a crystal's matrix differs."""
    return (a != b).flatten(start_dim=1).any(dim=1)


def crystals_of(atoms: Tensor, pairs: RelaxationPairs) -> Tensor:
    """(G,) whether any atom of a crystal is marked."""
    return torch.zeros(len(pairs)).index_add(0, pairs.batch, atoms.float()) > 0


def image_distances(fractional: Tensor, cell: Tensor) -> Tensor:
    """Sorted distances below 6 Å between all atoms and their images."""
    images = torch.tensor(list(itertools.product(range(-4, 5), repeat=3)), dtype=fractional.dtype)
    vectors = (fractional[None, :, None] - fractional[:, None, None] + images) @ cell
    lengths = vectors.norm(dim=-1).flatten()
    return lengths[(lengths > 1e-6) & (lengths < 6)].sort().values


def test_nothing_asked_for_nothing_changed(pairs_of: PairsOf) -> None:
    pairs = pairs_of(20)
    same = augmented(pairs)
    for f in fields(RelaxationPairs):
        assert torch.equal(getattr(same, f.name), getattr(pairs, f.name)), f.name


@pytest.mark.parametrize(
    "shares",
    [{"interpolated": 1.0}, {"relaxed": 1.0}, {"strained": 1.0}, {"rattled": 1.0}, {"rewrapped": 1.0}],
    ids=lambda shares: next(iter(shares)),
)
def test_labels_stay_bitwise_unless_rewrapped(pairs_of: PairsOf, shares: dict[str, float]) -> None:
    pairs = pairs_of(20)
    new = augmented(pairs, **shares)
    for name in ("numbers", "counts", "cell_relaxed", "dft", "level", "split"):
        assert torch.equal(getattr(new, name), getattr(pairs, name)), name
    assert torch.equal(new.fractional_relaxed, pairs.fractional_relaxed) != ("rewrapped" in shares)
    assert not torch.equal(new.fractional_initial, pairs.fractional_initial) or "strained" in shares
    assert not torch.equal(new.cell_initial, pairs.cell_initial) or {"rattled", "rewrapped"} & set(shares)


def test_shares_are_those_asked_for(pairs_of: PairsOf) -> None:
    pairs = pairs_of(4000)
    way = augmented(pairs, interpolated=0.35, relaxed=0.15)
    relaxed = ~changed(way.cell_initial, pairs.cell_relaxed)
    moved = changed(way.cell_initial, pairs.cell_initial)
    tolerance = 0.03  # four standard deviations of a share of 4000
    assert relaxed.float().mean().item() == pytest.approx(0.15, abs=tolerance)
    assert (moved & ~relaxed).float().mean().item() == pytest.approx(0.35, abs=tolerance)
    strained = changed(augmented(pairs, strained=0.3).cell_initial, pairs.cell_initial)
    assert strained.float().mean().item() == pytest.approx(0.3, abs=tolerance)
    for name, share in (("rattled", 0.1), ("rewrapped", 0.6)):
        new = augmented(pairs, **{name: share})
        touched = crystals_of((new.fractional_initial != pairs.fractional_initial).any(dim=1), pairs)
        assert touched.float().mean().item() == pytest.approx(share, abs=tolerance), name


def test_interpolated_crystals_lie_on_the_line_to_the_relaxed_crystal(pairs_of: PairsOf) -> None:
    pairs = pairs_of(2000)
    new = augmented(pairs, interpolated=1.0)
    whole = pairs.cell_relaxed - pairs.cell_initial
    way = (new.cell_initial - pairs.cell_initial).flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)
    assert way.min() >= 0
    assert way.max() < 1
    assert way.mean().item() == pytest.approx(0.5, abs=0.03)  # uniform
    assert way.std().item() == pytest.approx(12**-0.5, abs=0.02)
    cell = pairs.cell_initial + way[:, None, None] * whole
    fractional = pairs.fractional_initial + way[pairs.batch, None] * (
        pairs.fractional_relaxed - pairs.fractional_initial
    )
    torch.testing.assert_close(new.cell_initial, cell, rtol=0, atol=1e-12)
    torch.testing.assert_close(new.fractional_initial, fractional, rtol=0, atol=1e-12)


def test_relaxed_crystals_are_left_alone_by_strain_and_rattling(pairs_of: PairsOf) -> None:
    new = augmented(pairs_of(50), relaxed=1.0, strained=1.0, rattled=1.0, rewrapped=0.5)
    assert torch.equal(new.cell_initial, new.cell_relaxed)
    assert torch.equal(new.fractional_initial, new.fractional_relaxed)


def test_strain_is_symmetric_and_as_large_as_asked_for(pairs_of: PairsOf) -> None:
    pairs = pairs_of(4000)
    new = augmented(pairs, strained=1.0, strain=0.03)
    strain = torch.linalg.solve(pairs.cell_initial, new.cell_initial) - torch.eye(3)
    torch.testing.assert_close(strain, strain.mT, rtol=0, atol=1e-13)
    assert strain.diagonal(dim1=1, dim2=2).std().item() == pytest.approx(0.03, rel=0.05)
    assert strain[:, 0, 1].std().item() == pytest.approx(0.03 / 2**0.5, rel=0.05)
    assert torch.equal(new.fractional_initial, pairs.fractional_initial)  # atoms follow the cell


def test_rattling_is_as_large_as_asked_for(pairs_of: PairsOf) -> None:
    pairs = pairs_of(4000)
    new = augmented(pairs, rattled=1.0, rattle=0.05)
    shake = torch.einsum(
        "nk,nkx->nx", new.fractional_initial - pairs.fractional_initial, pairs.cell_initial[pairs.batch]
    )
    atoms = pairs.counts[pairs.batch]
    for n in (2, 4):  # the mean of n atoms is taken out
        assert shake[atoms == n].std().item() == pytest.approx(0.05 * (1 - 1 / n) ** 0.5, rel=0.05)


def perturbed_strain(pairs: RelaxationPairs, new: RelaxationPairs) -> Tensor:
    return torch.linalg.solve(pairs.cell_relaxed, new.cell_initial) - torch.eye(3)


def test_around_lies_around_the_relaxed_crystal_by_amounts_of_all_sizes(pairs_of: PairsOf) -> None:
    pairs = pairs_of(6000)
    new = augmented(pairs, perturbed=1.0, perturbed_strain=(0.003, 0.1), perturbed_rattle=(0.01, 0.2))
    strain = perturbed_strain(pairs, new)
    torch.testing.assert_close(strain, strain.mT, rtol=0, atol=1e-13)
    shake = new.fractional_initial - pairs.fractional_relaxed
    shake = torch.einsum("nk,nkx->nx", shake, new.cell_initial[pairs.batch])
    # The logarithm of a product: the deviation drawn evenly over the logarithms, times a normal variate.
    normal = torch.randn(10**6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs().log()
    four = pairs.counts[pairs.batch] == 4
    for values, (low, high), factor in (
        (strain.diagonal(dim1=1, dim2=2), (0.003, 0.1), 1.0),
        (strain[:, 0, 1], (0.003, 0.1), 0.5**0.5),
        (shake[four], (0.01, 0.2), 0.75**0.5),  # the mean of four atoms is taken out
    ):
        sizes = values.abs().log()
        mean = (torch.tensor([low, high]).log().mean() + normal.mean()).item() + math.log(factor)
        variance = math.log(high / low) ** 2 / 12 + normal.var().item()
        assert sizes.mean().item() == pytest.approx(mean, abs=0.08)
        assert sizes.std().item() == pytest.approx(variance**0.5, rel=0.05)


@pytest.mark.parametrize("strain", [0.01, 0.05])
def test_around_a_range_of_one_value_is_that_value(pairs_of: PairsOf, strain: float) -> None:
    pairs = pairs_of(4000)
    new = augmented(pairs, perturbed=1.0, perturbed_strain=(strain, strain), perturbed_rattle=(1e-9, 1e-9))
    found = perturbed_strain(pairs, new).diagonal(dim1=1, dim2=2)
    assert found.std().item() == pytest.approx(strain, rel=0.05)
    torch.testing.assert_close(new.fractional_initial, pairs.fractional_relaxed, rtol=0, atol=1e-8)


def test_around_takes_its_share_beside_the_others(pairs_of: PairsOf) -> None:
    pairs = pairs_of(4000)
    new = augmented(pairs, interpolated=0.2, relaxed=0.1, perturbed=0.3, perturbed_strain=(1e-5, 1e-5), strained=1.0)
    strain = perturbed_strain(pairs, new).flatten(start_dim=1).norm(dim=1)
    relaxed = ~changed(new.cell_initial, pairs.cell_relaxed)
    perturbed = ~relaxed & (strain < 1e-3)
    for chosen, share in ((relaxed, 0.1), (perturbed, 0.3)):
        assert chosen.double().mean().item() == pytest.approx(share, abs=0.03)  # not strained a second time
    assert strain[~relaxed & ~perturbed].median() > 0.02


SHARES = ("interpolated", "relaxed", "perturbed", "strained", "rattled", "rewrapped")


@pytest.mark.parametrize("chosen", [*[(name,) for name in SHARES[:5]], SHARES[:5]], ids="+".join)
def test_crystals_whose_forces_are_known_are_left_alone(pairs_of: PairsOf, has_forces, chosen: tuple[str, ...]) -> None:
    pairs = has_forces(pairs_of(20))
    new = augmented(pairs, **dict.fromkeys(chosen, 1.0))
    atoms = crystals_of((new.fractional_initial != pairs.fractional_initial).any(dim=1), pairs)
    assert torch.equal(atoms | changed(new.cell_initial, pairs.cell_initial), ~pairs.has_forces)
    for name in ("fractional_relaxed", "cell_relaxed", "forces", "virial", "has_forces"):
        assert torch.equal(getattr(new, name), getattr(pairs, name)), name


def test_they_may_move_to_other_images_as_a_whole(pairs_of: PairsOf, has_forces) -> None:
    pairs = has_forces(pairs_of(20))
    new = augmented(pairs, **dict.fromkeys(SHARES, 1.0))
    assert torch.equal(changed(new.cell_initial, pairs.cell_initial), ~pairs.has_forces)
    shift = new.fractional_initial - pairs.fractional_initial
    from_first = shift - shift[(pairs.counts.cumsum(0) - pairs.counts)[pairs.batch]]
    distorted = ((from_first - from_first.round()).abs() > 1e-12).any(dim=1)
    assert torch.equal(crystals_of(distorted, pairs), ~pairs.has_forces)
    to_relaxed = (new.fractional_relaxed - new.fractional_initial) - (
        pairs.fractional_relaxed - pairs.fractional_initial
    )
    assert to_relaxed[pairs.has_forces[pairs.batch]].abs().max() < 1e-13


def test_ranges_may_come_as_lists() -> None:
    assert AugmentationSettings(perturbed_rattle=[0.01, 0.1]) == AugmentationSettings(perturbed_rattle=(0.01, 0.1))  # type: ignore[arg-type]


def test_rewrapping_moves_both_sides_to_the_same_images(pairs_of: PairsOf) -> None:
    pairs = pairs_of(30)
    new = augmented(pairs, rewrapped=1.0)
    assert (new.fractional_initial >= 0).all()
    assert (new.fractional_initial < 1).all()
    torch.testing.assert_close(
        new.fractional_relaxed - new.fractional_initial,
        pairs.fractional_relaxed - pairs.fractional_initial,
        rtol=0,
        atol=1e-14,
    )
    images = new.fractional_initial - pairs.fractional_initial
    first = (pairs.counts.cumsum(0) - pairs.counts)[pairs.batch]
    hops = images - images[first]  # all atoms share the shift, up to whole lattice vectors
    torch.testing.assert_close(hops, hops.round(), rtol=0, atol=1e-13)
    assert hops.round().any(dim=1).float().mean() > 0.2  # and many do change their image


def test_rewrapping_keeps_the_crystal(pairs_of: PairsOf) -> None:
    pairs = pairs_of(6)
    new = augmented(pairs, rewrapped=1.0)
    for k in range(6):
        atoms = pairs.batch == k
        for side in ("initial", "relaxed"):
            expected, actual = (
                image_distances(getattr(p, f"fractional_{side}")[atoms], getattr(p, f"cell_{side}")[k])
                for p in (pairs, new)
            )
            assert len(expected) > 10
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_no_drift_between_the_two_sides(pairs_of: PairsOf) -> None:
    pairs = pairs_of(100)
    new = augment(
        pairs, AugmentationSettings(0.4, 0.1, 0.3, rattled=0.9, rewrapped=0.5), torch.Generator().manual_seed(1)
    )
    difference = new.fractional_relaxed - new.fractional_initial
    drift = torch.zeros(100, 3).double().index_add(0, pairs.batch, difference) / pairs.counts[:, None]
    assert drift.abs().max() < 1e-14
    assert difference.abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_seed_fixes_everything(pairs_of: PairsOf, dtype: torch.dtype) -> None:
    pairs, settings = pairs_of(40, dtype=dtype), AugmentationSettings()

    def draw(seed: int) -> RelaxationPairs:
        return augment(pairs, settings, torch.Generator().manual_seed(seed))

    for f in fields(RelaxationPairs):
        assert torch.equal(getattr(draw(1), f.name), getattr(draw(1), f.name))
        assert getattr(draw(1), f.name).dtype == getattr(pairs, f.name).dtype
    assert not torch.equal(draw(1).cell_initial, draw(2).cell_initial)


def test_the_input_is_not_changed(pairs_of: PairsOf) -> None:
    pairs = pairs_of(20)
    augment(pairs, AugmentationSettings(), torch.Generator().manual_seed(1))
    for f in fields(RelaxationPairs):
        assert torch.equal(getattr(pairs, f.name), getattr(pairs_of(20), f.name)), f.name


def test_fixed_cells_are_not_strained(pairs_of: PairsOf) -> None:
    pairs = pairs_of(40)
    pairs = replace(pairs, fixed_cell=torch.arange(40) % 2 == 0, cell_relaxed=pairs.cell_initial)
    new = augmented(pairs, interpolated=0.3, perturbed=0.3, strained=1.0, rattled=1.0)
    strained = changed(new.cell_initial, pairs.cell_relaxed)
    assert torch.equal(strained, ~pairs.fixed_cell)
    assert torch.equal(new.fixed_cell, pairs.fixed_cell)
    assert changed(new.fractional_initial, pairs.fractional_initial).all()


def test_layers_are_strained_in_their_plane(pairs_of: PairsOf) -> None:
    pairs = pairs_of(2).take(torch.tensor([0, 0]))
    slab = torch.diag_embed(torch.tensor([[3.6, 3.6, 20.0]] * 2, dtype=torch.float64))
    flat = pairs.fractional_initial * torch.tensor([1.0, 1.0, 0.1])
    pairs = replace(pairs, cell_initial=slab, cell_relaxed=slab, fractional_initial=flat, fractional_relaxed=flat)
    cell = augmented(pairs, strained=1.0).cell_initial
    assert torch.equal(cell[:, 2], slab[:, 2])
    assert not cell[:, :2, 2].any()
    assert changed(cell[:, :2, :2], slab[:, :2, :2]).all()


def test_crystals_in_their_relaxed_cells_keep_them(pairs_of: PairsOf) -> None:
    pairs = pairs_of(400)
    new = augmented(pairs, in_relaxed_cell=0.4)
    fixed = new.fixed_cell
    assert fixed.float().mean().item() == pytest.approx(0.4, abs=0.1)
    assert torch.equal(new.cell_initial[fixed], pairs.cell_relaxed[fixed])
    assert torch.equal(new.cell_initial[~fixed], pairs.cell_initial[~fixed])
    assert torch.equal(new.fractional_initial, pairs.fractional_initial)


def test_where_forces_are_known_no_cell_is_changed(pairs_of: PairsOf, has_forces) -> None:
    pairs = has_forces(pairs_of(20))
    assert torch.equal(augmented(pairs, in_relaxed_cell=1.0).fixed_cell, ~pairs.has_forces)
