"""Energies of the relaxed crystals of a batch, by the model's head and what its card tells of bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import ModelError
from deeprelax_ase.graph.columns import CrystalColumns
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.prediction.inference import BatchRelaxation
from deeprelax_ase.uncertainty.relaxed_energy import EnergyLaw, RelaxedEnergy


def energy_law_of(card: ModelCard) -> EnergyLaw | None:
    """Read what the card tells of energies of relaxed crystals; None if it tells nothing.

    Raises:
        ModelError: it is of another version.
    """
    try:
        return EnergyLaw.of_card(card.energy)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{card.name}: what the card says of energy is not of this version: {error}") from error


def energies_of(
    crystals: Sequence[Crystal], relaxation: BatchRelaxation, law: EnergyLaw | None
) -> list[RelaxedEnergy | None] | None:
    """The energy of each of the unrelaxed ``crystals``; None for models that tell none.

    It is that of the minimum of a crystal that nothing holds, as the labels are: None where constraints hold atoms, and
    where the cell may not move as those of the labels did.
    """
    if law is None or relaxation.energies is None or relaxation.features is None:
        return None
    energy, scale = (values.double().cpu().numpy() for values in relaxation.energies)
    if not isinstance(crystals, CrystalColumns):  # which have no constraints
        energy = np.where([bool(crystal.constraints) for crystal in crystals], np.nan, energy)
    return law.read(energy, scale, relaxation.features.kinds())
