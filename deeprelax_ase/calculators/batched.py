"""Potentials of many crystals at once: tensors in, energies, forces and stresses out; a bad crystal alone fails."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.calculators.m3gnet_torch import EnergiesForcesStresses
from deeprelax_ase.errors import DeviceError, is_of_disk
from deeprelax_ase.graph.checks import COLLAPSED, FLAT
from deeprelax_ase.graph.shapes import Batch, Cells, Matrices, Numbers, PerCrystal, Positions
from deeprelax_ase.prediction.batching import out_of_memory

#: Bytes that a potential takes on a GPU for an atom, until one batch has told.
_BYTES_PER_ATOM = 8_000_000

#: What none takes less than that computes at all.
_LEAST_BYTES_PER_ATOM = 50_000

#: Share of a GPU's memory that a batch may fill, and atoms beyond which no more are computed in a second.
_SHARE, _MOST_ATOMS = 0.5, 20_000


class Evaluated(NamedTuple):
    """Energies, forces and stresses of G crystals with N atoms, and why some have none.

    Attributes:
        energies: (G,) eV, of whole crystals; NaN where there is none, as in the others.
        forces: (N, 3) eV/Å.
        stresses: (G, 3, 3) eV/Å³, in ASE's sign; all NaN under a potential that has no stress.
        errors: of each crystal that could not be computed, by its place, what was wrong.
    """

    energies: PerCrystal
    forces: Positions
    stresses: Matrices
    errors: dict[int, str]


class BatchedPotential(ABC):
    """A potential of many crystals at once, each taken as periodic in all directions.

    Called, it evaluates a batch and loses none of it: where the batch fails, halves of it are computed, down to the
    crystal at fault; so it goes where memory does not suffice.

    Attributes:
        name: for results.
        device: where it computes; tensors are given and returned there.
        elements: atomic numbers that it knows; None where it does not tell.
        has_stress: whether cells can be relaxed under it.
        one_by_one: whether crystals are computed one after the other, so that a batch saves nothing.
    """

    name: str
    device: torch.device
    elements: frozenset[int] | None = None
    has_stress: bool = True
    one_by_one: bool = False
    _bytes_per_atom: float = _BYTES_PER_ATOM
    _measured_atoms: int = 255  # few tell nothing
    _known: Tensor | None = None
    _all_known: Tensor | None = None

    @abstractmethod
    def compute(self, numbers: Numbers, positions: Positions, cells: Cells, batch: Batch) -> EnergiesForcesStresses:
        """Compute a batch of crystals whose elements are known; whatever is wrong with one may raise anything.

        Args:
            numbers: (N,) int64.
            positions: (N, 3) float64 Å, not wrapped.
            cells: (G, 3, 3) float64 Å, rows are lattice vectors.
            batch: (N,) int64, crystal of each atom, ascending.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, device='{self.device}')"

    @property
    def atoms_at_once(self) -> int:
        """Atoms that suit one call: on a CPU what its caches hold, on a GPU what half of its free memory holds.

        How much an atom takes is measured as the potential is called.
        """
        if self.one_by_one:
            return 1
        if self.device.type != "cuda":
            return 200
        free, _ = torch.cuda.mem_get_info(self.device)
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return min(max(int(_SHARE * free / self._bytes_per_atom), 1), _MOST_ATOMS)

    def may_stay(self, atoms: int) -> float:
        """Share of a batch of so many atoms that may stay in it though it is done.

        It is more than none where a batch of the same crystals as before is quicker.
        """
        return 0.0

    def knows(self, numbers: np.ndarray) -> bool:
        """Whether all atomic ``numbers`` (N,) of a crystal are known; others are refused uncomputed."""
        return self.elements is None or self.elements.issuperset(np.asarray(numbers).tolist())

    def __call__(self, numbers: Numbers, positions: Positions, cells: Cells, batch: Batch) -> Evaluated:
        """Evaluate a batch, see :meth:`compute`; nothing is raised for a crystal.

        Raises:
            DeviceError: the device is lost to this process.
        """
        return self.settled(self.launch(numbers, positions, cells, batch), batch)

    def launch(self, numbers: Numbers, positions: Positions, cells: Cells, batch: Batch) -> Evaluated:
        """Begin to evaluate a batch, which a GPU goes on with while its host has other things to do."""
        crystals = len(cells)
        found = Evaluated(
            positions.new_full((crystals,), torch.nan),
            torch.full_like(positions, torch.nan),
            torch.full_like(cells, torch.nan),
            self._unknown(numbers, batch) | _collapsed(cells, batch),
        )
        whole = torch.arange(crystals, device=self.device)
        if found.errors:
            whole = torch.tensor([k for k in range(crystals) if k not in found.errors], device=self.device)
        given = (numbers, positions, cells, batch)
        for part in whole.split(1) if self.one_by_one else [whole]:
            self._attempt(found, given, part)
        return found

    def settled(self, found: Evaluated, batch: Batch) -> Evaluated:
        """Wait for what :meth:`launch` has ``found``, and add the errors that show only then."""
        total = found.energies.sum() + found.forces.sum()
        if not (total + found.stresses.sum() if self.has_stress else total).isfinite():
            good = found.energies.isfinite().index_fill(0, batch[~found.forces.isfinite().all(dim=1)], False)
            if self.has_stress:
                good &= found.stresses.isfinite().all(dim=2).all(dim=1)
            for crystal in (~good).nonzero().squeeze(1).tolist():
                found.errors.setdefault(crystal, f"{self.name} gives an energy, forces or a stress that are not finite")
        return found

    def _attempt(self, found: Evaluated, given: tuple[Tensor, ...], chosen: Tensor) -> None:
        """Compute the ``chosen`` crystals into ``found``; where that fails, halves of them."""
        if not len(chosen):
            return
        try:
            self._compute_into(found, given, chosen)
            return
        except (Exception, SystemExit) as error:  # whatever potentials raise: some scripts leave so
            told, short = f"{type(error).__name__}: {' '.join(str(error).split())}", out_of_memory(error)
            if is_of_disk(error):
                raise
            if isinstance(error, RuntimeError) and "CUDA error" in str(error) and not short:
                raise DeviceError(f"{self.device} fails ({told}). Begin anew in another process.") from error
        # out here nothing holds on to the tensors of the batch that failed
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if short:
            self._bytes_per_atom *= 1.5
        if len(chosen) > 1:
            for half in chosen.tensor_split(2):
                self._attempt(found, given, half)
            return
        if short:
            told = (
                f"it needs more memory than is left on {self.device}. Give its primitive cell, or take a larger device"
            )
        found.errors[int(chosen)] = told

    def _compute_into(self, found: Evaluated, given: tuple[Tensor, ...], chosen: Tensor) -> None:
        numbers, positions, cells, batch = given
        everything = len(chosen) == len(cells)
        atoms: Tensor | slice = slice(None)
        if not everything:
            places = torch.full((len(cells),), -1, device=self.device).scatter(
                0, chosen, torch.arange(len(chosen), device=self.device)
            )
            atoms = (places[batch] >= 0).nonzero().squeeze(1)
            numbers, positions, cells, batch = numbers[atoms], positions[atoms], cells[chosen], places[batch[atoms]]
        with self._measured(len(numbers)):
            made = self.compute(numbers, positions, cells, batch)
        crystals = slice(None) if everything else chosen  # which takes many kernels
        found.energies[crystals] = made.energies.detach().to(found.energies)
        found.forces[atoms] = made.forces.detach().to(found.forces)
        found.stresses[crystals] = made.stresses.detach().to(found.stresses)

    def _unknown(self, numbers: Numbers, batch: Batch) -> dict[int, str]:
        """Name the elements that are not known, of each crystal that has such."""
        if self.elements is None or numbers is self._all_known:
            return {}
        if self._known is None:
            self._known = torch.zeros(256, dtype=torch.bool, device=self.device)
            self._known[list(self.elements)] = True
        foreign = ~self._known[numbers]
        if not foreign.any():
            self._all_known = numbers  # asked again, each time it would wait for the device
            return {}
        from ase.data import chemical_symbols

        named: dict[int, set[str]] = {}
        for crystal, number in zip(batch[foreign].tolist(), numbers[foreign].tolist(), strict=True):
            named.setdefault(crystal, set()).add(chemical_symbols[number])
        return {
            crystal: f"{self.name} does not know {', '.join(sorted(symbols))}. Choose another calculator."
            for crystal, symbols in named.items()
        }

    @contextmanager
    def _measured(self, atoms: int) -> Iterator[None]:
        """Learn how much memory an atom takes, of batches larger than those before."""
        if self.device.type != "cuda" or atoms <= self._measured_atoms:
            yield
            return
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        yield
        self._measured_atoms = atoms
        taken = (torch.cuda.max_memory_allocated(self.device) - before) / atoms
        if taken < _LEAST_BYTES_PER_ATOM:  # a recorded step, which has its memory
            return
        first = self._bytes_per_atom == _BYTES_PER_ATOM
        self._bytes_per_atom = taken if first else max(taken, self._bytes_per_atom)


def _collapsed(cells: Cells, batch: Batch) -> dict[int, str]:
    """Say which ``cells`` are too small or flat to be computed; of those that are no numbers, what computes tells."""
    faces = torch.linalg.cross(cells.roll(-1, dims=1), cells.roll(-2, dims=1))
    volumes = (faces[:, 0] * cells[:, 0]).sum(dim=1).abs()
    per_atom = volumes / torch.zeros_like(volumes).index_add_(0, batch, torch.ones_like(batch, dtype=cells.dtype))
    across = volumes / torch.linalg.vector_norm(faces, dim=2).amax(dim=1)
    return {
        k: f"the cell has collapsed, to {float(per_atom[k]):.2g} Å³ an atom and {float(across[k]):.2g} Å across"
        for k in ((per_atom < COLLAPSED) | (across < FLAT)).nonzero().squeeze(1).tolist()
    }
