from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from deeprelax_ase.data import Pairs
from deeprelax_ase.graph import GraphSettings
from deeprelax_ase.nn.deeprelax_e3 import network_input
from deeprelax_ase.training.augment import AugmentationSettings, augment
from deeprelax_ase.training.e3_loss import true_relaxation
from deeprelax_ase.training.graphs import pair_graph
from deeprelax_ase.training.replay import Replay

STILL = {"on_the_way": 0.0, "arrived": 0.0, "strained": 0.0, "rattled": 0.0, "rewrapped": 0.0}
CHOSEN = torch.tensor([7, 2, 3])


@pytest.fixture
def pairs(pairs_of) -> Pairs:
    return pairs_of(10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def store_exact(replay: Replay, crystals: torch.Tensor, start: Pairs) -> None:
    """As after a perfect prediction."""
    truth = true_relaxation(start, network_input(pair_graph(start, GraphSettings(max_in_cell=0)), 0))
    replay.store(crystals, start, truth.displacements, truth.strain)


def test_without_predictions_the_pairs_come_as_they_are(pairs: Pairs) -> None:
    mixed = Replay(pairs).mix(CHOSEN, 1.0, generator())
    for f in fields(Pairs):
        assert torch.equal(getattr(mixed, f.name), getattr(pairs.take(CHOSEN), f.name)), f.name


def test_no_motion_is_stored_as_the_start(pairs: Pairs) -> None:
    replay, start = Replay(pairs), pairs.take(CHOSEN)
    replay.store(CHOSEN, start, torch.zeros(len(start.numbers), 3).double(), torch.zeros(3, 3, 3).double())
    mixed = replay.mix(CHOSEN, 1.0, generator())
    assert torch.equal(mixed.scaled_initial, start.scaled_initial)
    assert torch.equal(mixed.cell_initial, start.cell_initial)


@pytest.mark.parametrize(
    "shares",
    [{}, {"strained": 1.0}, {"rattled": 1.0}, {"around": 1.0}, {"rewrapped": 1.0}],
    ids=lambda shares: next(iter(shares), "as it is"),
)
def test_an_exact_prediction_lands_on_the_relaxed_crystal(pairs: Pairs, shares: dict[str, float]) -> None:
    """From whatever start, in whatever images that lay, up to a rotation."""
    replay = Replay(pairs)
    start = augment(pairs.take(CHOSEN), AugmentationSettings(**{**STILL, **shares}), generator(3))
    store_exact(replay, CHOSEN, start)
    mixed = replay.mix(CHOSEN, 1.0, generator())
    metric, expected = (cell @ cell.mT for cell in (mixed.cell_initial, pairs.cell_relaxed[CHOSEN]))
    torch.testing.assert_close(metric, expected, rtol=0, atol=1e-8)  # the series of the exponential, at large strains
    torch.testing.assert_close(mixed.scaled_initial, pairs.take(CHOSEN).scaled_relaxed, rtol=0, atol=1e-12)


def test_only_what_was_predicted_changes_and_only_the_unrelaxed_side(pairs: Pairs) -> None:
    replay = Replay(pairs)
    store_exact(replay, CHOSEN, pairs.take(CHOSEN))
    mixed = replay.mix(torch.arange(10), 1.0, generator())
    changed = (mixed.cell_initial != pairs.cell_initial).flatten(start_dim=1).any(dim=1)
    assert changed.nonzero().flatten().tolist() == sorted(CHOSEN.tolist())
    moved = pairs.batch[(mixed.scaled_initial != pairs.scaled_initial).any(dim=1)]
    assert moved.unique().tolist() == sorted(CHOSEN.tolist())
    for name in ("numbers", "counts", "scaled_relaxed", "cell_relaxed", "dft", "level", "split"):
        assert torch.equal(getattr(mixed, name), getattr(pairs, name)), name


def test_a_share_of_the_crystals_is_replayed_as_a_whole(pairs_of) -> None:
    pairs = pairs_of(3000)
    replay, everything = Replay(pairs), torch.arange(3000)
    store_exact(replay, everything, pairs)
    mixed = replay.mix(everything, 0.3, generator())
    by_cell = (mixed.cell_initial != pairs.cell_initial).flatten(start_dim=1).any(dim=1)
    by_atom = (mixed.scaled_initial != pairs.scaled_initial).any(dim=1)
    assert by_cell.double().mean().item() == pytest.approx(0.3, abs=0.033)  # four standard deviations
    assert torch.equal(by_atom, by_cell[pairs.batch])
    assert torch.equal(replay.mix(everything, 0.0, generator()).cell_initial, pairs.cell_initial)


def test_crystals_whose_forces_are_known_stay_where_those_were_found(pairs_of, informed) -> None:
    pairs = informed(pairs_of(10))
    replay, everything = Replay(pairs), torch.arange(10)
    store_exact(replay, everything, pairs)
    mixed = replay.mix(everything, 1.0, generator())
    by_cell = (mixed.cell_initial != pairs.cell_initial).flatten(start_dim=1).any(dim=1)
    by_atom = (mixed.scaled_initial != pairs.scaled_initial).any(dim=1)
    assert torch.equal(by_cell, ~pairs.informed)
    assert torch.equal(by_atom, ~pairs.informed[pairs.batch])
    for name in ("forces", "virial", "informed"):
        assert torch.equal(getattr(mixed, name), getattr(pairs, name)), name


def test_checkpoints_keep_the_predictions_and_the_pairs_stay(pairs: Pairs, pairs_of) -> None:
    replay, other = Replay(pairs), Replay(pairs)
    store_exact(replay, CHOSEN, pairs.take(CHOSEN))
    other.load_state_dict(replay.state_dict())
    one, two = (r.mix(torch.arange(10), 1.0, generator()) for r in (replay, other))
    assert torch.equal(one.scaled_initial, two.scaled_initial)
    assert torch.equal(one.cell_initial, two.cell_initial)
    for f in fields(Pairs):
        assert torch.equal(getattr(pairs, f.name), getattr(pairs_of(10), f.name)), f.name
