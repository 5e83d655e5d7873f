"""The direct networks that the paper's tables compare with: symmetry, learning, and what they hand over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from baselines import BASELINES
from baselines.direct import DirectConfig, DirectTask, displaced, relax_direct
from torch import Tensor, nn

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.evaluation.metrics import lattice_mae
from deeprelax_ase.training import AugmentationSettings, TrainingSettings, train
from tests.pairs import make_pairs

STILL = AugmentationSettings(interpolated=0, relaxed=0, strained=0, rattled=0, rewrapped=0)
Relax = Callable[[RelaxationPairs, Tensor | None], tuple[Tensor, Tensor]]


NAMES = [name for name, (config, _) in BASELINES.items() if config.frame == "cell"]


@pytest.fixture(params=NAMES)
def config(request: pytest.FixtureRequest) -> DirectConfig:
    return replace(BASELINES[request.param][0], channels=12, num_layers=2, num_basis=8, cutoff=4.5)


@pytest.fixture
def network(config: DirectConfig) -> nn.Module:
    """In float64, with random weights in the output layers too, which start at zero."""
    torch.manual_seed(7)
    network = config.make().double()
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter)
    return network


@pytest.fixture
def relax(network: nn.Module, config: DirectConfig) -> Relax:
    """Positions and cells of unrelaxed crystals, positions in the cells given or in those predicted."""

    def predict(pairs: RelaxationPairs, true_cell: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            graph = pair_graph(pairs, config.graph)
            displacements, cell = network(graph, true_cell)
            return displaced(graph, displacements, cell, true_cell, config), cell

    return predict


@pytest.fixture
def pairs() -> RelaxationPairs:
    """Three triclinic crystals of 2, 4 and 2 atoms, rattled so that nothing sits on a symmetric site."""
    pairs, generator = make_pairs(3), torch.Generator().manual_seed(1)
    shake = 0.06 * torch.randn(8, 3, generator=generator, dtype=torch.float64)
    strain = 0.1 * torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)
    return replace(
        pairs,
        fractional_initial=pairs.fractional_initial + shake,
        cell_initial=pairs.cell_initial @ (torch.eye(3) + strain),
    )


def positions(pairs: RelaxationPairs) -> Tensor:
    return torch.einsum("nk,nkx->nx", pairs.fractional_initial, pairs.cell_initial[pairs.batch])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_cartesian_displacements_are_measured_from_the_unrelaxed_atoms(pairs: RelaxationPairs) -> None:
    config = BASELINES["PaiNN-Cartesian"][0]
    graph, moved = pair_graph(pairs, config.graph), torch.ones(8, 3, dtype=torch.float64)
    close(displaced(graph, moved, pairs.cell_relaxed, None, config), positions(pairs) + 1)
    carried = torch.einsum("nk,nkx->nx", pairs.fractional_initial, pairs.cell_relaxed[pairs.batch])
    close(displaced(graph, moved, pairs.cell_relaxed, None, replace(config, frame="cell")), carried + 1)


# -- symmetry of the coordinates; the lattice head of eq. (10) has none, so the cell is given


def test_positions_move_at_all(relax: Relax, pairs: RelaxationPairs) -> None:
    moved = relax(pairs, pairs.cell_initial)[0] - positions(pairs)
    assert moved.norm(dim=1).min() > 1e-3


@pytest.mark.parametrize("mirrored", [False, True], ids=["rotation", "reflection"])
def test_positions_turn_with_the_crystal(relax: Relax, pairs: RelaxationPairs, mirrored: bool) -> None:
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    if (torch.linalg.det(turn) < 0) != mirrored:
        turn = -turn
    turned = replace(pairs, cell_initial=pairs.cell_initial @ turn, cell_relaxed=pairs.cell_relaxed @ turn)
    close(relax(turned, turned.cell_relaxed)[0], relax(pairs, pairs.cell_relaxed)[0] @ turn)


def test_positions_follow_a_shift_of_the_origin(relax: Relax, pairs: RelaxationPairs) -> None:
    shift = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64)
    shifted = replace(pairs, fractional_initial=pairs.fractional_initial + shift)
    expected = relax(pairs, pairs.cell_relaxed)[0] + (shift @ pairs.cell_relaxed)[pairs.batch]
    close(relax(shifted, pairs.cell_relaxed)[0], expected)


def test_displacements_do_not_depend_on_periodic_images(relax: Relax, pairs: RelaxationPairs) -> None:
    images = torch.tensor([[1.0, 0, 0], [0, -2, 1]]).repeat(4, 1).double()
    moved = replace(pairs, fractional_initial=pairs.fractional_initial + images)
    expected = relax(pairs, pairs.cell_relaxed)[0] + torch.einsum("nk,nkx->nx", images, pairs.cell_relaxed[pairs.batch])
    close(relax(moved, pairs.cell_relaxed)[0], expected)


def test_atoms_may_come_in_any_order(relax: Relax, pairs: RelaxationPairs) -> None:
    order = torch.tensor([1, 0, 5, 3, 2, 4, 6, 7])  # within each crystal
    atoms = {
        name: getattr(pairs, name)[order] for name in ("numbers", "fractional_initial", "fractional_relaxed", "forces")
    }
    (before, cell), (after, cell_after) = relax(pairs, None), relax(replace(pairs, **atoms), None)
    close(after, before[order])
    close(cell_after, cell)


def test_a_crystal_is_predicted_alone_as_in_a_batch(relax: Relax, pairs: RelaxationPairs) -> None:
    together = relax(pairs, None)
    alone = [relax(pairs.take(torch.tensor([k])), None) for k in range(3)]
    for k, part in enumerate(zip(*alone, strict=True)):
        close(torch.cat(part), together[k])


# -- before, in and after training


def test_an_untrained_network_predicts_the_unrelaxed_crystal(config: DirectConfig, pairs: RelaxationPairs) -> None:
    fractional, cell = relax_direct(config.make().double(), config, pairs)
    close(fractional, pairs.fractional_initial)
    assert torch.equal(cell, pairs.cell_initial)


@pytest.mark.parametrize(
    "config", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])], indirect=True
)
def test_a_network_relaxes_what_it_has_learnt(config: DirectConfig, tmp_path: Path) -> None:
    pairs = make_pairs(12, dtype=torch.float32)
    settings = TrainingSettings(
        max_steps=60, learning_rate=1e-2, average_decay=0.9, lattice_weight=1.0, augmentation=STILL, log_every=10
    )
    network = train(pairs, config, settings, tmp_path, make_task=DirectTask)
    task = DirectTask(pairs, config, settings)
    before, after = task.validate(task.network, pairs), task.validate(network, pairs)
    for name in ("loss", "lattice", "coordinates"):
        assert after[name] < 0.5 * before[name], name


def test_gradients_are_those_of_the_batch_and_not_added_up(config: DirectConfig) -> None:
    pairs, chosen = make_pairs(8, dtype=torch.float32), torch.tensor([3, 0, 5])
    task = DirectTask(pairs, config, TrainingSettings(augmentation=STILL))
    for parameter in task.network.parameters():
        nn.init.normal_(parameter, std=0.1)
    first = task.gradients(chosen, chosen)
    gradients = [p.grad.clone() for p in task.network.parameters() if p.grad is not None]
    assert len(gradients) == len(list(task.network.parameters()))
    assert first == task.gradients(chosen, torch.tensor([1]))
    again = [p.grad for p in task.network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))
    assert {"loss", "coordinates", "lattice"} == set(first)


def test_a_task_goes_on_with_its_random_numbers(config: DirectConfig) -> None:
    pairs, chosen = make_pairs(8, dtype=torch.float32), torch.arange(8)
    torch.manual_seed(0)
    task = DirectTask(pairs, config, TrainingSettings())
    state = task.state_dict()
    first, second = task.gradients(chosen, chosen), task.gradients(chosen, chosen)
    task.load_state_dict(state)
    assert task.gradients(chosen, chosen) == first != second


def test_the_errors_at_validation_are_those_at_use(
    network: nn.Module, config: DirectConfig, pairs: RelaxationPairs
) -> None:
    """Cell and coordinates come from the network alone, whatever training gave it."""
    task = DirectTask(pairs, config, TrainingSettings(lattice_weight=2.0))
    losses = task.validate(network, pairs)
    fractional, cell = relax_direct(network, config, pairs)
    found = torch.einsum("nk,nkx->nx", fractional, cell[pairs.batch])
    truth = torch.einsum("nk,nkx->nx", pairs.fractional_relaxed, pairs.cell_relaxed[pairs.batch])
    close(losses["coordinates"], (found - truth).abs().mean())
    close(losses["lattice"], lattice_mae(cell, pairs.cell_relaxed).mean())
    close(losses["error"], losses["coordinates"] + 2 * losses["lattice"])


def test_small_batches_give_the_same(network: nn.Module, config: DirectConfig, pairs: RelaxationPairs) -> None:
    whole, parts = (relax_direct(network, config, pairs, atoms_per_batch=n) for n in (1000, 2))
    close(parts[0], whole[0])
    close(parts[1], whole[1])
