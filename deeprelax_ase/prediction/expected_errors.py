"""Expected errors of a batch of predictions, by the card's calibration and the model's novelty, and its energies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import ModelError
from deeprelax_ase.graph import CrystalGraph
from deeprelax_ase.graph.columns import CrystalColumns
from deeprelax_ase.graph.crystal_graph import fractional_positions, inverses, rows_times_matrices
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.model import Model
from deeprelax_ase.prediction.allowed_strain import AllowedStrain, RelaxCell
from deeprelax_ase.prediction.inference import BatchRelaxation
from deeprelax_ase.uncertainty.calibration import CalibratedError, Calibration
from deeprelax_ase.uncertainty.features import step_sizes
from deeprelax_ase.uncertainty.novelty import Novelty
from deeprelax_ase.uncertainty.relaxed_energy import EnergyLaw, RelaxedEnergy


def expected_errors(
    crystals: Sequence[Crystal],
    graph: CrystalGraph,
    relaxation: BatchRelaxation,
    doubts: Sequence[str],
    steps: np.ndarray,
    *,
    relax_cell: RelaxCell,
    calibration: Calibration | None,
    novelty: Novelty | None,
) -> list[CalibratedError] | None:
    """The calibrated errors of ``crystals``, and so of ``graph``; those of volumes only where cells relax too.

    Args:
        crystals: unrelaxed.
        graph: theirs.
        relaxation: of them.
        doubts: of each, by its geometry; empty where there is none.
        steps: (G,) Å, from :func:`steps_of`.
        relax_cell: how cells might move; of a volume that is kept no error is expected.
        calibration: the law of the errors; without it there are none.
        novelty: the model's statistics, if it has any.
    """
    if calibration is None or relaxation.features is None:
        return None
    found = None
    if novelty is not None and relaxation.scalars is not None:
        found = novelty.of(relaxation.scalars, graph.numbers, graph.batch, len(crystals)).tolist()
    kept, doubted = relaxation.fixed_cell.tolist(), [bool(doubt) for doubt in doubts]
    with np.errstate(invalid="ignore"):  # where there is no prediction, there are no features
        errors = calibration.read(relaxation.features, steps, cell_kept=kept, novelty=found, doubted=doubted)
    keeps_volume = isinstance(relax_cell, AllowedStrain) and relax_cell.constant_volume
    return [error.with_cell_kept() for error in errors] if keeps_volume else errors


def steps_of(graph: CrystalGraph, relaxation: BatchRelaxation) -> np.ndarray:
    """(G,) Å, how far the crystals of ``graph`` are moved, see :func:`step_sizes`."""
    moved = rows_times_matrices(relaxation.positions, inverses(relaxation.cell)[graph.batch])
    return step_sizes(fractional_positions(graph), moved, relaxation.cell, graph.batch)


def novelty_of(model: Model, device: torch.device) -> Novelty | None:
    """Read the statistics of novelty of the ``model``; None where it has none.

    Raises:
        ModelError: they are of another version.
    """
    if model.novelty is None:
        return None
    try:
        return Novelty.from_tensors(model.novelty).to(device)
    except ValueError as error:
        raise ModelError(f"{model.card.name}: its statistics of novelty are not of this version: {error}") from error


def calibration_of(card: ModelCard, recycles: int) -> Calibration | None:
    """The card's calibration; None if there is none for so many recycles.

    Raises:
        ModelError: it is of another version.
    """
    try:
        return Calibration.of_card(card.calibration, recycles)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{card.name}: the card's calibration is not of this version: {error}. Fit it anew to pairs of its level: "
            "deeprelax calibrate CARD.json --data PAIRS --write"
        ) from error


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
