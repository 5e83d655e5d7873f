"""Records of the end-to-end network's predictions, and of forces that a calculator may tell it beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from deeprelax_ase.graph.shapes import (
    CrystalFlags,
    Matrices,
    MemberCells,
    MemberPerAtom,
    MemberPerCrystal,
    MemberPositions,
    Positions,
)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Relaxation of N atoms and the cells of G crystals: the prediction of the end-to-end network.

    The relaxed cell is ``L exp(strain)``; the relaxed positions are those that this strain carries along, displaced.
    An ensemble's relaxations carry a leading member axis M on every tensor.

    Attributes:
        displacements: (N, 3) Å, their mean over each crystal zero.
        strain: (G, 3, 3) symmetric, the logarithm of the stretch.
        displacement_scales: (N,) Å, Laplace scale of the length of each displacement's error.
        volume_scales: (G,) Laplace scale of the error of the logarithm of the volume.
        shape_scales: (G,) Laplace scale of the Frobenius norm of the error of the traceless strain.
    """

    displacements: MemberPositions
    strain: MemberCells
    displacement_scales: MemberPerAtom
    volume_scales: MemberPerCrystal
    shape_scales: MemberPerCrystal


class KnownForces(NamedTuple):
    """Forces and stress that a calculator found in crystals to relax: N atoms in G crystals.

    Attributes:
        forces: (N, 3) eV/Å.
        virial: (G, 3, 3) eV, the stress times the volume, symmetric.
        has_forces: (G,) bool, for which crystals both are known.
    """

    forces: Positions
    virial: Matrices
    has_forces: CrystalFlags
