"""Augmentation of relaxation pairs: every relaxed crystal is the label of many unrelaxed ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.geometry.strain import matrix_product
from deeprelax_ase.geometry.vacuum import in_plane_projectors, project_strain
from deeprelax_ase.graph.crystal_graph import crystal_mean, inverses, rows_times_matrices
from deeprelax_ase.training.cell_augmentation import augment_cells


@dataclass(frozen=True)
class AugmentationSettings:
    """Shares of the crystals that each change meets.

    The last three changes leave a crystal what it is. They are for the paper's network, whose lattice head and cell
    offset encoding depend on the choice of the cell.

    Attributes:
        interpolated: moved a uniformly drawn part of the way to their relaxed crystals.
        relaxed: replaced by their relaxed crystals, so that the network learns to leave those alone.
        perturbed: replaced by their relaxed crystals, strained and rattled; how much is drawn for each, evenly over the
            logarithms of the ranges that follow.
        perturbed_strain: range of the standard deviation of that strain.
        perturbed_rattle: Å, range of the standard deviation of that rattling.
        in_relaxed_cell: put into the cells of their relaxed crystals, which are then fixed: a minimum is one in a fixed
            cell, too. For networks that read it, see :class:`~deeprelax_ase.nn.DeepRelaxE3Config`.
        strained: strained by a random symmetric matrix.
        strain: standard deviation of its diagonal elements; that of the others is smaller by the square root of 2.
        rattled: fractional coordinates shaken.
        rattle: Å, standard deviation of the shaking.
        rewrapped: shifted as a whole by a random vector and wrapped into the cell: another choice of periodic images,
            to which the cell offset encoding is not indifferent.
        sheared: described by other lattice vectors, see :func:`~deeprelax_ase.training.cell_augmentation.shear`.
        permuted: with their atoms in random order.
        supercell: doubled along a random lattice vector.
        supercell_atoms: most atoms of a crystal that is doubled.
    """

    interpolated: float = 0.35
    relaxed: float = 0.05
    perturbed: float = 0.0
    perturbed_strain: tuple[float, float] = (0.003, 0.1)
    perturbed_rattle: tuple[float, float] = (0.003, 0.2)
    in_relaxed_cell: float = 0.0
    strained: float = 0.3
    strain: float = 0.03
    rattled: float = 0.1
    rattle: float = 0.05
    rewrapped: float = 0.3
    sheared: float = 0.0
    permuted: float = 0.0
    supercell: float = 0.0
    supercell_atoms: int = 12

    @property
    def changes(self) -> bool:
        """Whether any crystal is changed at all."""
        shares = (f.name for f in fields(self) if f.type == "float" and f.name not in ("strain", "rattle"))
        return any(getattr(self, name) for name in shares)

    @property
    def augments_cells(self) -> bool:
        """Whether lattice vectors, order or number of the atoms are changed."""
        return any((self.sheared, self.permuted, self.supercell))

    def __post_init__(self) -> None:
        for name in ("perturbed_strain", "perturbed_rattle"):  # lists, where they come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))


def augment(
    pairs: RelaxationPairs, settings: AugmentationSettings, generator: torch.Generator, *, planes: Tensor | None = None
) -> RelaxationPairs:
    """New unrelaxed crystals for the same relaxed ones; only the geometry of the unrelaxed side changes, except that
    :attr:`~AugmentationSettings.rewrapped` moves both sides to the same new images, and that
    :attr:`~AugmentationSettings.sheared`, ``permuted`` and ``supercell`` describe both sides anew. Crystals whose
    forces are known stay where those were found. Fixed cells are not strained, and layers in their plane only: that of
    ``planes`` (G, 3, 3), the projectors of :func:`~deeprelax_ase.geometry.in_plane_projectors`, where they are known.
    """
    pairs = augment_cells(
        pairs,
        generator,
        sheared=settings.sheared,
        permuted=settings.permuted,
        supercell=settings.supercell,
        supercell_atoms=settings.supercell_atoms,
    )
    device, dtype, size = pairs.cell_initial.device, pairs.cell_initial.dtype, len(pairs)
    batch = pairs.batch

    def uniform() -> Tensor:
        return torch.rand(size, device=device, dtype=dtype, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype, generator=generator)

    def amplitude(chosen: Tensor, usual: float, bounds: tuple[float, float]) -> Tensor:
        low, high = (math.log(bound) for bound in bounds)
        usually, drawn = usual * (chosen & ~relaxed & ~pairs.has_forces), uniform()
        if not settings.perturbed:  # kernels that change nothing
            return usually
        return torch.where(perturbed, torch.exp(low + (high - low) * drawn), usually)

    draw = torch.where(pairs.has_forces, torch.full_like(pairs.cell_initial[:, 0, 0], torch.inf), uniform())
    relaxed, perturbed = _kinds(draw, settings)
    way = torch.where(draw < settings.interpolated, uniform(), torch.zeros_like(draw))
    way = torch.where(relaxed | perturbed, torch.ones_like(way), way)
    fixed_cell = pairs.fixed_cell
    if settings.in_relaxed_cell:  # a share of zero takes no random numbers
        fixed_cell = fixed_cell | (~pairs.has_forces & (uniform() < settings.in_relaxed_cell))
    if planes is None:
        planes = in_plane_projectors(pairs.fractional_initial, pairs.cell_initial, batch)
    projectors = torch.where(fixed_cell[:, None, None], torch.zeros_like(planes), planes)
    # Where a cell was fixed already, both are the same.
    way_of_cell = torch.where(fixed_cell, torch.ones_like(way), way)
    cell = torch.lerp(pairs.cell_initial, pairs.cell_relaxed, way_of_cell[:, None, None])
    fractional = torch.lerp(pairs.fractional_initial, pairs.fractional_relaxed, way[batch, None])

    strain = normal(size, 3, 3)
    deviation = amplitude(uniform() < settings.strained, settings.strain, settings.perturbed_strain)
    strain = project_strain((strain + strain.mT) / 2, projectors) * deviation[:, None, None]
    cell = cell + matrix_product(cell, strain)
    deviation = amplitude(uniform() < settings.rattled, settings.rattle, settings.perturbed_rattle)
    shake = normal(len(batch), 3) * deviation[batch, None]
    shake = shake - crystal_mean(shake, batch, size)[batch]
    fractional = fractional + rows_times_matrices(shake, inverses(cell)[batch])

    started = replace(pairs, fixed_cell=fixed_cell, cell_initial=cell, fractional_initial=fractional)
    return _rewrapped(started, settings.rewrapped, generator)


def _rewrapped(pairs: RelaxationPairs, share: float, generator: torch.Generator) -> RelaxationPairs:
    """A share of the ``pairs`` from another origin, and in the images of their atoms that this makes."""
    batch, fractional, like = pairs.batch, pairs.fractional_initial, pairs.cell_initial
    options: dict[str, Any] = {"device": like.device, "dtype": like.dtype, "generator": generator}
    shift = torch.rand(len(pairs), 3, **options)
    shift = shift[batch] * (torch.rand(len(pairs), **options) < share)[batch, None]
    images = torch.where(shift != 0, -torch.floor(fractional + shift), torch.zeros_like(fractional))
    return replace(
        pairs,
        fractional_initial=fractional + shift + images,
        fractional_relaxed=pairs.fractional_relaxed + shift + images,
    )


def _kinds(draw: Tensor, settings: AugmentationSettings) -> tuple[Tensor, Tensor]:
    """Flag the crystals that start at the relaxed one, and those that start around it, by ``draw`` in [0, 1)."""
    beyond = draw >= settings.interpolated
    relaxed = beyond & (draw < settings.interpolated + settings.relaxed)
    perturbed = beyond & ~relaxed & (draw < settings.interpolated + settings.relaxed + settings.perturbed)
    return relaxed, perturbed
