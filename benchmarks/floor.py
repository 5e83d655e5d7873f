"""How near FIRE comes to the labels from the same starts, under the potential that made most of them, kind by kind.

PYTHONPATH=benchmarks DEEPRELAX_NEQUIX=nequix-oam-1.pt python benchmarks/floor.py pairs_universal.npz \\
    pairs_xmno.npz pairs_generated_[d-g].npz --cache floor --json benchmarks/results/floor.json

No prediction can be expected to come much nearer: where two relaxations of one start part, the label is one of several.
FIRE starts from the unrelaxed crystal, and from it with every coordinate moved by 0.01 Å. Cells of slabs and of defects
that relaxed in a fixed cell are kept, layers are strained in their plane. One H200 took 48 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import spglib
from kinds import HeldOut, errors, groups_of, held_out, mean_of_kinds, row
from minimum_energies import WITHIN
from shared import options
from under_potential import Ends, relaxed_under

from deeprelax_ase import Crystal
from deeprelax_ase.data import RelaxationPairs, crystals_of
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.prediction.allowed_strain import AllowedStrain

#: Å, standard deviation of what the coordinates of the second starts are moved by.
MOVED = 0.01
#: Number of the kind whose cells are strained in their plane.
LAYERS = 7
#: Groups of the kinds' crystals, by their starts.
SYMMETRIC, ASYMMETRIC = "starts with symmetry", "starts without symmetry"


def moved(crystals: Sequence[Crystal], seed: int) -> list[Crystal]:
    """The ``crystals``, every coordinate moved by :data:`MOVED`."""
    rng = np.random.default_rng(seed)
    return [c.with_geometry(c.positions + rng.normal(0, MOVED, c.positions.shape), c.cell) for c in crystals]


def strains_of(pairs: RelaxationPairs) -> list[AllowedStrain | None]:
    """What the cells could do while the labels were made; the normals of layers are z."""
    layer = AllowedStrain((1, 1, 0, 0, 0, 1))
    free = [layer if kind == LAYERS else AllowedStrain() for kind in pairs.kind.tolist()]
    return [None if fixed else strain for fixed, strain in zip(pairs.fixed_cell.tolist(), free, strict=True)]


def has_symmetry(crystal: Crystal) -> bool:
    """Whether the crystal has a symmetry besides its translations, within 0.001 Å."""
    found = spglib.get_symmetry((crystal.cell, crystal.fractional_positions, crystal.numbers), symprec=1e-3)
    return found is not None and len(np.unique(found["rotations"], axis=0)) > 1


def rows_of(tests: HeldOut, starts: Sequence[Crystal], ends: Ends) -> dict[str, Any]:
    """What a table says of each group of crystals."""
    before, after = errors(tests.pairs, starts), errors(tests.pairs, ends.crystals(starts))
    above = ends.energies - tests.minima
    rows: dict[str, Any] = {}
    symmetric, kinds = (
        np.array([has_symmetry(crystal) for crystal in crystals_of(tests.pairs, "initial")]),
        tests.pairs.kind.numpy() >= 0,
    )
    groups = {SYMMETRIC: kinds & symmetric, ASYMMETRIC: kinds & ~symmetric}
    for name, mask in (groups_of(tests) | groups).items():
        sides = [{key: values[mask] for key, values in side.items()} for side in (before, after)]
        rows[name] = row(*sides, tests.weights[mask]) | {
            "converged": float(ends.converged[mask].mean()),
            "calls": float(ends.calls[mask].mean()),
            "within": float((np.abs(above[mask]) <= WITHIN).mean()),
            "lower": float((above[mask] < -WITHIN).mean()),
        }
    return rows


def main() -> None:
    """Measure, and write JSON."""
    given = options(
        __doc__,
        *("data", "--each", "--every", "--cache", "--json"),
        potential={"default": "nequix_torch_sim:nequix", "help": "as get_batched takes it (default %(default)s)"},
        seed={"type": int, "default": 19, "help": "of the second starts (default %(default)s)"},
    ).parse_args()
    tests = held_out(given.data, "relaxed", each=given.each, every=given.every)
    starts, strains = crystals_of(tests.pairs, "initial"), strains_of(tests.pairs)
    facts: dict[str, Any] = {"environment": environment(), "potential": given.potential, "seed": given.seed}
    for name, crystals in (("rows", starts), ("moved", moved(starts, given.seed))):
        ends = relaxed_under(given.potential, crystals, strains, given.cache)
        rows = rows_of(tests, crystals, ends)
        facts[name] = rows | mean_of_kinds(rows)
    write_json(given.json, facts)


if __name__ == "__main__":
    main()
