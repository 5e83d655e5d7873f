"""How near one shot comes to the relaxed crystal above 30 and above 100 atoms: supercells, relaxed under a potential.

PYTHONPATH=benchmarks DEEPRELAX_NEQUIX=nequix-oam-1.pt python benchmarks/large.py pairs_generated_[d-g].npz \\
    --cache large --json benchmarks/results/large.json

Supercells of 100 to 300 atoms of bulk test crystals. Each way to make them takes crystals of its own, and the label is
where FIRE comes from there under the potential that labels the pairs, or another of ``get_batched``'s. No supercell has
the elements of a training crystal of these files. One H200 took 28 s for all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kinds import bare, errors, held_out, row
from shared import options
from under_potential import relaxed_under

from deeprelax_ase import Crystal
from deeprelax_ase.data import PairDataset, RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.readers import RawPair
from deeprelax_ase.evaluation.cached_predictions import predict
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.labelling.lattice import Lattice, supercell
from deeprelax_ase.labelling.similarity import Substitutes
from deeprelax_ase.prediction.allowed_strain import AllowedStrain

#: Atoms of a supercell: at least, and at most.
LEAST, MOST = 100, 300
#: Numbers of kinds.py's that are bulk, with a cell that moves.
BULK = (0, 4, 5, 6, 10, 11)
#: Steps of FIRE at most: supercells take longer than the crystals they are made of.
STEPS = 500


def unrelaxed(rng: np.random.Generator, start: Lattice, relaxed: Lattice) -> Lattice:
    """The unrelaxed crystal repeated, and moved by 0.02 Å so that its copies can part."""
    return rattled(rng, start, start, 0.02, 0.0)


def rattled(
    rng: np.random.Generator, start: Lattice, relaxed: Lattice, rattle: float = 0.1, strain: float = 0.02
) -> Lattice:
    """The relaxed crystal repeated, rattled (Å) and strained."""
    made = supercell(rng, relaxed, MOST)
    noise = rng.normal(0, strain, (3, 3))
    cell = made.cell @ (np.eye(3) + (noise + noise.T) / 2)
    moves = rng.normal(0, rattle, made.fractional.shape) @ np.linalg.inv(cell)
    return made._replace(cell=cell, fractional=made.fractional + moves)


def vacancies(rng: np.random.Generator, start: Lattice, relaxed: Lattice) -> Lattice:
    """The relaxed crystal repeated, 1 to 4 % of its atoms taken out."""
    made = supercell(rng, relaxed, MOST)
    kept = np.sort(rng.permutation(len(made.numbers))[_share(rng, made) :])
    return made._replace(numbers=made.numbers[kept], fractional=made.fractional[kept])


def dopants(rng: np.random.Generator, start: Lattice, relaxed: Lattice) -> Lattice:
    """The relaxed crystal repeated, 1 to 4 % of its atoms replaced by one alike element, sites of one element alone."""
    made = supercell(rng, relaxed, MOST)
    numbers = made.numbers.copy()
    sites = rng.permutation(np.flatnonzero(numbers == rng.choice(numbers)))[: _share(rng, made)]
    others = Substitutes(np.setdiff1d(np.arange(1, 84), numbers), ionic=True)
    numbers[sites] = others.draw(rng, numbers[sites[:1]])
    return made._replace(numbers=numbers)


def _share(rng: np.random.Generator, made: Lattice) -> int:
    return max(1, round(rng.uniform(0.01, 0.04) * len(made.numbers)))


WAYS = {
    "unrelaxed, repeated": unrelaxed,
    "relaxed, repeated, rattled and strained": rattled,
    "vacancies, 1 to 4 %": vacancies,
    "dopants, 1 to 4 %": dopants,
}


def make(
    pairs: RelaxationPairs, known: Collection[frozenset[int]], number: int, seed: int
) -> Iterator[tuple[str, Crystal]]:
    """``number`` supercells by each way, and its name; none has the elements of one of the ``known`` systems."""
    rng = np.random.default_rng(seed)
    sides = [[Lattice.of(c) for c in crystals_of(pairs, side)] for side in ("initial", "relaxed")]
    order = iter(rng.permutation(len(pairs)).tolist())
    for name, way in WAYS.items():
        left = number
        while left:
            place = next(order)
            made = way(rng, sides[0][place], sides[1][place])
            if LEAST <= len(made.numbers) <= MOST and frozenset(made.numbers.tolist()) not in known:
                left -= 1
                yield name, made.made()


def systems(files: Sequence[Path]) -> set[frozenset[int]]:
    """Elements of the training crystals of all ``files``."""
    found = set()
    for file in files:
        pairs = load_pairs(file).in_split("train")
        has = torch.zeros(len(pairs), 128, dtype=torch.bool)
        has[pairs.batch, pairs.numbers] = True
        found |= {frozenset(np.flatnonzero(one).tolist()) for one in np.unique(has.numpy(), axis=0)}
    return found


def main() -> None:
    """Measure, and write JSON."""
    given = options(
        __doc__,
        *("data", "--model", "--cache", "--device", "--json"),
        potential={"default": "nequix_torch_sim:nequix", "help": "as get_batched takes it (default %(default)s)"},
        number={"type": int, "default": 50, "help": "supercells by each way (default %(default)s)"},
        seed={"type": int, "default": 19, "help": "of them (default %(default)s)"},
    ).parse_args()
    tests = held_out(given.data, "relaxed")
    bulk = tests.pairs.take(torch.from_numpy(np.flatnonzero(np.isin(tests.pairs.kind.numpy(), BULK))))
    names, starts = zip(*make(bulk, systems(given.data), given.number, given.seed), strict=True)
    free = [AllowedStrain()] * len(starts)
    ends = relaxed_under(given.potential, starts, free, given.cache, steps=STEPS)
    found = predict(bare(given.model, given.device), starts, given.cache, allow_refused=True)
    frames = zip(names, starts, ends.crystals(starts), strict=True)
    pairs = PairDataset.of(RawPair(*frame, split="test", in_order=True) for frame in frames).pairs
    sizes = pairs.counts.numpy()
    before, after = errors(pairs, starts), errors(pairs, found.crystals)
    of = np.array(names)
    groups = {"all": sizes > 0} | {name: of == name for name in WAYS}
    middle = (LEAST + MOST) // 2
    groups |= {f"up to {middle} atoms": sizes <= middle, f"over {middle} atoms": sizes > middle}
    rows: dict[str, Any] = {}
    for name, mask in groups.items():
        mask = mask & ends.converged
        sides = [{key: values[mask] for key, values in side.items()} for side in (before, after)]
        rows[name] = row(*sides, np.ones(mask.sum()))
    facts = {"environment": environment(), "model": given.model, "potential": given.potential, "seed": given.seed}
    made = {"made": len(starts), "converged": int(ends.converged.sum()), "atoms": [int(sizes.min()), int(sizes.max())]}
    write_json(given.json, {**facts, **made, "rows": rows})


if __name__ == "__main__":
    main()
