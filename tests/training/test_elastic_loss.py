"""The loss that knows stiff from soft errors: its value by hand, and what it must not depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.data import covalent_radii
from scipy.spatial.transform import Rotation
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.graph import GraphSettings
from deeprelax_ase.nn.deeprelax_e3 import NetworkInput, network_input
from deeprelax_ase.nn.records import Relaxation
from deeprelax_ase.training.e3_loss import TrueRelaxation, true_relaxation
from deeprelax_ase.training.elastic_loss import SMALL, elastic_energies, elastic_loss
from deeprelax_ase.training.padding import Sizes, pad

pytestmark = pytest.mark.shapes

Case = tuple[NetworkInput, TrueRelaxation]


def case_of(pairs: RelaxationPairs, weights: Tensor | None = None, *, cutoff: float = 6.0) -> Case:
    given = network_input(pair_graph(pairs, GraphSettings(cutoff=cutoff, max_in_cell=0)), 0)
    return given, true_relaxation(pairs, given, weights=weights)


def relaxation(displacements: Tensor, strain: Tensor) -> Relaxation:
    """One that asks for gradients; scales play no part."""
    scales = torch.ones_like(displacements[:, 0]), *(torch.ones_like(strain[:, 0, 0]),) * 2
    return Relaxation(displacements.clone().requires_grad_(), strain.clone().requires_grad_(), *scales)


def off(truth: TrueRelaxation, size: float = 0.1) -> Relaxation:
    """A relaxation with errors in all that it says."""
    generator = torch.Generator().manual_seed(4)
    moves = size * torch.randn(truth.displacements.shape, generator=generator, dtype=torch.float64)
    strain = 0.2 * size * torch.randn(truth.strain.shape, generator=generator, dtype=torch.float64)
    return relaxation(truth.displacements + moves, truth.strain + (strain + strain.mT) / 2)


@pytest.fixture
def two_atoms(pairs_of: Callable[..., RelaxationPairs]) -> RelaxationPairs:
    """A crystal of two atoms in a cube of 4 Å, at rest 2.0 Å apart along x, with images 4 Å away."""
    pairs = pairs_of(1)
    fractional = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]).double()
    cell = 4 * torch.eye(3).double()[None]
    at_rest = {"fractional_relaxed": fractional, "cell_relaxed": cell}
    starts = {"fractional_initial": fractional, "cell_initial": cell}
    return replace(pairs, numbers=torch.tensor([11, 17]), counts=torch.tensor([2]), **starts, **at_rest)


def test_the_energy_is_that_of_its_springs(two_atoms: RelaxationPairs) -> None:
    given, truth = case_of(two_atoms, cutoff=2.5)  # two bonds of 2 Å between unlike atoms, one to each side
    assert len(given.vectors) == 4
    moves = torch.tensor(
        [[-0.05, 0.0, 0.0], [0.05, 0.0, 0.0]], dtype=torch.float64
    )  # one bond 0.1 Å longer, one shorter
    strain = torch.zeros(1, 3, 3).double()
    stiffness = 4.0 * np.exp(-5.0 * (2 / covalent_radii[[11, 17]].sum() - 1))
    energy = elastic_energies(relaxation(moves, strain), truth, given)
    assert energy.item() == pytest.approx(2 * stiffness * 0.1**2 / 2 / 2, rel=1e-12)
    strain[0, 0, 0] = np.log(1.03)  # both 0.06 Å longer; what lies across is too far to be an edge
    energy = elastic_energies(relaxation(torch.zeros_like(moves), strain), truth, given)
    assert energy.item() == pytest.approx(2 * stiffness * 0.06**2 / 2 / 2, rel=1e-12)
    loss = elastic_loss(relaxation(torch.zeros_like(moves), strain), truth, given)
    assert loss.item() == pytest.approx((energy.item() + SMALL) ** 0.5 - SMALL**0.5, rel=1e-12)


def test_to_turn_a_bond_costs_next_to_nothing(two_atoms: RelaxationPairs) -> None:
    given, truth = case_of(two_atoms, cutoff=2.5)
    along, across = (
        elastic_energies(relaxation(torch.tensor([move, [0.0] * 3]).double(), truth.strain), truth, given).item()
        for move in ([0.1, 0.0, 0.0], [0.0, 0.1, 0.0])
    )
    assert 0 < across < 0.001 * along


def test_nothing_is_lost_at_the_truth_and_its_gradient_is_finite(pairs_of) -> None:
    given, truth = case_of(pairs_of(5))
    right = relaxation(truth.displacements, truth.strain)
    loss = elastic_loss(right, truth, given)
    assert loss.item() == 0
    loss.backward()
    for tensor in (right.displacements, right.strain):
        assert tensor.grad.isfinite().all()
    assert elastic_loss(off(truth, 1e-6), truth, given).item() > 0


def test_it_does_not_depend_on_how_a_crystal_lies(pairs_of) -> None:
    pairs = pairs_of(5)
    turns = torch.from_numpy(Rotation.random(5, rng=np.random.default_rng(2)).as_matrix())
    given, truth = case_of(pairs)
    turned = case_of(replace(pairs, cell_initial=pairs.cell_initial @ turns, cell_relaxed=pairs.cell_relaxed @ turns))
    wrong = off(truth)
    moved = (wrong.displacements[:, None] @ turns[given.batch]).squeeze(1)
    expected = elastic_energies(wrong, truth, given)
    found = elastic_energies(relaxation(moved, turns.mT @ wrong.strain @ turns), turned[1], turned[0])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    assert expected.min() > 1e-3


def test_a_batch_is_the_mean_of_its_crystals_by_their_weights(pairs_of) -> None:
    pairs, weights = pairs_of(4), torch.tensor([1.0, 0.0, 0.3, 2.0]).double()
    given, truth = case_of(pairs, weights)
    wrong, alone = off(truth), []
    for crystal in range(4):
        own = given.batch == crystal
        one = relaxation(wrong.displacements[own], wrong.strain[crystal : crystal + 1])
        alone.append(elastic_loss(one, *reversed(case_of(pairs.take(torch.tensor([crystal]))))).item())
    expected = float(np.average(alone, weights=weights))
    assert elastic_loss(wrong, truth, given).item() == pytest.approx(expected, rel=1e-10)
    elastic_loss(wrong, truth, given).backward()
    of_crystals = wrong.displacements.grad.norm(dim=1)
    assert not of_crystals[given.batch == 1].any()
    assert of_crystals[given.batch != 1].all()


def test_dummies_count_for_nothing(pairs_of) -> None:
    given, truth = case_of(pairs_of(3))
    wrong = off(truth)
    padded, padded_truth = pad(given, truth, Sizes.around([Sizes.of(given)]))
    moves = torch.cat([wrong.displacements, torch.ones(len(padded.numbers) - len(given.numbers), 3).double()])
    strain = torch.cat([wrong.strain, torch.zeros(len(padded.counts) - 3, 3, 3).double()])
    filled = relaxation(moves.detach(), strain.detach())
    loss, expected = elastic_loss(filled, padded_truth, padded), elastic_loss(wrong, truth, given)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(filled.displacements.grad[: len(given.numbers)], wrong.displacements.grad)
    assert not filled.displacements.grad[len(given.numbers) :].any()
    assert filled.strain.grad.isfinite().all()
