"""Relaxation pairs as flat tensors: crystal ``g`` owns the atoms ``offsets[g]:offsets[g + 1]``."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph.crystal_graph import rows_times_matrices
from deeprelax_ase.io.source import part_of, path_of

#: Values of ``split`` in the files.
SPLITS = {"train": 0, "validation": 1, "test": 2}

#: Levels of theory whose minima relaxed crystals are; :attr:`RelaxationPairs.level` counts in this order.
LEVELS = ("PBE", "OAM", "M3GNet")


#: Values of ``kind`` in the files whose cells were fixed while the atoms relaxed: slabs, and defects in supercells.
FIXED_CELL_KINDS = (8, 9)


@dataclass(frozen=True, eq=False)
class RelaxationPairs:
    """Unrelaxed and relaxed crystals, atom by atom in the same order and nearest periodic image.

    Attributes:
        numbers: (N,) int64, atomic numbers.
        counts: (G,) int64, atoms of each crystal.
        fractional_initial, fractional_relaxed: (N, 3) fractional coordinates, not wrapped; no mean drift between
            the two.
        cell_initial, cell_relaxed: (G, 3, 3) Å, lattice vectors in rows.
        dft: (G,) bool, the pair has a published DFT minimum.
        level: (G,) int64, whose minimum the relaxed crystal is, see :data:`LEVELS`.
        split: (G,) int64, see :data:`SPLITS`.
        forces: (N, 3) eV/Å, in the unrelaxed crystal; zero, as the next, where not known.
        virial: (G, 3, 3) eV, stress times volume of the unrelaxed crystal.
        has_forces: (G,) bool, whether forces and virial are known.
        energy_gain: (G,) eV/atom, energy of the unrelaxed crystal less that of the relaxed one; zero where not known.
        energy_relaxed: (G,) eV/atom, of the relaxed crystal under the potential of the file; nan where not known.
        kind: (G,) int64, how the unrelaxed crystal was made, by the number that its file gives; -1 where it gives none,
            and :data:`~deeprelax_ase.data.forces.NEAR_MINIMUM`.
        fixed_cell: (G,) bool, whether the cell was fixed while the atoms relaxed.
    """

    numbers: Tensor
    counts: Tensor
    fractional_initial: Tensor
    fractional_relaxed: Tensor
    cell_initial: Tensor
    cell_relaxed: Tensor
    dft: Tensor
    level: Tensor
    split: Tensor
    forces: Tensor
    virial: Tensor
    has_forces: Tensor
    energy_gain: Tensor
    energy_relaxed: Tensor
    kind: Tensor
    fixed_cell: Tensor

    @classmethod
    def without_forces(cls, **known: Tensor) -> RelaxationPairs:
        """Pairs of these fields, whose forces at the start and gains in energy are not known."""
        forces, virial = (torch.zeros_like(known[name]) for name in ("fractional_initial", "cell_initial"))
        gain = virial.new_zeros(len(virial))
        return cls(forces=forces, virial=virial, has_forces=gain.bool(), energy_gain=gain, **known)

    def __len__(self) -> int:
        return self.counts.shape[0]

    @property
    def batch(self) -> Tensor:
        """(N,) the crystal of each atom."""
        crystals = torch.arange(len(self), device=self.counts.device)
        return torch.repeat_interleave(crystals, self.counts, output_size=len(self.numbers))  # without a wait for a GPU

    def to(self, device: torch.device | str) -> RelaxationPairs:
        """All tensors on ``device``."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def double(self) -> RelaxationPairs:
        """The same with geometry, forces and virials in double precision."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.double() for name, t in given.items() if t.is_floating_point()})

    def atoms_of(self, crystals: Tensor) -> Tensor:
        """Indices of the atoms of ``crystals`` (n,), crystal after crystal in that order."""
        counts = self.counts[crystals]
        starts = (self.counts.cumsum(0) - self.counts)[crystals]
        first = counts.cumsum(0) - counts
        total = int(counts.sum())
        within = torch.arange(total, device=counts.device)
        return torch.repeat_interleave(starts - first, counts, output_size=total) + within

    def holding(self, atoms: Tensor) -> Tensor:
        """(G,) bool, whether a crystal holds one of the ``atoms``, a mask (N,)."""
        return torch.zeros_like(self.counts).index_add(0, self.batch, atoms.long()) > 0

    def take(self, crystals: Tensor) -> RelaxationPairs:
        """The pairs with the indices ``crystals`` (n,), in that order, on the device of the pairs."""
        crystals = crystals.to(self.counts.device)
        atoms = self.atoms_of(crystals)
        owner = {name: atoms if name in PER_ATOM else crystals for name in (f.name for f in fields(self))}
        return RelaxationPairs(**{name: getattr(self, name)[index] for name, index in owner.items()})

    def in_split(self, split: str, *, dft_only: bool = False) -> RelaxationPairs:
        """The pairs of one split, ``train``, ``validation`` or ``test``; optionally those with DFT labels only."""
        if split not in SPLITS:
            raise ValueError(f"Unknown {split=}, must be one of {tuple(SPLITS)}")
        chosen = self.split == SPLITS[split]
        return self.take((chosen & self.dft if dft_only else chosen).nonzero().squeeze(1))


#: Fields of :class:`RelaxationPairs` that have a row for each atom; those of the others have one for each crystal.
PER_ATOM = ("numbers", "fractional_initial", "fractional_relaxed", "forces")


def concatenate(parts: Sequence[RelaxationPairs]) -> RelaxationPairs:
    """All pairs of ``parts``, one after the other."""
    return RelaxationPairs(
        **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(RelaxationPairs)}
    )


def crystals_of(pairs: RelaxationPairs, which: str) -> list[Crystal]:
    """The ``initial`` or ``relaxed`` crystals of ``pairs``, which lie on the CPU, one record each.

    Raises:
        ValueError: ``which`` is neither.
    """
    if which not in ("initial", "relaxed"):
        raise ValueError(f"Unknown {which=}, must be one of ('initial', 'relaxed')")
    cells, counts = getattr(pairs, f"cell_{which}"), pairs.counts.tolist()
    positions = rows_times_matrices(getattr(pairs, f"fractional_{which}"), cells[pairs.batch])
    parts = zip(pairs.numbers.split(counts), positions.split(counts), cells, strict=True)
    return [Crystal(numbers.numpy(), xyz.numpy(), cell.numpy()) for numbers, xyz, cell in parts]


def displacement_sizes(pairs: RelaxationPairs, reduce: str = "amax") -> Tensor:
    """(G,) Å, the largest displacement, or ``mean``, of each crystal's atoms beyond being carried along by the cell."""
    difference = pairs.fractional_relaxed - pairs.fractional_initial
    moved = torch.einsum("nk,nkx->nx", difference, pairs.cell_relaxed[pairs.batch]).norm(dim=1)
    return torch.zeros(len(pairs), dtype=moved.dtype).scatter_reduce(0, pairs.batch, moved, reduce, include_self=False)


def load_pairs(
    paths: Sequence[str | os.PathLike] | str | os.PathLike,
    *,
    labels: str = "relaxed",
    dtype: torch.dtype = torch.float64,
    start_forces: bool = False,
) -> RelaxationPairs:
    """Read pairs from one or several ``.npz`` files, one after the other.

    Args:
        paths: files, or parts of them such as ``pairs.npz@0:100``, with the arrays numbers, offsets, frac_initial,
            cell_initial, dft, split and the labels'; an array ``level`` says whose minima the relaxed crystals are,
            otherwise DFT's are PBE's and the others OAM's; an array ``fixed_cell`` says whose cells were fixed,
            otherwise those whose ``kind`` is in :data:`FIXED_CELL_KINDS`.
        labels: ``relaxed``, the arrays frac_relaxed and cell_relaxed: DFT's minima, or the potential's where there are
            none; ``m3gnet``, the arrays frac_m3gnet and cell_m3gnet of those crystals that m3gnet_ok marks, or the
            relaxed ones where the level of all is M3GNet's.
        dtype: of the geometry.
        start_forces: whether the arrays ``forces_initial`` (eV/Å) and ``stress_initial`` (eV/Å³, ASE's sign), and
            ``energy_initial`` and ``energy_relaxed`` (eV/atom) are read, where a file has both of these two and
            ``labels`` are ``relaxed``. The latter alone, of these labels, is read either way.

    Raises:
        ValueError: an array is missing from a file, a part holds no pair, or ``labels`` is unknown.
        OSError: a file cannot be read.
    """
    if labels not in ("relaxed", "m3gnet"):
        raise ValueError(f"Unknown {labels=}, must be one of ('relaxed', 'm3gnet')")
    files = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    return concatenate([chosen_by(f, _read(path_of(f), labels, dtype, start_forces=start_forces))[0] for f in files])


def chosen_by(file: str | os.PathLike, pairs: RelaxationPairs) -> tuple[RelaxationPairs, Sequence[int]]:
    """Choose the ``pairs`` that the name of their file asks for, all or those after its ``@``; tell their places too.

    Raises:
        ValueError: there is none, or the index is not understood.
    """
    if path_of(file) == Path(file):
        return pairs, range(len(pairs))
    chosen = list(part_of(file, lambda: range(len(pairs))))
    return pairs.take(torch.tensor(chosen)), chosen


#: Arrays of what is known at the start, which a file has together or not at all.
_FORCES, _ENERGIES = ("forces_initial", "stress_initial"), ("energy_initial", "energy_relaxed")


@contextmanager
def npz_arrays(file: str | os.PathLike) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays in an npz ``file``, read as they are asked for.

    Raises:
        ValueError: it is no npz file, or damaged.
        OSError: it cannot be read.
    """
    try:
        with Path(file).open("rb") as stream, NpzFile(stream, allow_pickle=False) as arrays:
            yield arrays
    except (BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is no npz file, or damaged: {error}. Give relaxation pairs") from error


def has_labels(file: str | os.PathLike, labels: str) -> bool:
    """Whether an npz ``file`` of pairs has those ``labels``, see :func:`load_pairs`; packed ones have ``relaxed``."""
    with npz_arrays(file) as arrays:
        packed = "cell_change" in arrays
        level = torch.from_numpy(arrays["level"]) if "level" in arrays and not packed else None
        return labels == "relaxed" or f"frac_{labels}" in arrays or _all_m3gnet(level)


def _read(file: str | os.PathLike, labels: str, dtype: torch.dtype, *, start_forces: bool) -> RelaxationPairs:
    with npz_arrays(file) as arrays:
        stated = torch.from_numpy(arrays["level"]).long() if "level" in arrays else None
        if labels == "m3gnet" and "frac_m3gnet" not in arrays and _all_m3gnet(stated):
            labels = "relaxed"  # a file of one kind of labels, which are just these
        needed = ["numbers", "offsets", "frac_initial", "cell_initial", "dft", "split"]
        needed += [f"frac_{labels}", f"cell_{labels}", *(["m3gnet_ok"] if labels == "m3gnet" else [])]
        if missing := [name for name in needed if name not in arrays]:
            raise ValueError(f"{file} lacks the arrays {missing}; relaxation pairs need {needed}")
        raw = {name: torch.from_numpy(arrays[name]) for name in needed}
        kind = torch.from_numpy(arrays["kind"]).long() if "kind" in arrays else torch.full((len(raw["dft"]),), -1)
        fixed = torch.from_numpy(arrays["fixed_cell"]) if "fixed_cell" in arrays else is_fixed_cell(kind)
        relaxed = labels == "relaxed" and "energy_relaxed" in arrays
        energy = torch.from_numpy(arrays["energy_relaxed"]) if relaxed else torch.full(kind.shape, torch.nan)
        wanted = (_FORCES, _ENERGIES) if start_forces and labels == "relaxed" else ()
        raw |= {name: torch.from_numpy(arrays[name]) for both in wanted if set(both) <= set(arrays) for name in both}
    level = torch.where(raw["dft"], LEVELS.index("PBE"), LEVELS.index("OAM")) if stated is None else stated
    pairs = RelaxationPairs.without_forces(
        numbers=raw["numbers"].long(),
        counts=raw["offsets"].long().diff(),
        fractional_initial=raw["frac_initial"].to(dtype),
        fractional_relaxed=raw[f"frac_{labels}"].to(dtype),
        cell_initial=raw["cell_initial"].to(dtype),
        cell_relaxed=raw[f"cell_{labels}"].to(dtype),
        dft=raw["dft"],
        level=level if labels == "relaxed" else torch.full_like(level, LEVELS.index("M3GNet")),
        split=raw["split"].long(),
        energy_relaxed=energy.to(dtype),
        kind=kind,
        fixed_cell=fixed,
    )
    if set(_ENERGIES) <= set(raw):
        pairs = replace(pairs, energy_gain=(raw["energy_initial"].to(dtype) - raw["energy_relaxed"].to(dtype)))
    if set(_FORCES) <= set(raw):
        virial = raw["stress_initial"].to(dtype) * torch.linalg.det(pairs.cell_initial).abs()[:, None, None]
        all_known = torch.ones_like(pairs.has_forces)
        pairs = replace(pairs, forces=raw["forces_initial"].to(dtype), virial=virial, has_forces=all_known)
    return pairs.take(raw["m3gnet_ok"].nonzero().squeeze(1)) if labels == "m3gnet" else pairs


def is_fixed_cell(kind: Tensor) -> Tensor:
    """(G,) bool, whether crystals of that ``kind`` (G,) relaxed in fixed cells."""
    return torch.isin(kind, torch.tensor(FIXED_CELL_KINDS, device=kind.device))


def _all_m3gnet(level: Tensor | None) -> bool:
    return level is not None and bool((level == LEVELS.index("M3GNet")).all())
