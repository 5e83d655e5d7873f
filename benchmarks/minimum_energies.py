"""How far above the minimum of a potential predicted crystals lie, in energy under that potential, kind by kind.

DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/minimum_energies.py m3gnet pairs_universal.npz \\
    pairs_xmno.npz --model DeepRelax-M3GNet --json benchmarks/results/minimum_energies-M3GNet.json
PYTHONPATH=benchmarks DEEPRELAX_NEQUIX=nequix-oam-1.pt python benchmarks/minimum_energies.py nequix \\
    pairs_universal.npz pairs_xmno.npz pairs_generated_?.npz --number 20000 --cache predicted \\
    --json benchmarks/results/minimum_energies-Nequix.json

The minimum is the potential's own, whose energy the files hold: also of crystals whose label is DFT's. Each group gives
crystals evenly spaced, ``--number`` of each label at most. Nequix needs ``pip install nequix torch-sim-atomistic``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from kinds import HeldOut, bare, groups_of, held_out, predicted
from shared import options
from under_potential import energies_under

from deeprelax_ase.data import crystals_of
from deeprelax_ase.evaluation.results import environment, write_json

#: eV/atom, within which a screening takes an energy for the minimum's.
WITHIN = 0.025

#: What ``get_batched`` takes, by the potential's name.
POTENTIALS = {"m3gnet": "m3gnet", "nequix": "nequix_torch_sim:nequix"}


def groups(tests: HeldOut) -> dict[str, np.ndarray]:
    """Masks (n,) by name: kinds, and all crystals by what made their label."""
    dft = tests.pairs.dft.numpy()
    return {"all, DFT-labelled": dft, "all, labelled by a potential": ~dft} | groups_of(tests)


def chosen(masks: Sequence[np.ndarray], number: int) -> np.ndarray:
    """Indices, evenly spaced ones of each mask, ``number`` at most of each."""
    spaced = []
    for mask in masks:
        index = np.flatnonzero(mask)
        spaced.append(index[np.linspace(0, len(index) - 1, min(number, len(index))).round().astype(int)])
    return np.unique(np.concatenate(spaced))


def row(start: np.ndarray, end: np.ndarray) -> dict[str, Any]:
    """What a table says of energies above the minimum, in eV/atom."""
    return {
        "crystals": len(end),
        "start": {"within": float((start <= WITHIN).mean()), "median": float(np.median(start))},
        "end": {
            "within": float((end <= WITHIN).mean()),
            "median": float(np.median(end)),
            "p90": float(np.percentile(end, 90)),
        },
    }


def main() -> None:
    """Measure, and write JSON."""
    names = ("data", "--model", "--each", "--every", "--cache", "--json")
    number = {"type": int, "default": 40, "help": "crystals of each group (default %(default)s)"}
    given = options(__doc__, "potential", *names, potential={"choices": tuple(POTENTIALS)}, number=number).parse_args()
    predictor = bare(given.model, "cpu")
    labels = "m3gnet" if given.potential == "m3gnet" else "relaxed"
    tests = held_out(given.data, labels, each=given.each, every=given.every)
    ends = predicted(predictor, tests.pairs, given.cache).crystals
    dft, families = tests.pairs.dft.numpy(), groups(tests)
    parts = [mask & label for mask in families.values() for label in (dft, ~dft)]
    index = chosen([part for part in parts if part.any()], given.number)
    tests, ends = tests.take(index), [ends[i] for i in index.tolist()]
    potential = POTENTIALS[given.potential]
    energies = energies_under(potential, ends, given.cache)
    starts = tests.starts
    if given.potential == "m3gnet":
        starts = energies_under(potential, crystals_of(tests.pairs, "initial"), given.cache)
    before, after = starts - tests.minima, energies - tests.minima
    rows = {name: row(before[mask], after[mask]) for name, mask in groups(tests).items() if mask.any()}
    facts = {"environment": environment(), "model": predictor.model_name, "potential": given.potential}
    facts |= {"within": WITHIN, "number": given.number}
    write_json(given.json, {**facts, "rows": rows})


if __name__ == "__main__":
    main()
