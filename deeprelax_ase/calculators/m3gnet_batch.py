"""M3GNet of many crystals in one call of the network, with the weights that the calculator ``m3gnet`` takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from deeprelax_ase.calculators.m3gnet_edges import m3gnet_edges
from deeprelax_ase.calculators.m3gnet_torch import M3GNet
from deeprelax_ase.calculators.m3gnet_weights import load_m3gnet
from deeprelax_ase.calculators.potentials import M3GNET_POTENTIAL, M3GNET_VARIABLE
from deeprelax_ase.calculators.registry import get_calculator
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.graph.matgl_import import runs_on_dgl

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.crystal import Crystal


class EnergyForcesStress(NamedTuple):
    """Energy, forces and stress of a crystal by M3GNet, in double precision.

    Attributes:
        energy: eV.
        forces: (N, 3) eV/Å.
        stress: (3, 3) eV/Å³, in ASE's sign.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray


def m3gnet_network() -> M3GNet:
    """The network, one in a process: from the folder that ``DEEPRELAX_M3GNET`` names, or else where MatGL finds it.

    The folder is read without MatGL and DGL.

    Raises:
        CalculatorError: the weights are not to be had.
    """
    return m3gnet_in(os.environ.get(M3GNET_VARIABLE, ""))


def m3gnet_of(crystals: Sequence[Crystal | Atoms]) -> list[EnergyForcesStress]:
    """Compute energy, forces and stress of each of the ``crystals`` by M3GNet, on the CPU.

    Args:
        crystals: taken as periodic in all directions. One with an element that M3GNet does not know, or with atoms in
            one place, has values that are not finite, and spoils no other.

    Raises:
        CalculatorError: see :func:`m3gnet_network`.
    """
    counts = [len(crystal) for crystal in crystals]
    numbers = torch.from_numpy(np.concatenate([np.asarray(crystal.numbers, dtype=np.int64) for crystal in crystals]))
    positions = torch.from_numpy(np.concatenate([crystal.positions for crystal in crystals]))
    cells = torch.from_numpy(np.stack([np.asarray(crystal.cell, dtype=np.float64) for crystal in crystals]))
    batch = torch.repeat_interleave(torch.tensor(counts))
    edges = m3gnet_edges(positions, cells, batch)
    energies, forces, stresses = m3gnet_network()(numbers, positions, cells, batch, *edges)
    parts = zip(energies.tolist(), torch.split(forces, counts), stresses, strict=True)
    return [EnergyForcesStress(energy, force.numpy(), stress.numpy()) for energy, force, stress in parts]


@cache
def m3gnet_in(folder: str) -> M3GNet:
    """The network in ``folder``, see :func:`m3gnet_network`; where MatGL finds it if that is empty."""
    if folder:
        return load_m3gnet(folder)
    from ase.data import atomic_numbers

    try:
        potential: Any = get_calculator("m3gnet").potential
    except CalculatorError as error:
        raise CalculatorError(f"{error} A folder in {M3GNET_VARIABLE} is read without MatGL.") from error
    if not runs_on_dgl():
        raise CalculatorError(
            f"M3GNet in batches is that of MatGL 2, and the installed MatGL has another one: set {M3GNET_VARIABLE} to "
            f"the folder of {M3GNET_POTENTIAL}."
        )
    known = torch.tensor([atomic_numbers[symbol] for symbol in potential.model.element_types])
    return M3GNet(potential.state_dict(), known).requires_grad_(False)
