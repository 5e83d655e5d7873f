from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.data.forces import NEAR_MINIMUM
from deeprelax_ase.graph import GraphSettings
from deeprelax_ase.nn.deeprelax_e3 import network_input
from deeprelax_ase.training import AugmentationSettings
from deeprelax_ase.training.augment import augment
from deeprelax_ase.training.e3_loss import true_relaxation
from deeprelax_ase.training.recycle_buffer import RecycleBuffer

STILL = {"interpolated": 0.0, "relaxed": 0.0, "strained": 0.0, "rattled": 0.0, "rewrapped": 0.0}
CHOSEN = torch.tensor([7, 2, 3])


#: Operations that a host waits for the GPU in.
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::unique", "aten::masked_select")


class Waits(TorchDispatchMode):
    """Notes the operations for which the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        sized = (kwargs or {}).get("output_size") is not None
        if func.name().startswith(WAITS) or (func.name().startswith("aten::repeat_interleave") and not sized):
            self.noted.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def pairs(pairs_of) -> RelaxationPairs:
    return pairs_of(10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def store_exact(recycle_buffer: RecycleBuffer, crystals: torch.Tensor, start: RelaxationPairs) -> None:
    """As after a perfect prediction."""
    truth = true_relaxation(start, network_input(pair_graph(start, GraphSettings(max_in_cell=0)), 0))
    recycle_buffer.store(crystals, start, truth.displacements, truth.strain)


def test_without_predictions_the_pairs_come_as_they_are(pairs: RelaxationPairs) -> None:
    mixed = RecycleBuffer(pairs).mix(CHOSEN, 1.0, generator())
    for f in fields(RelaxationPairs):
        assert torch.equal(getattr(mixed, f.name), getattr(pairs.take(CHOSEN), f.name)), f.name


def test_no_motion_is_stored_as_the_start(pairs: RelaxationPairs) -> None:
    recycle_buffer, start = RecycleBuffer(pairs), pairs.take(CHOSEN)
    recycle_buffer.store(CHOSEN, start, torch.zeros(len(start.numbers), 3).double(), torch.zeros(3, 3, 3).double())
    mixed = recycle_buffer.mix(CHOSEN, 1.0, generator())
    assert torch.equal(mixed.fractional_initial, start.fractional_initial)
    assert torch.equal(mixed.cell_initial, start.cell_initial)


@pytest.mark.parametrize(
    "shares",
    [{}, {"strained": 1.0}, {"rattled": 1.0}, {"perturbed": 1.0}, {"rewrapped": 1.0}],
    ids=lambda shares: next(iter(shares), "as it is"),
)
def test_an_exact_prediction_lands_on_the_relaxed_crystal(pairs: RelaxationPairs, shares: dict[str, float]) -> None:
    """From whatever start, in whatever images that lay, up to a rotation."""
    recycle_buffer = RecycleBuffer(pairs)
    start = augment(pairs.take(CHOSEN), AugmentationSettings(**{**STILL, **shares}), generator(3))
    store_exact(recycle_buffer, CHOSEN, start)
    mixed = recycle_buffer.mix(CHOSEN, 1.0, generator())
    metric, expected = (cell @ cell.mT for cell in (mixed.cell_initial, pairs.cell_relaxed[CHOSEN]))
    torch.testing.assert_close(metric, expected, rtol=0, atol=1e-8)  # the series of the exponential, at large strains
    torch.testing.assert_close(mixed.fractional_initial, pairs.take(CHOSEN).fractional_relaxed, rtol=0, atol=1e-12)


def test_only_what_was_predicted_changes_and_only_the_unrelaxed_side(pairs: RelaxationPairs) -> None:
    recycle_buffer = RecycleBuffer(pairs)
    store_exact(recycle_buffer, CHOSEN, pairs.take(CHOSEN))
    mixed = recycle_buffer.mix(torch.arange(10), 1.0, generator())
    changed = (mixed.cell_initial != pairs.cell_initial).flatten(start_dim=1).any(dim=1)
    assert changed.nonzero().flatten().tolist() == sorted(CHOSEN.tolist())
    moved = pairs.batch[(mixed.fractional_initial != pairs.fractional_initial).any(dim=1)]
    assert moved.unique().tolist() == sorted(CHOSEN.tolist())
    for name in ("numbers", "counts", "fractional_relaxed", "cell_relaxed", "dft", "level", "split"):
        assert torch.equal(getattr(mixed, name), getattr(pairs, name)), name


def test_what_was_predicted_is_stored_without_a_wait_for_a_gpu(pairs: RelaxationPairs) -> None:
    """The step is still running, and what comes after it is to be launched meanwhile."""
    buffers, start = (RecycleBuffer(pairs), RecycleBuffer(pairs)), pairs.take(CHOSEN)
    moved = torch.full((len(start.numbers), 3), 0.1).double(), torch.full((3, 3, 3), 0.01).double()
    with Waits() as of_search:
        atoms = pairs.atoms_of(CHOSEN)
    with Waits() as of_store:
        buffers[0].store(CHOSEN, start, *moved, atoms=atoms)
    buffers[1].store(CHOSEN, start, *moved)
    assert of_search.noted
    assert of_store.noted == []
    assert torch.equal(buffers[0].fractional, buffers[1].fractional)
    assert torch.equal(buffers[0].cell, buffers[1].cell)


def test_a_share_of_the_crystals_is_recycled_as_a_whole(pairs_of) -> None:
    pairs = pairs_of(3000)
    recycle_buffer, everything = RecycleBuffer(pairs), torch.arange(3000)
    store_exact(recycle_buffer, everything, pairs)
    mixed = recycle_buffer.mix(everything, 0.3, generator())
    by_cell = (mixed.cell_initial != pairs.cell_initial).flatten(start_dim=1).any(dim=1)
    by_atom = (mixed.fractional_initial != pairs.fractional_initial).any(dim=1)
    assert by_cell.double().mean().item() == pytest.approx(0.3, abs=0.033)  # four standard deviations
    assert torch.equal(by_atom, by_cell[pairs.batch])
    assert torch.equal(recycle_buffer.mix(everything, 0.0, generator()).cell_initial, pairs.cell_initial)


def test_crystals_whose_forces_are_known_stay_where_those_were_found(pairs_of, has_forces) -> None:
    pairs = has_forces(pairs_of(10))
    recycle_buffer, everything = RecycleBuffer(pairs), torch.arange(10)
    store_exact(recycle_buffer, everything, pairs)
    mixed = recycle_buffer.mix(everything, 1.0, generator())
    by_cell = (mixed.cell_initial != pairs.cell_initial).flatten(start_dim=1).any(dim=1)
    by_atom = (mixed.fractional_initial != pairs.fractional_initial).any(dim=1)
    assert torch.equal(by_cell, ~pairs.has_forces)
    assert torch.equal(by_atom, ~pairs.has_forces[pairs.batch])
    for name in ("forces", "virial", "has_forces"):
        assert torch.equal(getattr(mixed, name), getattr(pairs, name)), name


@pytest.mark.parametrize(("near", "starts"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_crystals_whose_forces_are_hidden_are_recycled_as_any_others(
    pairs_of, has_forces, near: float, starts: float
) -> None:
    pairs = has_forces(pairs_of(10), every=1)
    pairs = replace(pairs, kind=torch.where(torch.arange(10) < 4, NEAR_MINIMUM, 7))
    recycle_buffer, everything = RecycleBuffer(pairs), torch.arange(10)
    store_exact(recycle_buffer, everything, pairs)
    mixed = recycle_buffer.mix(everything, 1.0, generator(), hidden=near, hidden_starts=starts)
    assert mixed.has_forces.tolist() == [near == 0] * 4 + [starts == 0] * 6
    moved = (mixed.cell_initial != pairs.cell_initial).flatten(start_dim=1).any(dim=1)
    assert torch.equal(moved, ~mixed.has_forces)


def test_checkpoints_keep_the_predictions_and_the_pairs_stay(pairs: RelaxationPairs, pairs_of) -> None:
    recycle_buffer, other = RecycleBuffer(pairs), RecycleBuffer(pairs)
    store_exact(recycle_buffer, CHOSEN, pairs.take(CHOSEN))
    other.load_state_dict(recycle_buffer.state_dict())
    one, two = (r.mix(torch.arange(10), 1.0, generator()) for r in (recycle_buffer, other))
    assert torch.equal(one.fractional_initial, two.fractional_initial)
    assert torch.equal(one.cell_initial, two.cell_initial)
    for f in fields(RelaxationPairs):
        assert torch.equal(getattr(pairs, f.name), getattr(pairs_of(10), f.name)), f.name
