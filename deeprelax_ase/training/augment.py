"""Augmentation of relaxation pairs: every relaxed crystal is the label of many unrelaxed ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deeprelax_ase.data import Pairs


@dataclass(frozen=True)
class AugmentationSettings:
    """Shares of the crystals that each change meets.

    Attributes:
        on_the_way: moved a uniformly drawn part of the way to their relaxed crystals.
        arrived: replaced by their relaxed crystals, so that the network learns to leave those alone.
        strained: strained by a random symmetric matrix.
        strain: standard deviation of its diagonal elements; that of the others is smaller by the square root of 2.
        rattled: fractional coordinates shaken.
        rattle: Å, standard deviation of the shaking.
        rewrapped: shifted as a whole by a random vector and wrapped into the cell: another choice of periodic images,
            to which the cell offset encoding is not indifferent.
    """

    on_the_way: float = 0.35
    arrived: float = 0.05
    strained: float = 0.3
    strain: float = 0.03
    rattled: float = 0.1
    rattle: float = 0.05
    rewrapped: float = 0.3


def augment(pairs: Pairs, settings: AugmentationSettings, generator: torch.Generator) -> Pairs:
    """New unrelaxed crystals for the same relaxed ones; only the geometry of the unrelaxed side changes, except that
    :attr:`~AugmentationSettings.rewrapped` moves both sides to the same new images.
    """
    device, dtype, size = pairs.cell_initial.device, pairs.cell_initial.dtype, len(pairs)
    batch = pairs.batch

    def uniform() -> Tensor:
        return torch.rand(size, device=device, dtype=dtype, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype, generator=generator)

    draw = uniform()
    way = torch.where(draw < settings.on_the_way, uniform(), torch.zeros_like(draw))
    arrived = (draw >= settings.on_the_way) & (draw < settings.on_the_way + settings.arrived)
    way = torch.where(arrived, torch.ones_like(way), way)
    cell = torch.lerp(pairs.cell_initial, pairs.cell_relaxed, way[:, None, None])
    scaled = torch.lerp(pairs.scaled_initial, pairs.scaled_relaxed, way[batch, None])

    strain = normal(size, 3, 3) * settings.strain
    strain = (strain + strain.mT) / 2 * ((uniform() < settings.strained) & ~arrived)[:, None, None]
    cell = cell + cell @ strain
    shake = normal(len(batch), 3) * settings.rattle * ((uniform() < settings.rattled) & ~arrived)[batch, None]
    shake = shake - _mean_per_crystal(shake, batch, size)[batch]
    scaled = scaled + torch.einsum("nx,nxk->nk", shake, torch.linalg.inv(cell)[batch])

    shift = torch.rand(size, 3, device=device, dtype=dtype, generator=generator)
    shift = shift[batch] * (uniform() < settings.rewrapped)[batch, None]
    images = torch.where(shift != 0, -torch.floor(scaled + shift), torch.zeros_like(scaled))
    return replace(
        pairs,
        cell_initial=cell,
        scaled_initial=scaled + shift + images,
        scaled_relaxed=pairs.scaled_relaxed + shift + images,
    )


def _mean_per_crystal(values: Tensor, batch: Tensor, size: int) -> Tensor:
    sums = values.new_zeros(size, values.shape[1]).index_add(0, batch, values)
    return sums / torch.bincount(batch, minlength=size)[:, None]
