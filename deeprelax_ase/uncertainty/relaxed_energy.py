"""The predicted energy of a relaxed crystal, with the interval that its error keeps nine times in ten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deeprelax_ase.uncertainty.calibration import COVERAGE
from deeprelax_ase.uncertainty.kinds import DEFECT, KINDS

#: Kinds of crystals that an energy is told of: all but the last one, crystals whose cell is kept.
ENERGY_KINDS = KINDS[:DEFECT]


@dataclass(frozen=True)
class RelaxedEnergy:
    """Predicted energy of the minimum, under the potential that made the labels.

    Attributes:
        energy: eV/atom.
        bound: eV/atom, how far it is off at most in nine of ten crystals.
        potential: under which it is the energy.
    """

    energy: float
    bound: float
    potential: str

    @property
    def interval(self) -> tuple[float, float]:
        """eV/atom, the lower and the upper end of the interval."""
        return self.energy - self.bound, self.energy + self.bound


@dataclass(frozen=True)
class EnergyLaw:
    """Bounds by predicted scales: a factor for each kind of crystal.

    Attributes:
        potential: under which the energies are.
        factors: bounds over Laplace scales, for each of the :data:`ENERGY_KINDS`.
    """

    potential: str
    factors: tuple[float, ...]

    @classmethod
    def of_card(cls, told: Mapping[str, Any]) -> EnergyLaw | None:
        """Read what a card tells of energies; None where it tells nothing.

        Raises:
            KeyError, TypeError, ValueError: it is of another version.
        """
        if not told:
            return None
        factors = tuple(float(told["factors"][kind]) for kind in ENERGY_KINDS)
        if wrong := [f"{kind} {f}" for kind, f in zip(ENERGY_KINDS, factors, strict=True) if not 0 < f < np.inf]:
            raise ValueError(f"factors of energies must be positive and finite: {', '.join(wrong)}")
        return cls(str(told["potential"]), factors)

    @classmethod
    def fit(cls, potential: str, errors: np.ndarray, scales: np.ndarray, kinds: np.ndarray) -> EnergyLaw:
        """Set the factors by (n,) absolute ``errors`` of validation crystals, their ``scales`` and ``kinds``.

        Kinds without crystals share the factor of all.

        Raises:
            ValueError: there are no crystals.
        """
        if not len(errors):
            raise ValueError("no crystals to fit the bounds of energies to: give validation pairs with energies")
        of_kinds = [(errors / scales)[kinds == kind] for kind in range(len(ENERGY_KINDS))]
        ratios = [np.sort(own if len(own) else errors / scales) for own in of_kinds]
        ranks = [min(int(np.ceil(COVERAGE * (len(own) + 1))), len(own)) - 1 for own in ratios]
        return cls(potential, tuple(float(own[rank]) for own, rank in zip(ratios, ranks, strict=True)))

    def bounds(self, scales: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """(n,) eV/atom, of crystals of these ``kinds`` with these ``scales``; not a number for kinds without."""
        return np.array([*self.factors, np.nan])[kinds] * scales

    def read(self, energies: np.ndarray, scales: np.ndarray, kinds: np.ndarray) -> list[RelaxedEnergy | None]:
        """Of each of G crystals; None where the energy is no number."""
        told = zip(energies.tolist(), self.bounds(scales, kinds).tolist(), strict=True)
        return [None if np.isnan(energy) else RelaxedEnergy(energy, bound, self.potential) for energy, bound in told]
