"""Layers made periodic for potentials that know crystals alone."""

from __future__ import annotations

import numpy as np
from ase.build import mx2
from ase.constraints import FixSymmetry

from deeprelax_ase.calculators.periodic import as_periodic


def test_room_around_a_layer_of_kept_symmetry_moves_no_atom():
    layer = mx2("MoS2", a=3.3, vacuum=4.0)
    layer.set_constraint(FixSymmetry(layer))
    made, scale = as_periodic(layer, cutoff=9.0)
    assert made.pbc.all()
    np.testing.assert_allclose(made.positions, layer.positions, atol=1e-12)
    np.testing.assert_allclose(made.cell.array[:2], layer.cell.array[:2], atol=1e-12)
    assert np.isclose(scale, made.get_volume() / layer.get_volume())
    assert scale > 1
