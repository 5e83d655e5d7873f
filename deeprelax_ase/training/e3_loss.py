"""The loss of the end-to-end network, and the displacements and strain that it compares with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.geometry.strain import matrix_product, symmetric_exponential, symmetric_logarithm
from deeprelax_ase.geometry.vacuum import free_directions, project_strain
from deeprelax_ase.graph.crystal_graph import inverses, rows_times_matrices
from deeprelax_ase.nn.deeprelax_e3 import NetworkInput, without_drift
from deeprelax_ase.nn.records import Relaxation
from deeprelax_ase.training.force_targets import StartForces, start_forces
from deeprelax_ase.training.settings import TrainingSettings


class TrueRelaxation(NamedTuple):
    """True relaxation of N atoms and G crystals, with the weight of each of them.

    Attributes:
        displacements: (N, 3) Å.
        strain: (G, 3, 3), symmetric.
        atoms: (N,) weights of the displacements.
        crystals: (G,) weights of the strains.
        batch: (N,) int64, the crystal of each atom.
        energy: (G,) eV/atom of the relaxed crystals, zero where not known.
        energies: (G,) weights of these.
        start: forces and virials at the start, where they are targets.
    """

    displacements: Tensor
    strain: Tensor
    atoms: Tensor
    crystals: Tensor
    batch: Tensor
    energy: Tensor
    energies: Tensor
    start: StartForces


def true_relaxation(
    pairs: RelaxationPairs,
    given: NetworkInput,
    *,
    weights: Tensor | None = None,
    unrelaxed: RelaxationPairs | None = None,
) -> TrueRelaxation:
    """Compute the relaxation of the unrelaxed crystals of ``pairs``, which are the ``given`` ones, to the relaxed ones.

    The strain is the symmetric factor of the deformation; the rotation left over is no concern of a crystal. It is
    taken within the directions in which the ``given`` cells may be strained; where there are none, it has no weight.
    Crystals have ``weights`` (G,), or count all the same. The forces of the ``unrelaxed`` pairs are targets, see
    :func:`~deeprelax_ase.training.force_targets.start_forces`.
    """
    deformation = matrix_product(inverses(pairs.cell_initial), pairs.cell_relaxed)
    strain = symmetric_logarithm(matrix_product(deformation, deformation.mT)) / 2
    strain = project_strain(strain, given.strain_projectors.to(strain.dtype))
    cell = matrix_product(pairs.cell_initial, symmetric_exponential(strain))
    moved = rows_times_matrices(pairs.fractional_relaxed - pairs.fractional_initial, cell[given.batch])
    moved = without_drift(moved, given)
    weights = torch.ones_like(strain[:, 0, 0]) if weights is None else weights
    directions = free_directions(given.strain_projectors)
    of_strains = torch.where(directions > 0, weights, torch.zeros_like(weights))
    start = start_forces(pairs if unrelaxed is None else unrelaxed, pairs, moved, strain, directions == 3)
    if unrelaxed is None:
        start = start.counting_for_nothing()
    energy, known = pairs.energy_relaxed.nan_to_num(0.0), pairs.energy_relaxed.isfinite()
    return TrueRelaxation(moved, strain, weights[given.batch], of_strains, given.batch, energy, weights * known, start)


def crystal_weights(pairs: RelaxationPairs, settings: TrainingSettings) -> Tensor:
    """(G,) how much each of ``pairs`` counts: by its kind, label and size, and by whether its forces are told."""
    weights = torch.where(pairs.has_forces, settings.forces_weight, torch.ones_like(pairs.cell_initial[:, 0, 0]))
    for kind, weight in settings.kind_weights.items():
        weights = torch.where(pairs.kind == kind, weight * weights, weights)
    weights = torch.where(pairs.dft, settings.dft_weight * weights, weights)
    return weights * pairs.counts**-settings.size_power


def relaxation_loss(
    relaxations: Sequence[Relaxation],
    truth: TrueRelaxation,
    *,
    volume_weight: float,
    shape_weight: float,
    tempering: float | Tensor,
    block_weights: Sequence[float] = (),
) -> dict[str, Tensor]:
    """Negative Laplace log-likelihood of displacements, volume and shape, averaged over the network's blocks.

    Each error is the norm of a vector of k components, whose isotropic Laplace density is ``exp(-|e| / b) / b^k`` up to
    a constant; eq. (15) of the paper is its k = 1.

    Args:
        relaxations: after each block.
        truth: the true relaxation.
        volume_weight, shape_weight: of the strain's terms, in Å: what a strain of 1 counts for.
        tempering: one, or (G,): terms are weighted by ``b^tempering``, held constant (the beta of Seitzer et al., ICLR
            2022). At 0 they are the likelihood, which cares for relative errors; at 1 absolute errors count.
        block_weights: of the blocks in their mean; equal by default.

    Returns:
        ``loss``, and of the last block ``displacement``, ``volume`` and ``shape``: mean absolute errors (Å, 1, 1).
    """
    displacements, strain, atoms, crystals, batch, *_ = truth
    of_atoms = tempering[batch] if isinstance(tempering, Tensor) else tempering
    losses = []
    for relaxation in relaxations:
        moved = torch.linalg.vector_norm(relaxation.displacements - displacements, dim=1)
        difference = relaxation.strain - strain
        trace = difference.diagonal(dim1=1, dim2=2).sum(dim=1)
        identity = torch.eye(3, dtype=strain.dtype, device=strain.device)
        shape = torch.linalg.matrix_norm(difference - trace[:, None, None] / 3 * identity)
        volume = trace.abs()
        losses.append(
            _mean(_laplace(moved, relaxation.displacement_scales, 3, of_atoms), atoms)
            + volume_weight * _mean(_laplace(volume, relaxation.volume_scales, 1, tempering), crystals)
            + shape_weight * _mean(_laplace(shape, relaxation.shape_scales, 5, tempering), crystals)
        )
    weights = zip(block_weights, losses, strict=bool(block_weights))  # plain numbers, which a CUDA graph records
    weighted = [weight / sum(block_weights) * loss for weight, loss in weights]
    return {
        "loss": torch.stack(weighted).sum() if weighted else torch.stack(losses).mean(),
        "displacement": _mean(moved.detach(), atoms),
        "volume": _mean(volume.detach(), crystals),
        "shape": _mean(shape.detach(), crystals),
    }


def energy_loss(
    read: tuple[Tensor, Tensor], truth: TrueRelaxation, *, tempering: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The likelihood of :func:`relaxation_loss` for relaxed energies, and their mean absolute error in eV/atom.

    Args:
        read: (G,) energies and (G,) Laplace scales, in eV/atom.
        truth: the true relaxation.
        tempering: see :func:`relaxation_loss`.
    """
    error = (read[0] - truth.energy).abs()
    loss = _mean(_laplace(error, read[1], 1, tempering), truth.energies)
    return loss, _mean(error.detach(), truth.energies)


def _laplace(error: Tensor, scale: Tensor, components: int, tempering: float | Tensor) -> Tensor:
    return scale.detach() ** tempering * (components * torch.log(scale) + error / scale)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    # Where all cells are fixed, no strain counts.
    return (values * weights).sum() / weights.sum().clamp(min=1e-9)
