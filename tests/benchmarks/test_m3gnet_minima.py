"""Which minima of M3GNet benchmarks/m3gnet_minima.py counts, and what it writes of them."""

from __future__ import annotations

import m3gnet_minima
import numpy as np
import torch
from under_potential import Ends

from deeprelax_ase.data import crystals_of
from tests.pairs import make_pairs


def test_minima_near_their_label_count():
    pairs = make_pairs(4)
    labels = crystals_of(pairs, "relaxed")
    ends = [labels[0], labels[1].with_geometry(labels[1].positions * 1.5, labels[1].cell * 1.5), labels[2], labels[3]]
    shift = np.array([0.3, -0.2, 0.1])  # the crystal as a whole
    ends[3] = ends[3].with_geometry(ends[3].positions + shift, ends[3].cell)
    converged, energies = np.array([True, True, False, True]), -np.arange(4.0)
    positions = np.concatenate([end.positions for end in ends])
    found = m3gnet_minima.arrays_of(
        pairs, Ends(positions, np.stack([end.cell for end in ends]), energies, np.ones(4), converged)
    )
    assert found["m3gnet_ok"].tolist() == [True, False, False, True]  # the second swells, the third does not converge
    assert found["energy_m3gnet"].tolist() == energies.tolist()
    same = torch.isin(pairs.batch, torch.tensor([0, 2, 3])).numpy()
    np.testing.assert_allclose(found["frac_m3gnet"][same], pairs.fractional_relaxed[same], atol=1e-6)
    np.testing.assert_allclose(found["cell_m3gnet"][0], pairs.cell_relaxed[0], atol=1e-6)
