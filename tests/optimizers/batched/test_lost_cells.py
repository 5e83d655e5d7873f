"""Cells that collapse, go flat or burst under a potential end their relaxation, and no other's."""

from __future__ import annotations

import pytest
import torch

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.m3gnet_torch import EnergiesForcesStresses
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from tests.optimizers.batched.test_relaxation import OPTIMIZERS, crystals, needs_cuda, relaxed, start


class Imploding(BatchedPotential):
    """Draws cells of gold together without an end, flat ones where they may move in one direction alone.

    A negative ``pressure``, in eV/Å³, draws them apart.
    """

    name = "imploding"

    def __init__(self, device: str, pressure: float = 5.0) -> None:
        self.device, self.pressure = torch.device(device), pressure

    def compute(self, numbers, positions, cells, batch) -> EnergiesForcesStresses:
        gold = (torch.zeros_like(cells[:, 0, 0]).index_add_(0, batch, (numbers == 79).to(cells)) > 0).to(cells)
        pressure = self.pressure * gold
        identity = torch.eye(3, dtype=cells.dtype, device=self.device)
        return EnergiesForcesStresses(
            pressure * torch.linalg.det(cells).abs(), torch.zeros_like(positions), pressure[:, None, None] * identity
        )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_cells_that_collapse_or_go_flat_end_by_themselves(device: str, optimizer: str) -> None:
    """Their neighbours have no end: a potential that is asked for them fills the memory, or never answers."""
    given, flattened = crystals(), AllowedStrain([[0, 0, 0], [0, 0, 0], [0, 0, 1]])
    starts = [start(given[0], AllowedStrain()), start(given[1], AllowedStrain()), start(given[1], flattened)]
    good, *bad = relaxed(starts, Imploding(device), optimizer=optimizer, steps=2000)
    assert (good.converged, good.steps) == (True, 0)
    for end in bad:
        assert "the cell has collapsed" in str(end.error)
        assert 0 < end.steps < 2000


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_cells_that_burst_end_by_themselves(device: str, optimizer: str) -> None:
    """Where nothing holds atoms together, forces may end far apart, or never."""
    given = crystals()
    starts = [start(given[0], AllowedStrain()), start(given[1], AllowedStrain())]
    good, bad = relaxed(starts, Imploding(device, -5.0), optimizer=optimizer, steps=2000)
    assert (good.converged, good.error) == (True, None)
    assert bad.error == "the cell has burst"
    assert not bad.converged
    assert 0 < bad.steps < 300
