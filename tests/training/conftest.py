"""What tests of this room share."""

from __future__ import annotations

import pytest
import torch

from deeprelax_ase.data import RelaxationPairs
from tests.training.runs import PairsOf


@pytest.fixture
def pairs(pairs_of: PairsOf) -> RelaxationPairs:
    return pairs_of(12, dtype=torch.float32)
