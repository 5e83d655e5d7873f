"""Relaxation pairs as fixed-point integers: 13 bytes an atom and 86 a crystal before compression.

They make a data set small enough to send to a machine with GPUs for each run. Their numbers are rounded:

======================= ============================================================
components of            at most off by
======================= ============================================================
lattice vectors          0.5e-4 Å
unrelaxed positions      2**-17 of a lattice vector: 0.8e-4 Å for one of 10 Å
relaxed positions        2e-4 Å, but for what the unrelaxed ones are off
energies                 nothing, in single precision
======================= ============================================================

Each byte of the integers is an array of its own: the upper ones are nearly constant, which compresses well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.data.pairs import RelaxationPairs, concatenate, npz_arrays
from deeprelax_ase.graph.crystal_graph import rows_times_matrices

#: Å, the steps that displacements are counted in, and those of the components of lattice vectors; 16 bits hold 13 Å.
_STEP, _CELL_STEP = 4e-4, 1e-4

#: Steps of a fractional coordinate around its period.
_PERIOD = 1 << 16

#: Bits of a flag for each crystal.
_DFT, _FIXED_CELL = 1, 2

#: Arrays of a packed file.
ARRAYS = ("numbers", "counts", "scaled", "moves", "cell", "cell_change", "level", "split", "flags", "kind", "energy")


def write_packed(file: str | os.PathLike, pairs: RelaxationPairs) -> None:
    """Write ``pairs`` as a packed npz file, less what is known of forces.

    Unrelaxed fractional coordinates are wrapped into the cell, and relaxed ones move along with them.

    Raises:
        ValueError: an atom moves too far for the format.
    """
    arrays: dict[str, Any] = _packed(pairs)
    np.savez_compressed(file, **arrays)


def read_packed(
    files: Sequence[str | os.PathLike] | str | os.PathLike, *, dtype: torch.dtype = torch.float64
) -> RelaxationPairs:
    """The pairs of one or several packed ``files``, one after the other; ``dtype`` is that of the geometry.

    Raises:
        ValueError: an array is missing from a file.
    """
    parts = []
    for file in [files] if isinstance(files, (str, os.PathLike)) else files:
        with npz_arrays(file) as arrays:
            if missing := [name for name in ARRAYS if name not in arrays]:
                raise ValueError(f"{file} lacks the arrays {missing}; packed relaxation pairs need {list(ARRAYS)}")
            parts.append(_unpacked({name: arrays[name] for name in ARRAYS}, dtype))
    return concatenate(parts)


def is_packed(file: str | os.PathLike) -> bool:
    """Whether an npz ``file`` holds packed pairs."""
    with npz_arrays(file) as arrays:
        return "cell_change" in arrays


def _packed(pairs: RelaxationPairs) -> dict[str, np.ndarray]:
    whole = (pairs.fractional_initial.double() * _PERIOD).round()
    # The relaxed side is measured from what is kept of the unrelaxed one, so that its rounding does not add up.
    change = pairs.fractional_relaxed.double() - whole / _PERIOD
    steps = (rows_times_matrices(change, pairs.cell_relaxed.double()[pairs.batch]) / _STEP).round()
    if len(steps) and steps.abs().max() > np.iinfo(np.int16).max:
        furthest = float(steps.abs().max()) * _STEP
        raise ValueError(f"an atom moves {furthest:.1f} Å: packed pairs hold at most 13 Å along each axis")
    cell, relaxed = ((cell.double() / _CELL_STEP).round() for cell in (pairs.cell_initial, pairs.cell_relaxed))
    return {
        "numbers": pairs.numbers.numpy().astype(np.uint8),
        "counts": pairs.counts.numpy().astype(np.uint16),
        "scaled": _bytes_of((whole.long() % _PERIOD).numpy().astype(np.uint16)),
        "moves": _bytes_of(steps.numpy().astype(np.int16)),
        "cell": _bytes_of(cell.numpy().astype(np.int32)),
        "cell_change": _bytes_of((relaxed - cell).numpy().astype(np.int32)),
        "level": pairs.level.numpy().astype(np.uint8),
        "split": pairs.split.numpy().astype(np.int8),
        "flags": (_DFT * pairs.dft.long() + _FIXED_CELL * pairs.fixed_cell.long()).numpy().astype(np.uint8),
        "kind": pairs.kind.numpy().astype(np.int32),
        "energy": pairs.energy_relaxed.numpy().astype(np.float32),
    }


def _unpacked(arrays: Mapping[str, np.ndarray], dtype: torch.dtype) -> RelaxationPairs:
    raw = {name: torch.from_numpy(arrays[name]).long() for name in ("numbers", "counts", "level", "split", "kind")}
    flags = torch.from_numpy(arrays["flags"])
    batch = torch.repeat_interleave(torch.arange(len(flags)), raw["counts"])
    initial = _joined(arrays["scaled"], np.uint16) / _PERIOD
    moves = _joined(arrays["moves"], np.int16) * _STEP
    cell, change = (_joined(arrays[name], np.int32).view(-1, 3, 3) * _CELL_STEP for name in ("cell", "cell_change"))
    relaxed = initial + rows_times_matrices(moves, torch.linalg.inv(cell + change)[batch])
    return RelaxationPairs.without_forces(
        **raw,
        fractional_initial=initial.to(dtype),
        fractional_relaxed=relaxed.to(dtype),
        cell_initial=cell.to(dtype),
        cell_relaxed=(cell + change).to(dtype),
        dft=(flags & _DFT) > 0,
        fixed_cell=(flags & _FIXED_CELL) > 0,
        energy_relaxed=torch.from_numpy(arrays["energy"]).to(dtype),
    )


def _bytes_of(integers: np.ndarray) -> np.ndarray:
    """The bytes of ``integers``, of C components each, along two leading axes: (bytes, C, n)."""
    flat = np.ascontiguousarray(integers.reshape(len(integers), int(np.prod(integers.shape[1:]))))
    octets = flat.astype(flat.dtype.newbyteorder("<")).view(np.uint8).reshape(*flat.shape, flat.dtype.itemsize)
    return np.ascontiguousarray(octets.transpose(2, 1, 0))


def _joined(octets: np.ndarray, dtype: type[np.integer]) -> Tensor:
    """(n, C) the inverse of :func:`_bytes_of`, in double precision."""
    little = np.dtype(dtype).newbyteorder("<")
    integers = np.ascontiguousarray(octets.transpose(2, 1, 0)).view(little)[..., 0]
    return torch.from_numpy(integers.astype(np.float64))
