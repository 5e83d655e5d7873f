"""M3GNet's minima of relaxed crystals, from where their labels are: what ``DeepRelax-M3GNet`` is measured against.

DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/m3gnet_minima.py pairs_generated_?.npz \\
    --cache relaxed --out with_m3gnet

writes the files anew, with the arrays frac_m3gnet, cell_m3gnet, m3gnet_ok and energy_m3gnet, as pairs_universal.npz and
pairs_xmno.npz have them. FIRE in batches goes on from each relaxed crystal of the splits that are asked for. A minimum
counts (m3gnet_ok) that is near the label: of the crystals of those two files that count none is farther.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from floor import strains_of
from shared import options
from under_potential import Ends, relaxed_under

from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.evaluation.metrics import geometry_of
from deeprelax_ase.graph.crystal_graph import crystal_mean, rows_times_matrices

#: eV/Å, largest force and gradient of the cell at a minimum, and most steps to it.
FMAX, STEPS = 0.05, 250
#: How far from its label a minimum may be: Å, mean displacement of the atoms; and logarithm of the ratio of volumes.
DISPLACED, SWOLLEN = 0.6, 0.35


def arrays_of(pairs: RelaxationPairs, ends: Ends) -> dict[str, np.ndarray]:
    """The arrays of n ``pairs``, of which the labels relaxed to the ``ends``."""
    fractional, cell = geometry_of(ends.crystals(crystals_of(pairs, "relaxed")))
    moves = fractional - pairs.fractional_relaxed
    moves = moves - crystal_mean(moves, pairs.batch, len(pairs))[pairs.batch]
    lengths = torch.linalg.vector_norm(rows_times_matrices(moves, cell[pairs.batch]), dim=1, keepdim=True)
    swollen = (torch.linalg.det(cell) / torch.linalg.det(pairs.cell_relaxed)).log().abs().squeeze()
    near = (crystal_mean(lengths, pairs.batch, len(pairs)).squeeze(1) <= DISPLACED) & (swollen <= SWOLLEN)
    return {
        "frac_m3gnet": (pairs.fractional_relaxed + moves).numpy().astype(np.float32),
        "cell_m3gnet": cell.numpy().astype(np.float32),
        "m3gnet_ok": near.numpy() & ends.converged,
        "energy_m3gnet": ends.energies.astype(np.float32),
    }


def main() -> None:
    """Relax, and write the files."""
    splits = {"nargs": "+", "choices": tuple(SPLITS), "default": ["validation", "test"], "help": "whose crystals"}
    out = {"type": Path, "required": True, "help": "folder for the files"}
    given = options(__doc__, "data", "--cache", splits=splits, out=out).parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for file in given.data:
        pairs = load_pairs(file)
        index = torch.isin(pairs.split, torch.tensor([SPLITS[split] for split in given.splits])).nonzero().squeeze(1)
        own = pairs.take(index)
        ends = relaxed_under(
            "m3gnet", crystals_of(own, "relaxed"), strains_of(own), given.cache, fmax=FMAX, steps=STEPS
        )
        with np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        whole = {
            "frac_m3gnet": arrays["frac_relaxed"].copy(),
            "cell_m3gnet": arrays["cell_relaxed"].copy(),
            "m3gnet_ok": np.zeros(len(pairs), dtype=bool),
            "energy_m3gnet": np.zeros(len(pairs), dtype=np.float32),
        }
        for name, values in arrays_of(own, ends).items():
            whole[name][(pairs.atoms_of(index) if name == "frac_m3gnet" else index).numpy()] = values
        np.savez_compressed(given.out / file.name, **arrays | whole)
        print(f"{file.name}: {whole['m3gnet_ok'].sum():,} of {len(own):,} crystals have a minimum near their label")


if __name__ == "__main__":
    main()
