"""Workers of Ray's that die of crystals; in a module that they can import."""

from __future__ import annotations

from deeprelax_ase.screening.ray_data import BatchRelaxer
from tests.screening.deadly_crystals import Deadly


class DeadlyBatchRelaxer(BatchRelaxer):
    make = Deadly
