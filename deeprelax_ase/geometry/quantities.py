"""Input of the geometry solver, the relaxation quantities of section 4.4, and knowledge of the sites."""

from __future__ import annotations

from dataclasses import dataclass

from deeprelax_ase.graph.shapes import (
    MemberCells,
    MemberLengths,
    MemberPairLengths,
    MemberPositions,
)


@dataclass(frozen=True, eq=False)
class RelaxationQuantities:
    """Predicted distances, displacements and cell of a batch of G crystals with E edges, P of them in-cell pairs.

    An ensemble's quantities carry a leading member axis M on every tensor. The paper writes ``u`` both for the Laplace
    scale (11) and for its logarithm (18)-(21); here ``scale`` is always the scale itself, ``b = exp(u)``, in Å.

    Attributes:
        distances: (E,) Å, relaxed interatomic distances, eq. (8).
        distance_scales: (E,) Å, their Laplace scales, eq. (9); zero where the model predicts none.
        displacements: (P,) Å, distance from atom j in the relaxed crystal to the anchor of atom i, in-cell pairs only.
        displacement_scales: (P,) Å, their Laplace scales.
        cell: (G, 3, 3) Å, relaxed lattice vectors in rows, eq. (10).
        anchors: (N, 3) Å, where displacements are measured from: the unrelaxed positions, or those carried along by
            the predicted cell.
    """

    distances: MemberLengths
    distance_scales: MemberLengths
    displacements: MemberPairLengths
    displacement_scales: MemberPairLengths
    cell: MemberCells
    anchors: MemberPositions
