"""Which crystals are left as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction import unchanged
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.crystals import step_between

ERROR = CalibratedError(coordinates=0.02, coordinates_bound=0.06, volume=0.01, volume_bound=0.03, ood=False)


def within_error(initial: Crystal, relaxed: Crystal, error: CalibratedError) -> bool:
    step = np.array([step_between(initial, relaxed)])
    (found,) = unchanged.within_error(initial.cell[None], relaxed.cell[None], [error], step).tolist()
    return found


def why_unchanged(initial: Crystal, relaxed: Crystal, error: CalibratedError) -> str:
    step = np.array([step_between(initial, relaxed)])
    (why,) = unchanged.why_unchanged(initial.cell[None], relaxed.cell[None], [error], step)
    return why


def test_small_moves_are_not_worth_it(sample_crystals, rng):
    for crystal in sample_crystals.values():
        moves = rng.normal(size=crystal.positions.shape)
        moves = moves - moves.mean(axis=0)
        moves = moves / np.abs(moves).mean() if len(crystal) > 1 else 0 * moves
        strain = np.diag([1.0, -0.5, 0.2])
        for share, kept in ((0.9, True), (1.1, len(crystal) == 1)):
            positions = crystal.positions + share * ERROR.coordinates * moves
            assert within_error(crystal, crystal.with_geometry(positions, crystal.cell), ERROR) is kept
        for share, kept in ((0.9, True), (1.1, False)):  # the largest strain exceeds that of the volume
            cell = crystal.cell @ (np.eye(3) + share * ERROR.volume * strain)
            assert (
                within_error(crystal, crystal.with_geometry(crystal.fractional_positions @ cell, cell), ERROR) is kept
            )
            cell = crystal.cell * (1 + share * ERROR.volume) ** (1 / 3)
            assert (
                within_error(crystal, crystal.with_geometry(crystal.fractional_positions @ cell, cell), ERROR) is kept
            )


def test_a_shift_of_the_origin_and_a_turn_are_no_moves(sample_crystals):
    turn = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    for crystal in sample_crystals.values():
        shifted = crystal.with_geometry((crystal.positions + np.array([0.3, 0.1, 0.2])) @ turn, crystal.cell @ turn)
        assert within_error(crystal, shifted, ERROR)


def test_why(sample_crystals):
    for crystal in sample_crystals.values():
        swollen = crystal.with_geometry(crystal.positions * 1.1, crystal.cell * 1.1)
        assert why_unchanged(crystal, crystal, ERROR) == "it would move by less than it is expected to be off"
        assert why_unchanged(crystal, swollen, ERROR) == ""
        assert why_unchanged(crystal, crystal, ERROR.with_cell_kept()) == ""


def test_where_it_would_more_likely_go_astray_it_stays(sample_crystals):
    """Also where the cell is kept, and the move is long."""
    for crystal in sample_crystals.values():
        swollen = crystal.with_geometry(crystal.positions * 1.1, crystal.cell * 1.1)
        reason = "the odds are 60% that it would end further from its minimum"
        for error in (ERROR, ERROR.with_cell_kept()):
            assert why_unchanged(crystal, swollen, replace(error, odds_worse=0.6)) == reason
            assert why_unchanged(crystal, swollen, replace(error, odds_worse=0.4)) == ""
