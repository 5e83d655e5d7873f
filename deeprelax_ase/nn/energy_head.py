"""From the atoms' scalars of the end-to-end network to the energy of the relaxed crystal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from deeprelax_ase.graph.crystal_graph import crystal_mean
from deeprelax_ase.graph.shapes import Batch, CrystalCounts, Numbers, PerCrystal, Scalars
from deeprelax_ase.nn.heads import bounded_scale

#: eV/atom, bounds of the Laplace scale of the energy's error.
ENERGY_SCALES = (1e-3, 3.0)


class EnergyHead(nn.Module):
    """Energy an atom of the relaxed crystal, and how sure that is; learnt with a network, or after it.

    It reads the scalars x_ib of atom i after each block b, normalised, of the first recycle; z is the element, and
    ``<>`` the mean over the atoms of a crystal, so that a supercell has the energy an atom of its crystal::

        a_i = silu(W_1 [x_i1, ..., x_iB]),   h_i = a_i + silu(W_2 a_i)
        g, s = W_4 silu(W_3 <h>)
        energy = <e_z> + <w . h> + g,   b = exp(s) within ENERGY_SCALES

    The energies e of the elements are fitted beforehand, so that the head learns what is left.
    """

    def __init__(self, channels: int, blocks: int, elements: int, hidden: int = 256, pooled: int = 128) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(blocks))
        self.first, self.second = nn.Linear(channels * blocks, hidden), nn.Linear(hidden, hidden)
        self.atoms = nn.Linear(hidden, 1)
        self.crystals = nn.Sequential(nn.Linear(hidden, pooled), nn.SiLU(), nn.Linear(pooled, 2))
        self.elements: Tensor
        self.register_buffer("elements", torch.zeros(elements + 1))

    def forward(
        self,
        scalars: Sequence[Scalars],
        numbers: Numbers,
        batch: Batch,
        size: int,
        *,
        counts: CrystalCounts | None = None,
    ) -> tuple[PerCrystal, PerCrystal]:
        """(G,) energy in eV/atom and (G,) its Laplace scale.

        Args:
            scalars: (N, F) of the atoms after each block.
            numbers: (N,) atomic numbers.
            batch: (N,) the crystal of each atom.
            size: G.
            counts: (G,) atoms of each crystal, where they are known: they save a wait for the device.
        """
        normed = [norm(x) for norm, x in zip(self.norms, scalars, strict=True)]
        hidden = functional.silu(self.first(torch.cat(normed, dim=1)))
        hidden = hidden + functional.silu(self.second(hidden))
        of_atoms = torch.cat([hidden, self.atoms(hidden), self.elements[numbers, None]], dim=1)
        means = crystal_mean(of_atoms, batch, size, counts=counts)
        mean, energy, reference = means.split([hidden.shape[1], 1, 1], dim=1)
        rest, raw = self.crystals(mean).unbind(dim=1)
        return reference[:, 0] + energy[:, 0] + rest, bounded_scale(raw, ENERGY_SCALES)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> EnergyHead:
        """The head whose state these ``tensors`` are, by name.

        Raises:
            ValueError: they are of no such head.
        """
        try:
            blocks = sum(name.startswith("norms.") for name in tensors) // 2
            (hidden, width), pooled = tensors["first.weight"].shape, len(tensors["crystals.0.weight"])
            head = cls(width // blocks, blocks, len(tensors["elements"]) - 1, hidden, pooled)
            head.load_state_dict(tensors)
        except (KeyError, RuntimeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"tensors {sorted(tensors)} are no energy head: {error}") from error
        return head.float().eval().requires_grad_(False)
