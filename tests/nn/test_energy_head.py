"""The head that reads the energy of the relaxed crystal off the atoms' scalars."""

from __future__ import annotations

import pytest
import torch

from deeprelax_ase.nn.energy_head import ENERGY_SCALES, EnergyHead


@pytest.fixture
def head() -> EnergyHead:
    torch.manual_seed(3)
    made = EnergyHead(channels=8, blocks=2, elements=10, hidden=12, pooled=6).double()
    torch.nn.init.normal_(made.elements)
    return made


def scalars(atoms: int) -> list[torch.Tensor]:
    return list(torch.randn(2, atoms, 8, dtype=torch.float64))


def test_untouched_layers_leave_the_mean_energy_of_the_elements(head: EnergyHead):
    for layer in (head.atoms, head.crystals[-1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    numbers, batch = torch.tensor([3, 3, 8, 5]), torch.tensor([0, 0, 0, 1])
    energy, _ = head(scalars(4), numbers, batch, 2)
    expected = torch.stack([(2 * head.elements[3] + head.elements[8]) / 3, head.elements[5]])
    torch.testing.assert_close(energy, expected)


def test_a_crystal_twice_over_has_the_same_energy_an_atom(head: EnergyHead):
    x, numbers = scalars(3), torch.tensor([1, 2, 3])
    once = head(x, numbers, torch.zeros(3, dtype=torch.long), 1)
    twice = head([torch.cat([v, v]) for v in x], numbers.repeat(2), torch.zeros(6, dtype=torch.long), 1)
    torch.testing.assert_close(once, twice)


def test_scales_stay_within_their_bounds(head: EnergyHead):
    torch.nn.init.constant_(head.crystals[-1].bias, 1e3)
    _, scale = head(scalars(2), torch.tensor([1, 2]), torch.tensor([0, 1]), 2)
    assert (scale <= ENERGY_SCALES[1] * (1 + 1e-9)).all()


def test_it_comes_back_from_its_tensors(head: EnergyHead):
    again = EnergyHead.from_tensors({name: t.float() for name, t in head.state_dict().items()})
    x, numbers, batch = scalars(2), torch.tensor([1, 2]), torch.tensor([0, 0])
    torch.testing.assert_close(again.double()(x, numbers, batch, 1), head(x, numbers, batch, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"atoms.weight": None}, {"atoms.weight": torch.zeros(2, 12)}, {"more": torch.zeros(1)}]
)
def test_tensors_of_something_else_are_no_head(head: EnergyHead, change: dict):
    tensors = {name: t for name, t in (head.state_dict() | change).items() if t is not None}
    with pytest.raises(ValueError, match="are no energy head"):
        EnergyHead.from_tensors(tensors)
