"""Kinds of crystals that a model may be better or worse at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.data.pairs import RelaxationPairs

Mask = TypeVar("Mask", np.ndarray, Tensor)

#: More atoms than this make a large crystal.
LARGE = 30

#: Atomic numbers of what is no metal, metalloids B, Si, As and Te among them.
NON_METALS = (1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 33, 34, 35, 36, 52, 53, 54, 85, 86)

#: An element is rare that occurs in less than this share of the training crystals.
RARE = 0.01


#: Atomic numbers that make a crystal one of a kind, the first kind that fits.
CHEMISTRIES = {
    "oxides": (8,),
    "halides": (9, 17, 35, 53),
    "sulphides, selenides, tellurides": (16, 34, 52),
    "nitrides, phosphides, arsenides": (7, 15, 33),
    "hydrides, borides, carbides, silicides": (1, 5, 6, 14),
}


def crystal_groups(pairs: RelaxationPairs, element_shares: Tensor) -> dict[str, Tensor]:
    """Masks (G,) of the crystals of each group; they overlap.

    Args:
        pairs: the crystals.
        element_shares: see :func:`element_shares`, of the training crystals.
    """
    non_metal = torch.isin(pairs.numbers, torch.tensor(NON_METALS))
    return {
        "oxides": pairs.holding(pairs.numbers == 8),
        "intermetallics": ~pairs.holding(non_metal),
        "rare elements": pairs.holding(element_shares[pairs.numbers] < RARE),
        f"over {LARGE} atoms": pairs.counts > LARGE,
    }


def chemistry(pairs: RelaxationPairs) -> dict[str, Tensor]:
    """Masks (G,) of the crystals of each chemistry, see :func:`first_that_fits`."""
    everything = torch.ones(len(pairs), dtype=torch.bool)
    return first_that_fits(lambda numbers: pairs.holding(torch.isin(pairs.numbers, torch.tensor(numbers))), everything)


def first_that_fits(holding: Callable[[tuple[int, ...]], Mask], left: Mask) -> dict[str, Mask]:
    """Masks of the first of :data:`CHEMISTRIES` whose elements crystals are ``holding``, among those ``left``."""
    masks = {}
    for name, numbers in CHEMISTRIES.items():
        masks[name] = left & holding(numbers)
        left = left & ~masks[name]
    return {**masks, "metals alone": left}


def element_shares(pairs: RelaxationPairs) -> Tensor:
    """(120,) share of the crystals of ``pairs`` that each element, by atomic number, occurs in."""
    return _elements(pairs).double().mean(dim=0)


def chemical_systems(pairs: RelaxationPairs) -> Tensor:
    """(G,) number of the set of elements of each crystal, from 0."""
    return torch.unique(_elements(pairs), dim=0, return_inverse=True)[1]


def _elements(pairs: RelaxationPairs) -> Tensor:
    """(G, 120) bool, the elements that are in each crystal, by atomic number."""
    present = torch.zeros(len(pairs), 120, dtype=torch.bool)
    present[pairs.batch, pairs.numbers] = True
    return present
