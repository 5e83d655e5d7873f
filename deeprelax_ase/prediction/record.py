"""The :class:`Prediction` record: what the predictor hands to the optimizer, the command line and the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.display import crystal_label, expected_errors, html_table
from deeprelax_ase.prediction.judgement import Judgement, TrustLimits, judge
from deeprelax_ase.prediction.status import forget, info_of
from deeprelax_ase.uncertainty.calibration import CalibratedError, ErrorFeatures
from deeprelax_ase.uncertainty.relaxed_energy import RelaxedEnergy

if TYPE_CHECKING:
    from ase import Atoms

#: Fields of a result that tell the calibrated errors, and what they are in these.
OF_ERROR = {
    "error": "coordinates",
    "error_bound": "coordinates_bound",
    "ood": "ood",
    "volume_error": "volume",
    "volume_error_bound": "volume_bound",
    "novelty": "novelty",
    "odds_worse": "odds_worse",
    "odds_judged": "odds_judged",
}

#: Likewise of the energy.
OF_ENERGY = {
    "energy_relaxed": "energy",
    "energy_relaxed_bound": "bound",
    "energy_relaxed_potential": "potential",
}


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Uncertainty of a prediction, section 4.7: per crystal, per atom and per bond.

    Attributes:
        total: Å, square root of the global uncertainty U of eq. (24).
        aleatoric: Å, square root of U_a, eq. (21): scatter that the data itself has.
        epistemic: Å, square root of U_e, eq. (23): disagreement of the ensemble's members; zero where there is one.
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
        initial: the unrelaxed crystal. If it repeats in two directions, this is the one with vacuum that the model
            sees, as is ``relaxed``; their ``as_given`` are in the cell that was given.
        relaxed: the predicted crystal, same atom order and periodic images.
        uncertainty: see :class:`Uncertainty`.
        model: name of the model.
        solver_converged: whether the geometry solver came to rest; true for networks that need none.
        solver_steps: steps that it took.
        timings: seconds spent in each stage: graph, network, geometry.
        energy: predicted energy of the minimum, with a bound on its error; None for models without a head for it, and
            wherever anything is held: the cell but for slabs', some of its strain (of layers in their plane), atoms,
            or the symmetry.
        features: what the calibrated errors are read from; None for models that have none.
        error: expected errors and bounds on them; None for models, or numbers of recycles, without a calibration.
        unchanged: reason to leave the crystal as it is, see
            :func:`~deeprelax_ase.prediction.unchanged.why_unchanged`; empty where there is none.
        doubt: reason for doubt by the crystal's geometry alone, see :mod:`deeprelax_ase.prediction.doubts`; empty
            where it is not. Where errors are calibrated, it is out of distribution then.
        limits: of a trusted prediction.
    """

    initial: Crystal
    relaxed: Crystal
    uncertainty: Uncertainty
    model: str
    solver_converged: bool
    solver_steps: int
    timings: dict[str, float] = field(default_factory=dict)
    energy: RelaxedEnergy | None = None
    features: ErrorFeatures | None = None
    error: CalibratedError | None = None
    unchanged: str = ""
    doubt: str = ""
    limits: TrustLimits = field(default_factory=TrustLimits)

    def __repr__(self) -> str:
        facts = self.facts
        told = [facts["judgement"]]
        if not self.unchanged:
            told.append(f"volume {facts['volume']}, largest displacement {facts['largest displacement']}")
        told.append(f"uncertainty {facts['uncertainty']}" if self.error is None else expected_errors(self.error))
        return f"<Prediction {facts['crystal']}: {'; '.join([*told, self.model])}>"

    def _repr_html_(self) -> str:
        return html_table("Prediction", self.facts)

    @property
    def judgement(self) -> Judgement:
        """The judgement of this prediction by its :attr:`limits`, with the reason."""
        return judge(self, self.limits)

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
        """Entries for the ``info`` of the relaxed atoms.

        ``deeprelax_status`` and, unless it is ``"accepted"``, ``deeprelax_reason``, of the :attr:`judgement`;
        ``deeprelax_model``, ``deeprelax_uncertainty`` (Å), and where errors are calibrated ``deeprelax_error`` (Å,
        expected for the coordinates), ``deeprelax_volume_error`` (expected, relative; absent where the cell was kept),
        ``deeprelax_ood`` (whether the crystal is unlike those that the model knows), and where the model has statistics
        of them ``deeprelax_novelty``, ``deeprelax_odds_worse`` and ``deeprelax_odds_judged``, see
        :class:`~deeprelax_ase.uncertainty.calibration.CalibratedError`; where an :attr:`energy` is told
        ``deeprelax_energy_relaxed`` and ``deeprelax_energy_relaxed_bound`` (eV/atom), and
        ``deeprelax_energy_relaxed_potential``.
        """
        values = {"model": self.model, "uncertainty": float(self.uncertainty.total)}
        return info_of(values | judged(self, self.judgement))

    @property
    def facts(self) -> dict[str, str]:
        """The known facts by name, for people to read."""
        lengths = np.linalg.norm(self.displacements, axis=1)
        facts = {
            "crystal": crystal_label(self.initial.numbers),
            "judgement": str(self.judgement),
            "volume": f"{self.initial.volume:.2f} → {self.relaxed.volume:.2f} Å³ ({100 * self.volume_change:+z.1f} %)",
            "largest displacement": f"{lengths.max():.3f} Å",
            "mean displacement": f"{lengths.mean():.3f} Å",
            **({} if self.error is None else _error_facts(self.error)),
        }
        if self.energy is not None:
            energy, bound, potential = self.energy.energy, self.energy.bound, self.energy.potential
            facts["energy when relaxed"] = f"{energy:.3f} ± {bound:.3f} eV/atom in 9 of 10, under {potential}"
        facts["uncertainty"] = f"{self.uncertainty.total:.3f} Å"
        facts["model"] = self.model
        return facts

    def to_atoms(self, template: Atoms | None = None) -> Atoms:
        """The relaxed crystal as ASE ``Atoms``, with :attr:`info` in theirs.

        Atoms that repeat in two directions keep their ``pbc``, and their vector out of the plane.

        Args:
            template: copied for everything but positions and cell: tags, magnetic moments, constraints, arrays, info.
        """
        return labelled_atoms(self.relaxed.as_given, self.info, template)


def judged(prediction: Prediction | None, judgement: Judgement) -> dict[str, Any]:
    """Return the fields of a result that hold until something moves on from a ``prediction``; fewer for None."""
    known: dict[str, Any] = {"status": judgement.status, "reason": judgement.reason or None}
    if prediction is not None and (error := prediction.error) is not None:
        known |= {name: getattr(error, field) for name, field in OF_ERROR.items()}
    if prediction is not None and (energy := prediction.energy) is not None:
        known |= {name: getattr(energy, field) for name, field in OF_ENERGY.items()}
    return known


def _error_facts(error: CalibratedError) -> dict[str, str]:
    facts = {
        "expected error, coordinates": f"{error.coordinates:.3f} Å; below {error.coordinates_bound:.3f} Å in 9 of 10"
    }
    if error.volume is not None and error.volume_bound is not None:
        facts["expected error, volume"] = (
            f"{100 * error.volume:.1f} %; below {100 * error.volume_bound:.1f} % in 9 of 10"
        )
    facts["like what the model knows"] = "no: do not rely on these errors" if error.ood else "yes"
    if error.novelty is not None:
        facts["novelty"] = f"{error.novelty:.2f} of the largest that counts as known"
    if error.odds_worse is not None and error.odds_judged is not None:
        counted = f", judged as {100 * error.odds_judged:.0f} %" if error.odds_margin > 1 else ""
        facts["odds to end further off"] = f"{100 * error.odds_worse:.0f} %{counted}"
    return facts


def labelled_atoms(crystal: Crystal, info: Mapping[str, Any], template: Atoms | None = None) -> Atoms:
    """``crystal`` as ASE ``Atoms``, or as a copy of ``template`` moved there; ``info`` replaces an earlier run's."""
    atoms = crystal.to_atoms() if template is None else template.copy()
    atoms.set_cell(crystal.cell, apply_constraint=False)
    atoms.set_positions(crystal.positions, apply_constraint=False)
    forget(atoms)
    atoms.info.update(info)
    return atoms
