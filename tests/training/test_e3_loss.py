from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.graph import GraphSettings
from deeprelax_ase.nn.deeprelax_e3 import NetworkInput, network_input
from deeprelax_ase.nn.records import Relaxation
from deeprelax_ase.training import TrainingSettings
from deeprelax_ase.training.e3_loss import TrueRelaxation, crystal_weights, relaxation_loss, true_relaxation
from deeprelax_ase.training.force_targets import StartForces

pytestmark = pytest.mark.shapes

WEIGHTS = {"volume_weight": 2.0, "shape_weight": 5.0, "tempering": 0.0}
ATOMS, CRYSTALS = 7, 3
BATCH = torch.tensor([0, 0, 0, 1, 1, 2, 2])


def given_of(pairs: RelaxationPairs) -> NetworkInput:
    return network_input(pair_graph(pairs, GraphSettings(max_in_cell=0)), 0)


def symmetric(size: int, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    matrices = torch.randn(size, 3, 3, generator=generator, dtype=torch.float64)
    matrices = matrices + matrices.mT
    return matrices * (scale / torch.linalg.matrix_norm(matrices, 2))[:, None, None]


# -- what is true of pairs


@pytest.fixture
def known(pairs_of) -> tuple[RelaxationPairs, Tensor, Tensor]:
    """Pairs made of a known strain and known displacements (Å), without drift."""
    pairs = pairs_of(8)
    strain = symmetric(8, 0.08)
    cell = pairs.cell_initial @ torch.linalg.matrix_exp(strain)
    moves = torch.randn(len(pairs.numbers), 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.1
    mean = torch.zeros(8, 3).double().index_add(0, pairs.batch, moves) / pairs.counts[:, None]
    moves = moves - mean[pairs.batch]
    fractional = pairs.fractional_initial + torch.linalg.solve(cell[pairs.batch].mT, moves[:, :, None]).squeeze(2)
    return replace(pairs, cell_relaxed=cell, fractional_relaxed=fractional), strain, moves


def assert_known(pairs: RelaxationPairs, strain: Tensor, moves: Tensor) -> None:
    truth = true_relaxation(pairs, given_of(pairs))
    torch.testing.assert_close(truth.strain, strain, rtol=0, atol=1e-12)
    torch.testing.assert_close(truth.displacements, moves, rtol=0, atol=1e-12)
    assert torch.equal(truth.atoms, torch.ones(len(moves)).double())
    assert torch.equal(truth.crystals, torch.ones(len(strain)).double())


def test_a_known_strain_and_known_displacements_are_found(known) -> None:
    assert_known(*known)


def test_a_rotation_of_the_relaxed_crystal_is_no_concern(known) -> None:
    pairs, strain, moves = known
    turns = torch.from_numpy(Rotation.random(8, rng=np.random.default_rng(1)).as_matrix())
    assert_known(replace(pairs, cell_relaxed=pairs.cell_relaxed @ turns), strain, moves)


def test_a_shift_of_the_relaxed_crystal_is_no_concern(known) -> None:
    pairs, strain, moves = known
    shift = torch.rand(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_known(replace(pairs, fractional_relaxed=pairs.fractional_relaxed + shift[pairs.batch]), strain, moves)


def test_the_truth_turns_with_the_unrelaxed_crystal(known) -> None:
    pairs, strain, moves = known
    turns = torch.from_numpy(Rotation.random(8, rng=np.random.default_rng(2)).as_matrix())
    turned = replace(pairs, cell_initial=pairs.cell_initial @ turns)
    assert_known(turned, turns.mT @ strain @ turns, (moves[:, None] @ turns[pairs.batch]).squeeze(1))


def test_a_relaxed_crystal_neither_strains_nor_moves(pairs_of) -> None:
    pairs = pairs_of(4)
    at_rest = replace(pairs, cell_relaxed=pairs.cell_initial, fractional_relaxed=pairs.fractional_initial)
    assert_known(at_rest, torch.zeros(4, 3, 3).double(), torch.zeros(len(pairs.numbers), 3).double())


def test_crystals_and_their_atoms_have_the_weights_that_are_given(pairs_of) -> None:
    pairs, weights = pairs_of(8), torch.rand(8).double()
    truth, plain = (true_relaxation(pairs, given_of(pairs), **given) for given in ({"weights": weights}, {}))
    assert torch.equal(truth.crystals, weights)
    assert torch.equal(truth.atoms, weights[pairs.batch])
    assert torch.equal(truth.batch, pairs.batch)
    assert torch.equal(plain.crystals, torch.ones(8).double())
    assert torch.equal(plain.displacements, truth.displacements)
    assert torch.equal(plain.strain, truth.strain)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"forces_weight": 0.1}, [0.1, 1, 0.1, 1]),
        ({"forces_weight": 1.0}, [1, 1, 1, 1]),
        ({"forces_weight": 1.0, "kind_weights": {8: 1.5, -2: 2.0}}, [1.5, 1, 2, 1.5]),
        ({"forces_weight": 1.0, "dft_weight": 1.2}, [1, 1.2, 1, 1]),
        ({"forces_weight": 1.0, "size_power": 0.5}, [2**-0.5, 0.5, 2**-0.5, 0.5]),
        ({"forces_weight": 0.5, "kind_weights": {8: 3.0}, "size_power": 1.0}, [0.75, 0.25, 0.25, 0.75]),
    ],
    ids=str,
)
def test_weights_multiply(pairs_of, has_forces, settings: dict, expected: list[float]) -> None:
    pairs = replace(has_forces(pairs_of(4)), kind=torch.tensor([8, 7, -2, 8]), dft=torch.arange(4) == 1)
    found = crystal_weights(pairs, TrainingSettings(**settings))
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-6, atol=0)


# -- the loss


NO_FORCES = StartForces(torch.zeros(0, 3), torch.zeros(0, 3, 3), *(torch.zeros(0),) * 4)


ENERGIES = (torch.zeros(CRYSTALS).double(), torch.ones(CRYSTALS).double())


def some_truth() -> TrueRelaxation:
    generator = torch.Generator().manual_seed(3)
    moves = torch.randn(ATOMS, 3, generator=generator, dtype=torch.float64)
    ones = torch.ones(ATOMS, dtype=torch.float64)
    return TrueRelaxation(moves, symmetric(CRYSTALS, 0.1), ones, ones[:CRYSTALS], BATCH, *ENERGIES, NO_FORCES)


def at(truth: TrueRelaxation, *, scale: float = 0.1) -> Relaxation:
    """A relaxation that is right, all its scales alike, and all of it asking for gradients."""
    return Relaxation(
        displacements=truth.displacements.clone().requires_grad_(),
        strain=truth.strain.clone().requires_grad_(),
        displacement_scales=torch.full((ATOMS,), scale, dtype=torch.float64).requires_grad_(),
        volume_scales=torch.full((CRYSTALS,), scale, dtype=torch.float64).requires_grad_(),
        shape_scales=torch.full((CRYSTALS,), scale, dtype=torch.float64).requires_grad_(),
    )


def wrong(truth: TrueRelaxation, *, scale: float = 0.1) -> Relaxation:
    """Displacements off by 0.3 Å, logarithms of the volume by 0.06, shapes by sqrt(2) 0.05."""
    right = at(truth, scale=scale)
    off = torch.zeros(CRYSTALS, 3, 3, dtype=torch.float64)
    off[:, 0, 1] = off[:, 1, 0] = 0.05
    off += 0.02 * torch.eye(3, dtype=torch.float64)
    moves = truth.displacements + 0.3 * torch.nn.functional.normalize(torch.ones(ATOMS, 3).double(), dim=1)
    return replace(right, displacements=moves.requires_grad_(), strain=(truth.strain + off).requires_grad_())


def test_errors_are_reported_and_weighed_as_stated() -> None:
    truth = some_truth()
    parts = {name: value.item() for name, value in relaxation_loss([wrong(truth)], truth, **WEIGHTS).items()}
    displacement, volume, shape = 0.3, 0.06, 0.05 * 2**0.5
    likelihoods = [k * np.log(0.1) + error / 0.1 for k, error in ((3, displacement), (1, volume), (5, shape))]
    expected = {"displacement": displacement, "volume": volume, "shape": shape}
    expected["loss"] = likelihoods[0] + 2 * likelihoods[1] + 5 * likelihoods[2]
    assert parts == pytest.approx(expected, abs=1e-12)


def test_the_loss_is_the_mean_over_blocks_and_the_errors_are_the_last_ones() -> None:
    truth = some_truth()
    first, last = wrong(truth), at(truth, scale=0.2)
    alone = [relaxation_loss([block], truth, **WEIGHTS) for block in (first, last)]
    both = relaxation_loss([first, last], truth, **WEIGHTS)
    assert both["loss"].item() == pytest.approx((alone[0]["loss"] + alone[1]["loss"]).item() / 2, abs=1e-12)
    assert both["displacement"] == both["volume"] == both["shape"] == 0


def test_blocks_may_have_weights() -> None:
    truth = some_truth()
    blocks = [wrong(truth), at(truth, scale=0.2)]
    first, last = (relaxation_loss([block], truth, **WEIGHTS)["loss"].item() for block in blocks)
    weighed = relaxation_loss(blocks, truth, **WEIGHTS, block_weights=(1.0, 3.0))
    assert weighed["loss"].item() == pytest.approx(first / 4 + 3 * last / 4, abs=1e-12)
    assert weighed["displacement"] == 0
    with pytest.raises(ValueError, match="zip"):
        relaxation_loss(blocks, truth, **WEIGHTS, block_weights=(1.0,))


@pytest.mark.parametrize("tempering", [0.0, 0.5])
def test_the_loss_is_least_at_the_truth(tempering: float) -> None:
    truth = some_truth()
    weights = {**WEIGHTS, "tempering": tempering}
    least = relaxation_loss([at(truth)], truth, **weights)["loss"].item()
    generator = torch.Generator().manual_seed(0)
    for size in (1e-6, 1e-3, 0.3):
        nudge = size * torch.randn(ATOMS, 3, generator=generator, dtype=torch.float64)
        moved = replace(at(truth), displacements=truth.displacements + nudge)
        strained = replace(at(truth), strain=truth.strain + symmetric(CRYSTALS, size))
        for nearby in (moved, strained):
            assert relaxation_loss([nearby], truth, **weights)["loss"].item() > least


def test_gradients_at_the_truth_are_finite() -> None:
    truth = some_truth()
    relaxation = at(truth)
    relaxation_loss([relaxation], truth, **WEIGHTS)["loss"].backward()
    for tensor in vars(relaxation).values():
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "components", "error"),
    [("displacement_scales", 3, 0.3), ("volume_scales", 1, 0.06), ("shape_scales", 5, 0.05 * 2**0.5)],
)
def test_the_best_scale_is_the_error_over_its_components(name: str, components: int, error: float) -> None:
    truth = some_truth()

    def slope(scale: float) -> Tensor:
        relaxation = wrong(truth)
        relaxation = replace(relaxation, **{name: torch.full_like(getattr(relaxation, name), scale).requires_grad_()})
        relaxation_loss([relaxation], truth, **WEIGHTS)["loss"].backward()
        return getattr(relaxation, name).grad

    best = error / components
    assert slope(best).abs().max() < 1e-10
    assert slope(0.99 * best).max() < -1e-3
    assert slope(1.01 * best).min() > 1e-3


def test_crystals_of_weight_zero_count_for_nothing() -> None:
    truth = some_truth()
    keep = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    masked = truth._replace(crystals=keep, atoms=keep[BATCH])
    relaxation = wrong(truth)
    relaxation = replace(relaxation, displacements=(relaxation.displacements * 1.5).detach().requires_grad_())
    kept = keep.bool()
    rest = Relaxation(
        **{
            name: tensor[kept[BATCH]] if len(tensor) == ATOMS else tensor[kept]
            for name, tensor in vars(relaxation).items()
        }
    )
    alone = TrueRelaxation(*(t[kept[BATCH]] if len(t) == ATOMS else t[kept] for t in truth[:-1]), start=NO_FORCES)
    alone = alone._replace(batch=kept.cumsum(0)[alone.batch] - 1)
    losses = relaxation_loss([relaxation], masked, **WEIGHTS)
    for name, expected in relaxation_loss([rest], alone, **WEIGHTS).items():
        assert losses[name].item() == pytest.approx(expected.item(), abs=1e-13), name
    losses["loss"].backward()
    for name, tensor in vars(relaxation).items():
        taken = kept[BATCH] if len(tensor) == ATOMS else kept
        assert not tensor.grad[~taken].any(), name
        assert tensor.grad[taken].flatten(start_dim=1).any(dim=1).all() if tensor.ndim > 1 else tensor.grad[taken].all()


def test_tempering_rescales_gradients_alone() -> None:
    """Each term's gradient is multiplied by ``scale ** tempering``; where they vanish does not change."""
    truth, gradients = some_truth(), {}
    scales = torch.linspace(0.02, 0.45, ATOMS, dtype=torch.float64)
    for tempering in (0.0, 0.5, 1.0):
        relaxation = replace(wrong(truth), displacement_scales=scales.clone().requires_grad_())
        relaxation_loss([relaxation], truth, **{**WEIGHTS, "tempering": tempering})["loss"].backward()
        gradients[tempering] = relaxation.displacements.grad, relaxation.displacement_scales.grad
    for tempering in (0.5, 1.0):
        for plain, tempered in zip(gradients[0.0], gradients[tempering], strict=True):
            factor = (scales**tempering).view(-1, *[1] * (plain.ndim - 1))
            torch.testing.assert_close(tempered, factor * plain, rtol=1e-12, atol=0)
    assert gradients[1.0][0].norm(dim=1).std() < 1e-15  # at 1 all errors pull alike, however sure they are


def tempered(tempering: float | Tensor, truth: TrueRelaxation) -> tuple[float, Relaxation]:
    """The loss of relaxations with unlike scales, and these with their gradients."""
    relaxation = wrong(truth)
    for name, tensor in vars(relaxation).items():
        if "scales" in name:
            tensor.data = torch.linspace(0.02, 0.45, len(tensor), dtype=torch.float64)
    loss = relaxation_loss([relaxation], truth, **{**WEIGHTS, "tempering": tempering})["loss"]
    loss.backward()
    return loss.item(), relaxation


def test_each_crystal_may_have_a_tempering_of_its_own() -> None:
    """Its gradients are then those of a call with that tempering for all, and the losses of the crystals add up."""
    truth = some_truth()
    mixed, swapped = torch.tensor([0.0, 0.5, 0.0]), torch.tensor([0.5, 0.0, 0.5])
    loss, own = tempered(mixed, truth)
    separate = {value: tempered(value, truth) for value in (0.0, 0.5)}
    assert loss + tempered(swapped, truth)[0] == pytest.approx(sum(alone[0] for alone in separate.values()), abs=1e-12)
    for name, tensor in vars(own).items():
        for index, crystal in enumerate(BATCH.tolist() if len(tensor) == ATOMS else range(CRYSTALS)):
            expected = getattr(separate[mixed[crystal].item()][1], name).grad[index]
            torch.testing.assert_close(tensor.grad[index], expected, rtol=1e-12, atol=0, msg=name)
            other = getattr(separate[swapped[crystal].item()][1], name).grad[index]
            assert not torch.allclose(tensor.grad[index], other, rtol=1e-3, atol=0), name


@pytest.mark.parametrize("tempering", [0.0, 0.5, 1.0])
def test_one_tempering_for_each_crystal_is_one_for_all_where_they_agree(tempering: float) -> None:
    truth = some_truth()
    each, all_of_them = (tempered(value, truth)[0] for value in (torch.full((CRYSTALS,), tempering), tempering))
    assert each == pytest.approx(all_of_them, abs=1e-12)


# -- cells that may not be strained in all directions


def projected_truth(pairs: RelaxationPairs, projectors: Tensor) -> TrueRelaxation:
    graph = pair_graph(pairs, GraphSettings(max_in_cell=0))
    return true_relaxation(pairs, network_input(graph, 0, strain_projectors=projectors))


def test_the_strain_of_a_fixed_cell_is_zero_and_has_no_weight(known) -> None:
    pairs, strain, _ = known
    fixed_cell = torch.arange(8) % 2 == 0
    projectors = torch.eye(3, dtype=torch.float64) * (~fixed_cell)[:, None, None]
    truth = projected_truth(pairs, projectors)
    assert not truth.strain[fixed_cell].any()
    torch.testing.assert_close(truth.strain[~fixed_cell], strain[~fixed_cell], rtol=0, atol=1e-12)
    assert truth.crystals.tolist() == (~fixed_cell).double().tolist()
    assert truth.atoms.tolist() == [1.0] * len(pairs.numbers)


def test_the_strain_of_a_layer_lies_in_its_plane(known) -> None:
    pairs, strain, _ = known
    plane = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)).expand(8, 3, 3)
    truth = projected_truth(pairs, plane)
    torch.testing.assert_close(truth.strain[:, :2, :2], strain[:, :2, :2], rtol=0, atol=1e-12)
    assert not truth.strain[:, 2].any()
    assert truth.crystals.tolist() == [1.0] * 8


def test_where_all_cells_are_fixed_no_strain_counts(known) -> None:
    pairs, _, _ = known
    truth = projected_truth(pairs, torch.zeros(8, 3, 3, dtype=torch.float64))
    strain = torch.zeros(8, 3, 3, dtype=torch.float64, requires_grad=True)
    scales = {"displacement_scales": torch.ones(len(truth.atoms)).double()}
    scales |= {name: torch.full((8,), 0.1).double().requires_grad_() for name in ("volume_scales", "shape_scales")}
    found = Relaxation(displacements=truth.displacements + 0.1, strain=strain, **scales)
    losses = relaxation_loss([found], truth, **WEIGHTS)
    assert losses["volume"] == losses["shape"] == 0
    losses["loss"].backward()
    for value in (strain, found.volume_scales, found.shape_scales):
        assert not value.grad.any()
    assert losses["loss"].item() == pytest.approx(0.1 * 3**0.5)
