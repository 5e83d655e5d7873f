"""The network's own predictions as unrelaxed crystals: what a second recycle sees is learnt before it is asked for."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.forces import NEAR_MINIMUM
from deeprelax_ase.geometry.strain import matrix_product, symmetric_exponential
from deeprelax_ase.graph.crystal_graph import inverses, rows_times_matrices


class RecycleBuffer:
    """The last prediction for each of ``pairs``, the unrelaxed crystal until there is one."""

    def __init__(self, pairs: RelaxationPairs) -> None:
        self.pairs = pairs
        self.fractional, self.cell = pairs.fractional_initial.clone(), pairs.cell_initial.clone()

    def mix(
        self,
        crystals: Tensor,
        share: float,
        generator: torch.Generator,
        *,
        hidden: float = 0.0,
        hidden_starts: float = 0.0,
    ) -> RelaxationPairs:
        """The pairs with the indices ``crystals`` (n,), a ``share`` of them from the last prediction on.

        Crystals whose forces are known stay where those were found, but for a share that is ``hidden``, of those near
        their minima, or ``hidden_starts``, of the others.
        """
        crystals = crystals.to(self.cell.device)
        pairs = self.pairs.take(crystals)
        draw = torch.rand(len(pairs), device=generator.device, generator=generator).to(self.cell.device)
        pairs = hide_forces(pairs, torch.where(pairs.kind == NEAR_MINIMUM, hidden, hidden_starts), generator)
        chosen = (draw < share) & ~pairs.has_forces  # forces are known at one place only
        fractional = self.fractional[self.pairs.atoms_of(crystals)]
        return replace(
            pairs,
            fractional_initial=torch.where(chosen[pairs.batch, None], fractional, pairs.fractional_initial),
            cell_initial=torch.where(chosen[:, None, None], self.cell[crystals], pairs.cell_initial),
        )

    def store(
        self,
        crystals: Tensor,
        start: RelaxationPairs,
        displacements: Tensor,
        strain: Tensor,
        *,
        atoms: Tensor | None = None,
    ) -> None:
        """Keep what was predicted for ``crystals`` from ``start``: ``displacements`` (N, 3) in Å and ``strain``.

        Where ``start`` lies at another origin or in other images than the pairs, what is kept does not. ``atoms`` (N,)
        of the ``crystals`` among those of all pairs, where they are known, save a wait for the device.
        """
        crystals = crystals.to(self.cell.device)
        atoms = self.pairs.atoms_of(crystals) if atoms is None else atoms
        cell = matrix_product(start.cell_initial, symmetric_exponential(strain))
        moved = rows_times_matrices(displacements, inverses(cell)[start.batch])
        moved = start.fractional_initial + moved - start.fractional_relaxed
        self.fractional[atoms] = moved.to(self.fractional.device) + self.pairs.fractional_relaxed[atoms]
        self.cell[crystals] = cell.to(self.cell.device)

    def state_dict(self) -> dict[str, Tensor]:
        """For checkpoints."""
        return {"fractional": self.fractional, "cell": self.cell}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.fractional.copy_(state["fractional"])
        self.cell.copy_(state["cell"])


def hide_forces(pairs: RelaxationPairs, share: float | Tensor, generator: torch.Generator) -> RelaxationPairs:
    """The ``pairs``, less what is known of the forces in a ``share`` of them, one or (G,): starts like any others."""
    draw = torch.rand(len(pairs), device=generator.device, generator=generator).to(pairs.counts.device)
    return replace(pairs, has_forces=pairs.has_forces & (draw >= share))
