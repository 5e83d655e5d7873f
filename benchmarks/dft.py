"""GPAW for force_calls.py: settings that a processor core can bear, and the crystals that are cheap under them.

Plane waves to 250 eV, PBE, Fermi-Dirac by 0.1 eV; the k-points of the start stay. ``gpaw`` has k-points at most 0.5/Å
apart along each reciprocal vector, ``gpaw-coarse`` 1/Å: there forces are those of the mesh, symmetric crystals feel
some, and minima are others. Without semi-core states that suits the elements of :data:`ELECTRONS`; their own minima,
not those of converged DFT, are what is looked for. Symmetry is kept to 1e-4, as the relaxations themselves keep it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.spacegroup.symmetrize import refine_symmetry

from deeprelax_ase import Crystal
from deeprelax_ase.data import crystals_of, load_pairs

#: 1/Å between k-points, by name of the potential.
SPACINGS = {"gpaw": 0.5, "gpaw-coarse": 1.0}

#: Valence electrons of the elements that are soft in GPAW's data sets.
ELECTRONS = {3: 3, 12: 2, 13: 3, 14: 4, 15: 5, 16: 6, 17: 7, 32: 4, 33: 5, 34: 6, 35: 7, 50: 4, 51: 5, 52: 6, 53: 7}

#: Å³, beyond which a crystal is not cheap: that leaves out layers, which have 18 Å of vacuum.
VOLUME = 420.0


def settings(potential: str) -> str:
    """One of :data:`SPACINGS` in a few words."""
    return f"GPAW (plane waves to 250 eV, PBE, k-points at most {SPACINGS[potential]:g}/Å apart)"


def gpaw(crystal: Crystal, spacing: float) -> Any:
    """A calculator for relaxations that start at ``crystal``, k-points ``spacing`` in 1/Å apart."""
    from gpaw import GPAW

    reciprocal = 2 * math.pi * np.linalg.norm(np.linalg.inv(crystal.cell), axis=0)
    return GPAW(
        mode={"name": "pw", "ecut": 250},
        xc="PBE",
        kpts={"size": [math.ceil(length / spacing) for length in reciprocal], "gamma": True},
        occupations={"name": "fermi-dirac", "width": 0.1},
        setups={"Mg": "2"},
        symmetry={"tolerance": 1e-4},
        convergence={"eigenstates": 1e-6},
        txt=None,
    )


def choose_cheap(files: Sequence[Path], split: str, limit: int) -> dict[str, Crystal]:
    """Unrelaxed crystals of 6 to 20 atoms of soft elements, the cheapest of each kind in turns, no formula twice.

    The price is the volume times the electrons squared. Crystals are made symmetric within 0.001 Å.

    Returns:
        crystals by kind, file and index there.
    """
    queues: dict[int, list[tuple[float, str, Crystal]]] = {}
    for file in files:
        pairs = load_pairs(file)
        electrons = torch.zeros(119).index_fill(0, torch.tensor(list(ELECTRONS)), 1.0)
        soft = torch.zeros(len(pairs)).index_add(0, pairs.batch, electrons[pairs.numbers]) == pairs.counts
        inside = (pairs.counts >= 6) & (pairs.counts <= 20) & (torch.linalg.det(pairs.cell_initial).abs() < VOLUME)
        # a slab keeps its cell by itself, which a bulk crystal with a defect would have to be told
        wanted = soft & inside & (pairs.kind != 9) & (pairs.split == {"test": 2, "validation": 1}[split])
        index = wanted.nonzero().squeeze(1)
        chosen = pairs.take(index)
        for i, kind, crystal in zip(index.tolist(), chosen.kind.tolist(), crystals_of(chosen, "initial"), strict=True):
            price = crystal.volume * sum(ELECTRONS[z] for z in crystal.numbers.tolist()) ** 2
            queues.setdefault(kind, []).append((price, f"{kind}-{file.stem[-1]}-{i}", crystal))
    found: dict[str, Crystal] = {}
    formulas = set()
    ordered = [iter(sorted(queue, key=lambda entry: entry[:2])) for _, queue in sorted(queues.items())]
    while ordered and len(found) < limit:
        for queue in list(ordered):
            for _, name, crystal in queue:
                atoms = crystal.to_atoms()
                if (formula := atoms.get_chemical_formula(empirical=True)) not in formulas:
                    formulas.add(formula)
                    refine_symmetry(atoms, 1e-3)
                    found[name] = Crystal.from_atoms(atoms)
                    break
            else:
                ordered.remove(queue)
    return dict(list(found.items())[:limit])
