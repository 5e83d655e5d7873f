"""Heads that learn with the end-to-end network: forces at the start, and the energy of the relaxed crystal."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import Batches
from deeprelax_ase.geometry.vacuum import in_plane_projectors
from deeprelax_ase.graph.crystal_graph import crystal_mean
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.nn.deeprelax_e3 import NetworkInput, strain_matrix
from deeprelax_ase.nn.e3_layers import Refinement
from deeprelax_ase.nn.energy_head import EnergyHead
from deeprelax_ase.nn.heads import bounded_scale
from deeprelax_ase.nn.records import Relaxation
from deeprelax_ase.training.force_targets import FORCE_SCALES, StartForces

#: Beginning of the names of the energy head's tensors, in a network with heads and in the files of members.
ENERGY = "energy."

#: Crystals that the energies of the elements are fitted to at most, and atoms whose planes are found at once.
_FITTED, _ATOMS = 50_000, 100_000


class WithHeads(DeepRelaxE3):
    """The end-to-end network, with a head for forces, virial and energy at the start or for the relaxed ``energy``.

    The first reads what the first block says, which sees the start and nothing else, and is for training alone. The
    second is a model's :class:`~deeprelax_ase.nn.energy_head.EnergyHead`, in single precision throughout.
    """

    def __init__(self, config: DeepRelaxE3Config, *, forces: bool = False, energy: bool = False) -> None:
        super().__init__(config)
        self.force_targets = Refinement(config.channels) if forces else None
        self.energy = EnergyHead(config.channels, config.num_blocks, config.num_elements) if energy else None

    def refine_and_read(
        self, given: NetworkInput
    ) -> tuple[list[Relaxation], StartForces | None, tuple[Tensor, Tensor] | None]:
        """The relaxation after each block; what pulls at the start, and to what gain; the relaxed energy and its scale.

        Energies (G,) and their Laplace scales (G,) are in eV/atom. What has no head is None.
        """
        relaxations, scalars, first = [], [], None
        for relaxation, x, h in self.features(given):
            relaxations.append(relaxation)
            scalars.append(x)
            if first is None and self.force_targets is not None:
                first = self.force_targets(x, h)
        start = None if first is None else _start_forces(first, given)
        if self.energy is None:
            return relaxations, start, None
        with torch.autocast("cuda", enabled=False):
            wide = [x.to(self.energy.elements.dtype) for x in scalars]
            energies = self.energy(wide, given.numbers, given.batch, len(given.counts), counts=given.counts)
        return relaxations, start, energies


def _start_forces(read: tuple[Tensor, ...], given: NetworkInput) -> StartForces:
    forces, coefficients, raw = (values.to(given.vectors.dtype) for values in read)

    def mean(values: Tensor) -> Tensor:
        return crystal_mean(values, given.batch, len(given.counts), counts=given.counts)

    of_crystals = mean(raw[:, 1:])
    return StartForces(
        forces=forces,
        virial=strain_matrix(mean(coefficients)),
        atoms=bounded_scale(raw[:, 0], FORCE_SCALES),
        crystals=bounded_scale(of_crystals[:, 0], FORCE_SCALES),
        gain=of_crystals[:, 1],
        gains=torch.ones_like(of_crystals[:, 1]),
    )


def without_heads(network: nn.Module, *, but_energy: bool = False) -> nn.Module:
    """The ``network`` as it is used: heads, if it has any, stay behind, or all but the one for the relaxed energy."""
    if not isinstance(network, WithHeads):
        return network
    keeps = but_energy and network.energy is not None
    plain = WithHeads(network.config, energy=True) if keeps else DeepRelaxE3(network.config)
    state = network.state_dict()
    plain.to(next(network.parameters())).load_state_dict({name: state[name] for name in plain.state_dict()})
    return plain.requires_grad_(False)


def with_told_energies(pairs: RelaxationPairs) -> RelaxationPairs:
    """The ``pairs``, less energies that no model tells: of kept cells, but slabs', the minimum is another one."""
    kept = pairs.fixed_cell.nonzero().squeeze(1)
    energies = pairs.energy_relaxed.clone()
    for chunk in Batches(pairs.counts[kept], _ATOMS):
        part = pairs.take(kept[chunk])
        planes = in_plane_projectors(part.fractional_initial, part.cell_initial, part.batch)
        bulk = planes.diagonal(dim1=1, dim2=2).sum(dim=1) > 2.5  # all three directions
        energies[kept[chunk]] = part.energy_relaxed.masked_fill(bulk, torch.nan)
    return RelaxationPairs(**vars(pairs) | {"energy_relaxed": energies})


def element_energies(pairs: RelaxationPairs, num_elements: int) -> Tensor:
    """(num_elements + 1,) eV, what an atom of each element has in the relaxed ``pairs``, by least squares.

    As good as zero of elements that no pair with an energy holds.

    Raises:
        ValueError: no energy is known.
    """
    known = pairs.energy_relaxed.isfinite().nonzero().squeeze(1).cpu()
    if not len(known):
        raise ValueError(
            "no pair tells the energy of its relaxed crystal, which npz files hold as energy_relaxed (eV/atom): give "
            "files that do, or leave training.energy_weight at 0"
        )
    part = pairs.take(known[:: -(-len(known) // _FITTED)]).to("cpu")
    shares = np.zeros((len(part), num_elements + 1))
    np.add.at(shares, (part.batch.numpy(), part.numbers.numpy()), 1)
    shares /= shares.sum(axis=1, keepdims=True)
    return torch.from_numpy(np.linalg.lstsq(shares, part.energy_relaxed.double().numpy(), rcond=None)[0]).float()
