"""Pairs in other cells and orders: the crystals must stay what they are, which atom tags in the forces let us see."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.nn import ABLATIONS, DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training import AugmentationSettings, TrainingSettings
from deeprelax_ase.training.augment import augment
from deeprelax_ase.training.cell_augmentation import MOST_SKEWED, augment_cells, double, permute, shear
from deeprelax_ase.training.e3_task import DeepRelaxE3Task
from deeprelax_ase.training.graph_task import DeepRelaxTask

CHOICES: list[dict[str, float]] = [{"sheared": 1.0}, {"permuted": 1.0}, {"supercell": 1.0}]
CHOICES += [{"sheared": 1.0, "permuted": 1.0, "supercell": 1.0}, {"sheared": 0.5, "permuted": 0.5, "supercell": 0.5}]
NOTHING = AugmentationSettings(interpolated=0, relaxed=0, strained=0, rattled=0, rewrapped=0)
seeds = st.integers(0, 2**31)
each_choice = pytest.mark.parametrize(
    "shares", CHOICES, ids=lambda shares: "+".join(f"{k} {v}" for k, v in shares.items())
)


def triclinic(seed: int, size: int = 6) -> RelaxationPairs:
    """Random crystals of one to five atoms; the forces of atom n are (n, n, n) and the virials as distinct."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    counts = torch.randint(1, 6, (size,), generator=generator)
    atoms = int(counts.sum())
    cell = torch.diag_embed(uniform(2.5, 6.0, size, 3)) + uniform(-1.0, 1.0, size, 3, 3)
    fractional = uniform(-0.5, 1.5, atoms, 3)
    return RelaxationPairs(
        numbers=torch.randint(1, 90, (atoms,), generator=generator),
        counts=counts,
        fractional_initial=fractional,
        fractional_relaxed=fractional + uniform(-0.1, 0.1, atoms, 3),
        cell_initial=cell,
        cell_relaxed=cell + uniform(-0.2, 0.2, size, 3, 3),
        dft=torch.arange(size) % 2 == 0,
        level=torch.arange(size) % 3,
        split=torch.arange(size) % 2,
        forces=torch.arange(atoms).double()[:, None].expand(atoms, 3).clone(),
        virial=uniform(-1.0, 1.0, size, 3, 3),
        has_forces=torch.arange(size) % 2 == 1,
        energy_gain=torch.arange(size).double(),
        energy_relaxed=-torch.arange(size).double(),
        kind=torch.full((size,), -1),
        fixed_cell=torch.zeros(size, dtype=torch.bool),
    )


def changed(pairs: RelaxationPairs, *, seed: int = 3, **shares: Any) -> RelaxationPairs:
    return augment_cells(pairs, torch.Generator().manual_seed(seed), **shares)


def tags(pairs: RelaxationPairs) -> Tensor:
    """(N,) which atom of the first pairs each atom is."""
    return pairs.forces[:, 0].long()


def copies(new: RelaxationPairs, old: RelaxationPairs) -> Tensor:
    """(G,) how many times each crystal is as large as it was."""
    assert (new.counts % old.counts == 0).all()
    return new.counts // old.counts


def changes_of_cell(new: RelaxationPairs, old: RelaxationPairs, side: str = "initial") -> Tensor:
    """(G, 3, 3) U of new lattice vectors U L."""
    return torch.linalg.solve(getattr(old, f"cell_{side}"), getattr(new, f"cell_{side}"), left=False)


def environments(pairs: RelaxationPairs, side: str, crystal: int) -> Tensor:
    """Sorted distances below 5 Å from each atom of one crystal to all atoms and images, one row for each atom."""
    atoms = pairs.batch == crystal
    cell, fractional = getattr(pairs, f"cell_{side}")[crystal], getattr(pairs, f"fractional_{side}")[atoms]
    spacings = 1 / torch.linalg.inv(cell).norm(dim=0)
    reach = (torch.ceil(5 / spacings) + torch.ceil(fractional.max(dim=0)[0] - fractional.min(dim=0)[0])).int().tolist()
    images = torch.tensor(list(itertools.product(*(range(-n, n + 1) for n in reach))), dtype=cell.dtype)
    lengths = (
        ((fractional[None, :, None] - fractional[:, None, None] + images) @ cell).norm(dim=-1).flatten(1).sort(dim=1)[0]
    )
    return torch.where(lengths < 5, lengths, torch.inf)


def test_nothing_asked_for_nothing_changed_and_nothing_drawn() -> None:
    pairs, generator = triclinic(0), torch.Generator().manual_seed(5)
    before = generator.get_state()
    assert augment_cells(pairs, generator) is pairs
    assert torch.equal(generator.get_state(), before)


@each_choice
@given(seed=seeds)
@settings(max_examples=10)
def test_both_crystals_stay_what_they_are(shares: dict[str, float], seed: int) -> None:
    old = triclinic(seed, size=3)
    new = changed(old, seed=seed + 1, **shares)
    assert torch.equal(new.numbers, old.numbers[tags(new)])
    for side in ("initial", "relaxed"):
        volumes = [torch.linalg.det(getattr(p, f"cell_{side}")).abs() / p.counts for p in (old, new)]
        torch.testing.assert_close(volumes[1], volumes[0], rtol=1e-12, atol=0)
        for k in range(3):
            before, after = environments(old, side, k), environments(new, side, k)
            first = int(old.counts[:k].sum())
            expected = before[tags(new)[new.batch == k] - first]
            shared = min(before.shape[1], after.shape[1])  # the rest lies beyond 5 Å
            assert before[:, shared:].isinf().all()
            assert after[:, shared:].isinf().all()
            torch.testing.assert_close(after[:, :shared], expected[:, :shared], rtol=0, atol=1e-11)


@each_choice
@given(seed=seeds)
@settings(max_examples=10)
def test_relaxation_stays_what_it_is(shares: dict[str, float], seed: int) -> None:
    old = triclinic(seed)
    new = changed(old, seed=seed + 1, **shares)
    moves = [
        torch.einsum("nk,nkx->nx", p.fractional_relaxed - p.fractional_initial, p.cell_relaxed[p.batch])
        for p in (old, new)
    ]
    torch.testing.assert_close(moves[1], moves[0][tags(new)], rtol=0, atol=1e-12)
    deformations = [torch.linalg.solve(p.cell_initial, p.cell_relaxed) for p in (old, new)]
    torch.testing.assert_close(deformations[1], deformations[0], rtol=0, atol=1e-11)


@each_choice
@given(seed=seeds)
@settings(max_examples=10)
def test_every_atom_is_still_there_in_its_own_crystal(shares: dict[str, float], seed: int) -> None:
    old = triclinic(seed)
    new = changed(old, seed=seed + 1, **shares)
    assert torch.equal(new.batch, old.batch[tags(new)])
    found = torch.bincount(tags(new), minlength=len(old.numbers))
    assert torch.equal(found, copies(new, old)[old.batch])
    torch.testing.assert_close(new.virial, old.virial * copies(new, old)[:, None, None], rtol=0, atol=0)
    for name in ("dft", "level", "split", "has_forces"):
        assert torch.equal(getattr(new, name), getattr(old, name)), name


@each_choice
def test_the_generator_alone_decides_and_the_given_pairs_stay(shares: dict[str, float]) -> None:
    old = triclinic(1)
    kept = deepcopy(old)
    torch.manual_seed(0)
    first = changed(old, **shares)
    torch.manual_seed(1)
    second, other = changed(old, **shares), changed(old, seed=4, **shares)
    for f in fields(RelaxationPairs):
        assert torch.equal(getattr(first, f.name), getattr(second, f.name)), f.name
        assert torch.equal(getattr(old, f.name), getattr(kept, f.name)), f.name
    same = (torch.equal(getattr(first, f.name), getattr(other, f.name)) for f in fields(RelaxationPairs))
    assert not all(same)


# -- other lattice vectors


@given(seed=seeds)
@settings(max_examples=10)
def test_new_lattice_vectors_are_whole_combinations_of_the_old_ones(seed: int) -> None:
    old = triclinic(seed)
    new = changed(old, seed=seed + 1, sheared=1.0)
    change = changes_of_cell(new, old)
    torch.testing.assert_close(change, change.round(), rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.linalg.det(change).abs(), torch.ones(6).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(changes_of_cell(new, old, "relaxed"), change, rtol=0, atol=1e-10)
    assert new.fractional_initial.min() >= 0
    assert new.fractional_initial.max() < 1


def skewness(pairs: RelaxationPairs) -> Tensor:
    cell = pairs.cell_initial
    return cell.norm(dim=2).prod(dim=1) / torch.linalg.det(cell).abs()


def test_cells_are_sheared_reordered_and_mirrored_but_not_made_too_skewed() -> None:
    old = triclinic(2, size=3000)
    long = old.cell_initial * torch.tensor([1.0, 1.0, 6.0], dtype=torch.float64)[:, None]
    old = replace(old, cell_initial=torch.where((torch.arange(3000) % 2 == 0)[:, None, None], long, old.cell_initial))
    new = changed(old, sheared=1.0)
    assert (skewness(new) <= skewness(old).clamp_min(MOST_SKEWED) * (1 + 1e-12)).all()
    change = changes_of_cell(new, old).round()
    added = change.abs().sum(dim=(1, 2)) - 3  # lattice vectors added to others
    assert (added > 0).double().mean() > 0.5
    assert added.max() >= 2
    assert torch.linalg.det(change).round().mean().abs() < 0.08  # as many left-handed as right-handed ones
    largest = torch.linalg.vector_norm(new.cell_initial, dim=2).argmax(dim=1)
    assert (
        torch.bincount(largest, minlength=3).double().div(3000).sub(1 / 3).abs().max() < 0.04
    )  # any may be the long one


# -- another order


def test_every_order_is_as_likely() -> None:
    old = triclinic(2, size=6000)
    old = old.take((old.counts == 3).nonzero().squeeze(1))
    old = replace(old, forces=torch.arange(len(old.numbers)).double()[:, None].expand(-1, 3))
    orders = (tags(changed(old, permuted=1.0)) % 3).view(-1, 3)
    numbers = torch.bincount(orders @ torch.tensor([9, 3, 1]))
    assert (numbers > 0).sum() == 6
    shares = numbers[numbers > 0].double() / len(old)
    assert (shares - 1 / 6).abs().max() < 4 * (5 / 36 / len(old)) ** 0.5


def test_many_crystals_in_single_precision_keep_their_atoms() -> None:
    counts = torch.ones(200_000, dtype=torch.int64)
    old = replace(
        triclinic(0, size=1).to("cpu"),
        numbers=counts,
        counts=counts,
        fractional_initial=torch.zeros(len(counts), 3),
        fractional_relaxed=torch.zeros(len(counts), 3),
        forces=torch.arange(len(counts)).double()[:, None],
    )
    assert torch.equal(tags(changed(old, permuted=1.0)), torch.arange(len(counts)))


# -- a cell twice as large


def test_small_crystals_are_doubled_along_any_lattice_vector() -> None:
    old = triclinic(2, size=3000)
    new = changed(old, supercell=1.0, supercell_atoms=3)
    assert torch.equal(copies(new, old), torch.where(old.counts <= 3, 2, 1))
    change = changes_of_cell(new, old)
    torch.testing.assert_close(change, torch.diag_embed(change.diagonal(dim1=1, dim2=2)), rtol=0, atol=1e-10)
    doubled = change.diagonal(dim1=1, dim2=2)[old.counts <= 3].round() == 2
    assert (doubled.sum(dim=1) == 1).all()
    assert (doubled.double().mean(dim=0) - 1 / 3).abs().max() < 4 * (2 / 9 / len(doubled)) ** 0.5
    assert torch.equal(new.take((old.counts > 3).nonzero().squeeze(1)).cell_initial, old.cell_initial[old.counts > 3])


def test_both_halves_are_rattled_apart() -> None:
    old = replace(triclinic(2), has_forces=torch.zeros(6, dtype=torch.bool))
    new = augment(old, replace(NOTHING, supercell=1.0, rattled=1.0, rattle=0.01), torch.Generator().manual_seed(0))
    move = torch.einsum("nk,nkx->nx", new.fractional_relaxed - new.fractional_initial, new.cell_relaxed[new.batch])
    first, second = (move[(tags(new) == 0).nonzero().squeeze(1)[half]] for half in (0, 1))
    assert 1e-4 < (first - second).abs().max() < 0.2


# -- shares, and who may ask


@pytest.mark.parametrize("change", [shear, permute, double])
def test_crystals_that_are_not_chosen_stay_bitwise(change: Callable[..., RelaxationPairs]) -> None:
    old, chosen = triclinic(4, size=60), torch.arange(60) % 3 == 0
    new = change(old, chosen, torch.Generator().manual_seed(0))
    others = (~chosen).nonzero().squeeze(1)
    for f in fields(RelaxationPairs):
        assert torch.equal(getattr(new.take(others), f.name), getattr(old.take(others), f.name)), f.name
    touched = chosen & (old.counts > 3)  # of the larger ones hardly any is put in the order that it was in
    same = [torch.equal(new.take(k).fractional_initial, old.take(k).fractional_initial) for k in touched.nonzero()]
    assert sum(same) <= 1 < len(same)


def test_shares_are_those_asked_for() -> None:
    old = triclinic(4, size=4000)
    old = old.take((old.counts == 5).nonzero().squeeze(1))
    old = replace(old, forces=torch.arange(len(old.numbers)).double()[:, None])
    tolerance = 4 * (0.21 / len(old)) ** 0.5
    for name, kept in (("sheared", 0.01), ("permuted", 1 / 120), ("supercell", 0.0)):  # by chance
        new = changed(old, **{name: 0.3})
        if name == "permuted":
            touched = (tags(new) != torch.arange(len(old.numbers))).view(-1, 5).any(dim=1)
        else:
            touched = (new.cell_initial != old.cell_initial).flatten(1).any(dim=1)
        assert touched.double().mean().item() == pytest.approx(0.3 * (1 - kept), abs=tolerance), name


def test_settings_know_that_they_change_crystals() -> None:
    assert not NOTHING.changes
    assert not NOTHING.augments_cells
    assert not AugmentationSettings().augments_cells
    for name in ("sheared", "permuted", "supercell"):
        asked = replace(NOTHING, **{name: 0.1})
        assert asked.changes
        assert asked.augments_cells


def test_augmentation_hands_its_shares_on() -> None:
    old = triclinic(2)
    shares = {"sheared": 0.5, "permuted": 0.6, "supercell": 0.7, "supercell_atoms": 4}
    new = augment(old, replace(NOTHING, **shares), torch.Generator().manual_seed(3))  # type: ignore[arg-type]
    for f in fields(RelaxationPairs):
        assert torch.equal(getattr(new, f.name), getattr(changed(old, **shares), f.name)), f.name


def test_the_papers_network_learns_from_them(pairs_of: Callable[..., RelaxationPairs]) -> None:
    asked = replace(NOTHING, sheared=1.0, permuted=1.0, supercell=1.0)
    config = replace(ABLATIONS["DeepRelax"], channels=8, num_layers=1, num_basis=8, encoding_channels=8)
    task = DeepRelaxTask(pairs_of(6, dtype=torch.float32), config, TrainingSettings(augmentation=asked))
    losses = task.gradients(torch.tensor([3, 0, 5]), torch.tensor([1]))
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.network.lattice_head.parameters())


@pytest.mark.parametrize("name", ["sheared", "permuted", "supercell"])
def test_the_end_to_end_network_refuses_what_it_does_not_see(
    pairs_of: Callable[..., RelaxationPairs], name: str
) -> None:
    asked = TrainingSettings(augmentation=replace(NOTHING, **{name: 0.1}))
    with pytest.raises(ValueError, match=r"indifferent: leave these shares of the augmentation at 0"):
        DeepRelaxE3Task(pairs_of(4), DeepRelaxE3Config(channels=8, num_blocks=1, layers_per_block=1), asked)


@each_choice
def test_the_end_to_end_network_is_indifferent(shares: dict[str, float]) -> None:
    torch.manual_seed(7)
    network = DeepRelaxE3(DeepRelaxE3Config(channels=8, num_blocks=2, layers_per_block=1, num_basis=8)).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    old = triclinic(8)
    new = changed(old, **shares)
    with torch.no_grad():
        before, after = (network(pair_graph(pairs, network.config.graph), 0)[-1] for pairs in (old, new))
    assert before.strain.abs().max() > 1e-3
    assert before.displacements.abs().max() > 1e-3
    torch.testing.assert_close(after.strain, before.strain, rtol=0, atol=1e-10)
    torch.testing.assert_close(after.displacements, before.displacements[tags(new)], rtol=0, atol=1e-10)
