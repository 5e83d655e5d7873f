"""A stand-in for a model that has learnt to read forces."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.models.registry import M3GNET_RELAX_MODEL
from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.prediction.built_graph import BuiltGraph
from deeprelax_ase.prediction.record import Prediction
from tests.optimizers.helpers import CountingEMT, geometry
from tests.stand_in import StandInPredictor


class M3GNetCalculator(CountingEMT):
    """By its weights, so it says, the calculator whose forces the model has learnt to read."""

    weights_digest = M3GNET_WEIGHTS


class UnknownM3GNet(CountingEMT):
    """Called like M3GNet, with weights that nobody knows."""

    name = "m3gnet"
    weights_digest = "1a2b3c4d5e6f" + 52 * "0"


@dataclass
class ForceReader:
    """Jumps as ``jump`` does; each force-informed step goes its share of the way to ``minimum``, the last for ever."""

    jump: object
    minimum: Crystal
    shares: tuple[float, ...] = (0.6,)
    model: ClassVar = StandInPredictor.model
    model_name: str = M3GNET_RELAX_MODEL
    reads_forces: bool = True
    seen: list[tuple[np.ndarray, np.ndarray, Crystal]] = field(default_factory=list)

    def predict(self, structure, *, relax_cell: bool = True, graph: BuiltGraph | None = None) -> Prediction:
        return replace(self.jump.predict(structure, relax_cell=relax_cell, graph=graph), model=self.model_name)

    def predict_with_forces(self, structure, forces, stress, *, relax_cell: bool = True) -> Prediction:
        assert relax_cell
        initial = Crystal.of(structure)
        share = self.shares[min(len(self.seen), len(self.shares) - 1)]
        self.seen.append((forces.copy(), stress.copy(), initial))
        cell, positions = (
            here + share * (there - here)
            for here, there in ((initial.cell, self.minimum.cell), (initial.positions, self.minimum.positions))
        )
        return replace(self.predict(structure), relaxed=initial.with_geometry(positions, cell))


def bfgs(target, force_reader, cls=DeepRelaxOptimizer, **kwargs) -> DeepRelaxOptimizer:
    """An optimizer without a log that finishes with BFGS, under which they come only if asked for."""
    return cls(target, logfile=None, predictor=force_reader, finish="bfgs", **kwargs)


def interpolated(start: Crystal, end: Crystal, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions and cell after a ``share`` of the way."""
    return tuple(a + share * (b - a) for a, b in zip(geometry(start), geometry(end), strict=True))
