from __future__ import annotations

import numpy as np
import torch

from deeprelax_ase.geometry.springs import Springs


def test_springs_get_softer_by_the_decay() -> None:
    springs = Springs(stiffness=3.0, decay=4.0)
    ratios = np.array([1.0, 1.25, 0.75, np.inf])
    expected = np.array([3.0, 3 / np.e, 3 * np.e, 0.0])
    np.testing.assert_allclose(springs.strength(ratios), expected, rtol=1e-14)
    found = springs.strength(torch.from_numpy(ratios))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-14)
