"""The :class:`Prediction` record: what the predictor hands to the optimizer, the command line and the user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.display import html_table, prediction_facts, prediction_line
from deeprelax_ase.uncertainty.calibration import CalibratedError, ErrorFeatures

if TYPE_CHECKING:
    from ase import Atoms

#: Values of ``atoms.info["deeprelax_status"]``; of a crystal that failed, the last one and the reason.
PREDICTED, REFUSED, CONVERGED, NOT_CONVERGED, FAILED = "predicted", "refused", "converged", "not converged", "failed"

#: Keys of ``atoms.info`` that tell how far a prediction may be off; they leave with the first step away from it.
ERROR_KEYS = ("deeprelax_error", "deeprelax_volume_error", "deeprelax_ood")

#: Keys of ``atoms.info`` about what became of a jump, and why.
JUMP_KEYS = ("deeprelax_jump", "deeprelax_jump_reason")

#: Keys of ``atoms.info`` that this package writes.
INFO_KEYS = ("deeprelax_model", "deeprelax_uncertainty", "deeprelax_status", *ERROR_KEYS, *JUMP_KEYS)


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """How far the prediction may be off, section 4.7: per crystal, per atom and per bond.

    Attributes:
        total: Å, square root of the global uncertainty U of eq. (24).
        aleatoric: Å, square root of U_a, eq. (21): scatter that the data itself has.
        epistemic: Å, square root of U_e, eq. (23): disagreement of the ensemble's members.
        per_atom: (N,) Å, the same square root over the edges of each atom.
        per_bond: (E,) Å, the same for each edge.
        bonds: (E, 5) int64, the edges: atom i, atom j, cell offset of j.
    """

    total: float
    aleatoric: float
    epistemic: float
    per_atom: np.ndarray
    per_bond: np.ndarray
    bonds: np.ndarray


@dataclass(frozen=True, eq=False)
class Prediction:
    """The relaxed crystal that a model predicts in one shot.

    Attributes:
        initial: the unrelaxed crystal.
        relaxed: the predicted crystal, same atom order and periodic images.
        uncertainty: see :class:`Uncertainty`.
        model: name of the model.
        solver_converged: whether the geometry solver came to rest; true for networks that need none.
        solver_steps: steps that it took.
        timings: seconds spent in each stage: graph, network, geometry.
        features: what the calibrated errors are read from; None for models that have none.
        error: expected errors and bounds on them; None for models, or numbers of passes, without a calibration.
        within_error: whether the crystal was left as it is, see :func:`within_error`.
    """

    initial: Crystal
    relaxed: Crystal
    uncertainty: Uncertainty
    model: str
    solver_converged: bool
    solver_steps: int
    timings: dict[str, float] = field(default_factory=dict)
    features: ErrorFeatures | None = None
    error: CalibratedError | None = None
    within_error: bool = False

    def __repr__(self) -> str:
        return prediction_line(self)

    def _repr_html_(self) -> str:
        return html_table("Prediction", prediction_facts(self))

    @property
    def volume_change(self) -> float:
        """Relative change of the cell volume, V_relaxed / V_initial - 1."""
        return self.relaxed.volume / self.initial.volume - 1

    @property
    def displacements(self) -> np.ndarray:
        """(N, 3) Å, how far each atom moves beyond being carried along by the cell."""
        return self.relaxed.positions - self.initial.fractional_positions @ self.relaxed.cell

    @property
    def info(self) -> dict[str, Any]:
        """What relaxed atoms carry in their ``info``.

        ``deeprelax_model``, ``deeprelax_uncertainty`` (Å), and where errors are calibrated ``deeprelax_error`` (Å,
        expected for the coordinates), ``deeprelax_volume_error`` (expected, relative) and ``deeprelax_ood``
        (whether the crystal is unlike those that the model knows).
        """
        values: dict[str, Any] = {"deeprelax_model": self.model, "deeprelax_uncertainty": float(self.uncertainty.total)}
        if (error := self.error) is None:
            return values
        return values | dict(zip(ERROR_KEYS, (error.coordinates, error.volume, error.ood), strict=True))

    def to_atoms(self, template: Atoms | None = None) -> Atoms:
        """The relaxed crystal as ASE ``Atoms``, with :attr:`info` in theirs.

        Args:
            template: copied for everything but positions and cell: tags, magnetic moments, constraints, arrays, info.
        """
        atoms = self.initial.to_atoms() if template is None else template.copy()
        atoms.set_cell(self.relaxed.cell, apply_constraint=False)
        atoms.set_positions(self.relaxed.positions, apply_constraint=False)
        forget(atoms, INFO_KEYS)  # of an earlier run
        atoms.info.update(self.info)
        return atoms


def within_error(initial: Crystal, relaxed: Crystal, error: CalibratedError) -> bool:
    """Whether the model would move ``initial`` by less than it expects to be off itself: then it is as good as relaxed.

    That holds of the mean absolute component of the displacements, of the volume, and of the largest strain.
    """
    moves = relaxed.fractional_positions - initial.fractional_positions
    moves = (moves - moves.mean(axis=0)) @ relaxed.cell
    deformation = np.linalg.solve(initial.cell, relaxed.cell)
    strains = np.log(np.linalg.eigvalsh(deformation @ deformation.T)) / 2
    swells = max(abs(strains.sum()), np.abs(strains).max())
    return bool(np.abs(moves).mean() <= error.coordinates and swells <= error.volume)


def forget(atoms: Atoms, keys: Iterable[str]) -> None:
    """Remove ``keys`` from ``atoms.info``, where they are there."""
    for key in keys:
        atoms.info.pop(key, None)
