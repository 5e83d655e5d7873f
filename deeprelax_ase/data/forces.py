"""Pairs whose unrelaxed crystals come with the forces that a calculator found there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from deeprelax_ase.data.pairs import RelaxationPairs, load_pairs, npz_arrays
from deeprelax_ase.io.source import path_of

#: ``kind`` of pairs that start near a minimum, where a calculator told its forces.
NEAR_MINIMUM = -2

#: Arrays of the files, beside those of relaxation pairs.
ARRAYS = ("index", "frac_initial", "cell_initial", "forces", "virial")


def load_pairs_with_forces(
    pairs_file: str | os.PathLike, forces_file: str | os.PathLike, *, dtype: torch.dtype = torch.float64
) -> RelaxationPairs:
    """Pairs of the kind :data:`NEAR_MINIMUM` towards the M3GNet minima of ``pairs_file``, from where ``forces_file``
    knows M3GNet's forces.

    Args:
        pairs_file: relaxation pairs with M3GNet's labels.
        forces_file: npz with ``index`` (n,), which pair each start belongs to, in any order;
            ``frac_initial`` and ``forces`` of all their atoms, in eV/Å; ``cell_initial`` (n, 3, 3) in Å; ``virial``
            (n, 3, 3) in eV, stress times volume.
        dtype: of the geometry and the forces.

    Raises:
        ValueError: an array is missing, the pairs are a part of a file, or the two files do not belong together.
    """
    if (whole := path_of(pairs_file)) != Path(pairs_file):
        index = os.fspath(pairs_file).removeprefix(os.fspath(whole))
        raise ValueError(f"{forces_file} counts all pairs of {whole}: give it without {index!r}")
    with npz_arrays(forces_file) as arrays:
        if missing := [name for name in ARRAYS if name not in arrays]:
            raise ValueError(f"{forces_file} lacks the arrays {missing}; known forces need {list(ARRAYS)}")
        raw = {name: torch.from_numpy(arrays[name]) for name in ARRAYS}
    index = raw["index"].long()
    pairs = load_pairs(pairs_file, labels="m3gnet", dtype=dtype)
    with npz_arrays(pairs_file) as arrays:
        known = torch.from_numpy(arrays["m3gnet_ok"])
    place = torch.where(known, known.cumsum(0) - 1, -1)
    inside = (index >= 0) & (index < len(place))
    chosen = place[torch.where(inside, index, 0)]
    atoms = int(pairs.counts[chosen].sum())
    lengths = {"frac_initial": atoms, "forces": atoms, "cell_initial": len(index), "virial": len(index)}
    if not inside.all() or (chosen < 0).any() or any(len(raw[name]) != length for name, length in lengths.items()):
        raise ValueError(f"{forces_file} does not belong to {pairs_file}: it speaks of other crystals")
    return replace(
        pairs.take(chosen),
        fractional_initial=raw["frac_initial"].to(dtype),
        cell_initial=raw["cell_initial"].to(dtype),
        forces=raw["forces"].to(dtype),
        virial=raw["virial"].to(dtype),
        has_forces=torch.ones(len(chosen), dtype=torch.bool),
        kind=torch.full((len(chosen),), NEAR_MINIMUM),
    )
