"""Energy that the errors of a relaxation cost: springs tell those of stiff bonds from those of soft directions."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from deeprelax_ase.geometry.contacts import covalent_radii
from deeprelax_ase.geometry.springs import Springs
from deeprelax_ase.graph.crystal_graph import crystal_mean
from deeprelax_ase.nn.deeprelax_e3 import NetworkInput, moved_vectors
from deeprelax_ase.nn.records import Relaxation
from deeprelax_ase.training.e3_loss import TrueRelaxation

#: eV/atom, below which errors no longer pull with all their might: the root has no slope at zero then.
SMALL = 1e-3

_SPRINGS = Springs()


def elastic_energies(relaxation: Relaxation, truth: TrueRelaxation, given: NetworkInput) -> Tensor:
    """(G,) eV/atom, to stretch the edges of the truly relaxed crystals to their lengths in the predicted ones.

    Each edge of the network is half a spring (:class:`~deeprelax_ase.geometry.springs.Springs`), as a bond is an edge
    from both ends, and at rest in the true crystal. Nothing resists being turned.
    """
    source, destination = given.edges.source, given.edges.destination
    with torch.no_grad():
        rest = torch.linalg.vector_norm(moved_vectors(given, truth.displacements, truth.strain), dim=1)
        radii = _radii(rest.device, rest.dtype)[given.numbers]
        strength = _SPRINGS.strength(rest / (radii[source] + radii[destination])) / 2
    lengths = torch.linalg.vector_norm(moved_vectors(given, relaxation.displacements, relaxation.strain), dim=1)
    of_edges = strength * (lengths - rest).square() / 2
    # By atoms first: sums of all edges of a crystal would wait for each other.
    of_atoms = of_edges.new_zeros(len(given.numbers)).index_add(0, destination, of_edges)
    return _of_crystals(of_atoms, given)


def elastic_loss(relaxation: Relaxation, truth: TrueRelaxation, given: NetworkInput) -> Tensor:
    """Mean over crystals of the root of :func:`elastic_energies`, by how much their atoms count in ``truth``.

    Near the truth the energy is quadratic in the errors, and its root is linear, as the other losses are: crystals that
    end in another minimum do not rule over the rest.
    """
    weights = _of_crystals(truth.atoms, given)
    roots = torch.sqrt(elastic_energies(relaxation, truth, given) + SMALL) - SMALL**0.5
    return (weights * roots).sum() / weights.sum().clamp(min=1e-9)


def _of_crystals(values: Tensor, given: NetworkInput) -> Tensor:
    """(G,) means of the ``values`` (N,) of atoms."""
    return crystal_mean(values[:, None], given.batch, len(given.counts), counts=given.counts).squeeze(1)


@cache
def _radii(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(Z,) Å, kept on the ``device``: while a CUDA graph is recorded nothing can be brought there."""
    return covalent_radii().to(device, dtype)
