"""What symmetry asks of the end-to-end network: the relaxed crystal has every symmetry of the unrelaxed one."""

from __future__ import annotations

import numpy as np
import pytest
import spglib
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.nn import DeepRelaxE3


@pytest.fixture
def relax(e3_network, graph_of):
    network: DeepRelaxE3 = e3_network(num_blocks=3)
    return lambda crystal: network(graph_of(crystal, network.config))


def symmetric_crystals() -> dict[str, Crystal]:
    u, a, c = 0.31, 4.6, 2.95
    rutile = [
        [0, 0, 0],
        [0.5, 0.5, 0.5],
        [u, u, 0],
        [1 - u, 1 - u, 0],
        [0.5 - u, 0.5 + u, 0.5],
        [0.5 + u, 0.5 - u, 0.5],
    ]
    perovskite = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    hexagonal = np.array([[3.2, 0, 0], [-1.6, 1.6 * 3**0.5, 0], [0, 0, 5.2]])
    wurtzite = np.array([[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.39], [2 / 3, 1 / 3, 0.89]])
    return {
        "rutile": Crystal([22] * 2 + [8] * 4, rutile * np.array([a, a, c]), np.diag([a, a, c])),
        "perovskite": Crystal([38, 22, 8, 8, 8], np.array(perovskite) * 3.9, np.eye(3) * 3.9),
        "wurtzite": Crystal([30, 30, 16, 16], wurtzite @ hexagonal, hexagonal),
    }


def turned(crystal: Crystal, isometry: Tensor) -> Crystal:
    q = isometry.numpy()
    return Crystal(crystal.numbers, crystal.positions @ q, crystal.cell @ q)


@pytest.mark.filterwarnings("ignore:.*OLD_ERROR_HANDLING:DeprecationWarning")
@pytest.mark.parametrize(("name", "number"), [("rutile", 136), ("perovskite", 221), ("wurtzite", 186)])
def test_the_relaxation_has_every_symmetry_of_the_crystal(relax, rotation, name: str, number: int) -> None:
    crystal = turned(symmetric_crystals()[name], rotation)
    cell = (crystal.cell, crystal.fractional_positions, crystal.numbers)
    symmetry = spglib.get_symmetry_dataset(cell)
    assert symmetry.number == number
    for relaxation in relax(crystal):
        moves, strain = relaxation.displacements.detach().numpy(), relaxation.strain[0].detach().numpy()
        scales = relaxation.displacement_scales.detach().numpy()
        for turn, shift in zip(symmetry.rotations, symmetry.translations, strict=True):
            q = np.linalg.inv(crystal.cell) @ turn.T @ crystal.cell  # acts on row vectors from the right
            images = crystal.fractional_positions @ turn.T + shift
            difference = images[:, None] - crystal.fractional_positions[None]
            onto = np.abs(difference - difference.round()).sum(axis=2).argmin(axis=1)
            np.testing.assert_allclose(moves[onto], moves @ q, rtol=0, atol=1e-10)
            np.testing.assert_allclose(q.T @ strain @ q, strain, rtol=0, atol=1e-10)
            np.testing.assert_allclose(scales[onto], scales, rtol=0, atol=1e-10)
        assert np.abs(strain).max() > 1e-3


def test_sites_that_symmetry_fixes_do_not_move(relax) -> None:
    crystals = symmetric_crystals()
    assert relax(crystals["perovskite"])[-1].displacements.abs().max() < 1e-12
    rutile = relax(crystals["rutile"])[-1].displacements
    assert rutile[:2].abs().max() < 1e-12  # titanium
    assert rutile[2:, 2].abs().max() < 1e-12  # oxygen has one degree of freedom, along the diagonal of the plane
    assert rutile[2:, :2].abs().min() > 1e-3


def test_what_breaks_the_symmetry_is_seen(relax) -> None:
    perovskite = symmetric_crystals()["perovskite"]
    off_centre = np.array([[0, 0, 0], [0, 0, 0.1], *[[0, 0, 0]] * 3])
    polar = Crystal(perovskite.numbers, perovskite.positions + off_centre, perovskite.cell)
    moves = relax(polar)[-1].displacements
    assert moves[:, :2].abs().max() < 1e-12
    assert moves[:, 2].abs().max() > 1e-4
