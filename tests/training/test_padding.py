from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.nn.deeprelax_e3 import NetworkInput, network_input
from deeprelax_ase.nn.records import KnownForces
from deeprelax_ase.training.e3_loss import TrueRelaxation, relaxation_loss, true_relaxation
from deeprelax_ase.training.padding import MIN_DUMMY_ATOMS, Sizes, pad

CONFIG = DeepRelaxE3Config(
    channels=8, num_blocks=2, layers_per_block=1, num_basis=8, max_neighbors=8, reads_forces=True
)
WEIGHTS = {"volume_weight": 3.0, "shape_weight": 2.0, "tempering": 0.5}


@pytest.fixture
def pairs(pairs_of, has_forces) -> RelaxationPairs:
    return has_forces(pairs_of(5))


@pytest.fixture
def batch(pairs: RelaxationPairs) -> tuple[NetworkInput, TrueRelaxation]:
    known = KnownForces(pairs.forces, pairs.virial, pairs.has_forces)
    given = network_input(pair_graph(pairs, CONFIG.graph), 0, known)
    return given, true_relaxation(pairs, given)


def network() -> DeepRelaxE3:
    torch.manual_seed(0)
    made = DeepRelaxE3(CONFIG).double()
    for block in made.blocks:
        torch.nn.init.normal_(block.refinement.gates[-1].weight, std=0.1)
    for parameter in made.forces.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def learn(given: NetworkInput, truth: TrueRelaxation) -> tuple[dict[str, Tensor], list, list[Tensor]]:
    """Losses, relaxations and gradients."""
    made = network()
    relaxations = made.refine(given)
    losses = relaxation_loss(relaxations, truth, **WEIGHTS)
    losses["loss"].backward()
    return losses, relaxations, [p.grad for p in made.parameters()]


def test_dummies_change_nothing(batch) -> None:
    given, truth = batch
    losses, relaxations, gradients = learn(given, truth)
    padded_losses, padded_relaxations, padded_gradients = learn(*pad(given, truth, Sizes.around([Sizes.of(given)])))
    for name, loss in losses.items():
        torch.testing.assert_close(padded_losses[name], loss, rtol=1e-12, atol=0)
    for plain, padded in zip(gradients, padded_gradients, strict=True):
        torch.testing.assert_close(padded, plain, rtol=0, atol=1e-11)
    assert max(float(g.abs().max()) for g in gradients) > 1e-2
    assert given.known.has_forces.tolist() == [True, False, True, False, True]
    for plain, padded in zip(relaxations, padded_relaxations, strict=True):
        for name, values in vars(plain).items():
            torch.testing.assert_close(getattr(padded, name)[: len(values)], values, rtol=0, atol=1e-12)
            assert getattr(padded, name).isfinite().all()


def test_padded_tensors_have_the_sizes_asked_for(batch) -> None:
    given, truth = batch
    sizes = Sizes(len(given.numbers) + 600, len(given.vectors) + 1234, len(given.counts) + 3)
    padded, padded_truth = pad(given, truth, sizes)
    assert len(padded.numbers) == len(padded.batch) == len(padded_truth.displacements) == len(padded_truth.atoms)
    assert len(padded.numbers) == sizes.atoms
    assert len(padded.level) == len(padded.counts) == len(padded_truth.strain) == sizes.crystals
    assert len(padded.vectors) == len(padded.edges.source) == len(padded.edges.by_source) == sizes.edges
    assert len(padded.edges.destination_starts) == len(padded.edges.source_starts) == sizes.atoms + 1
    for before, after in zip(_tensors(given, truth), _tensors(padded, padded_truth), strict=True):
        assert torch.equal(after[: len(before)], before)
        assert after.dtype == before.dtype


def test_dummy_atoms_belong_to_the_last_crystal_and_count_for_nothing(batch) -> None:
    given, truth = batch
    padded, padded_truth = pad(given, truth, Sizes.around([Sizes.of(given)]))
    atoms, crystals = len(given.numbers), len(given.counts)
    assert (padded.batch[atoms:] == len(padded.counts) - 1).all()
    assert padded.counts[-1] == len(padded.numbers) - atoms >= MIN_DUMMY_ATOMS
    assert not padded_truth.atoms[atoms:].any()
    assert not padded_truth.crystals[crystals:].any()
    assert (padded_truth.batch == padded.batch).all()


def test_of_dummies_no_forces_are_known(batch) -> None:
    given, truth = batch
    known = pad(given, truth, Sizes.around([Sizes.of(given)]))[0].known
    atoms, crystals = len(given.numbers), len(given.counts)
    assert known.has_forces[:crystals].any()
    assert not known.has_forces[crystals:].any()
    assert not known.forces[atoms:].any()
    assert not known.virial[crystals:].any()


@pytest.mark.parametrize(("atoms", "edges"), [(520, 5000), (700, 300)], ids=["many edges", "fewer edges than atoms"])
def test_starts_of_a_padded_batch_are_consistent(batch, atoms: int, edges: int) -> None:
    given, truth = batch
    sizes = Sizes(len(given.numbers) + atoms, len(given.vectors) + edges, len(given.counts) + 1)
    lists = pad(given, truth, sizes)[0].edges
    assert (lists.destination.diff() >= 0).all()
    assert torch.equal(lists.by_source.sort().values, torch.arange(sizes.edges))
    everything = torch.arange(sizes.atoms)
    for ends, starts in (
        (lists.destination, lists.destination_starts),
        (lists.source[lists.by_source], lists.source_starts),
    ):
        assert torch.equal(torch.repeat_interleave(everything, starts.diff()), ends)
    assert torch.equal(lists.source[len(given.vectors) :], lists.destination[len(given.vectors) :])
    real = torch.bincount(lists.destination)[len(given.numbers) :]
    assert real.max() <= -(-edges // atoms)  # spread evenly


def test_sizes_hold_the_batch_they_were_made_of_and_a_little_more(batch) -> None:
    given, _ = batch
    sizes = Sizes.around([Sizes.of(given)])
    here = Sizes.of(given)
    assert sizes.hold(here)
    atoms, edges, crystals, _ = here
    assert Sizes(atoms + MIN_DUMMY_ATOMS, edges + 1, crystals + 1).hold(here)
    assert not sizes.hold(here._replace(pairs=sizes.pairs + 1))
    for short in (
        Sizes(atoms + MIN_DUMMY_ATOMS - 1, edges + 1, crystals + 1),
        Sizes(atoms + MIN_DUMMY_ATOMS, edges, crystals + 1),
        Sizes(atoms + MIN_DUMMY_ATOMS, edges + 1, crystals),
    ):
        assert not short.hold(here)


def test_sizes_are_round_so_that_batches_share_them(pairs_of) -> None:
    inputs = [network_input(pair_graph(pairs_of(n), CONFIG.graph), 0) for n in (5, 6, 9)]
    sizes = {Sizes.around([Sizes.of(given)]) for given in inputs}
    assert len(sizes) == 1
    assert all(s.atoms % 512 == s.edges % 16384 == s.crystals % 128 == s.pairs % 4096 == 0 for s in sizes)


def test_sizes_hold_the_largest_of_several_batches_in_each_respect() -> None:
    several = [Sizes(9000, 10, 20), Sizes(10, 90000, 10), Sizes(5, 5, 900), Sizes(5, 5, 5, 70000)]
    sizes = Sizes.around(several)
    for largest, given in zip((9000 + MIN_DUMMY_ATOMS, 90000, 900, 70000), sizes, strict=True):
        assert largest < given < 1.3 * largest
    assert sizes == Sizes.around(reversed(several))


def _tensors(given: NetworkInput, truth: TrueRelaxation) -> list[Tensor]:
    return [*given[:-2], *given.known, *given.edges, *truth[:-1], *truth.start]
