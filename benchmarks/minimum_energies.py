"""How far above the minimum of a potential predicted crystals lie, in energy under that potential, kind by kind.

DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/minimum_energies.py m3gnet pairs_universal.npz \\
    pairs_xmno.npz --model DeepRelax-M3GNet --json benchmarks/results/minimum_energies-M3GNet.json
DEEPRELAX_NEQUIX=nequix-oam-1.pt python benchmarks/minimum_energies.py nequix pairs_universal.npz pairs_xmno.npz \\
    pairs_generated_[d-g].npz --each 16 --every 4 --json benchmarks/results/minimum_energies-Nequix.json

The minimum is the potential's own, whose energy the files hold: also of crystals whose label is DFT's. Each group gives
crystals evenly spaced. Nequix needs ``pip install nequix torch-sim-atomistic``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from kinds import HeldOut, bare, ends_of, groups_of, held_out
from shared import options

from deeprelax_ase import Crystal
from deeprelax_ase.calculators import get_calculator
from deeprelax_ase.data import crystals_of
from deeprelax_ase.evaluation.results import environment, write_json

#: eV/atom, within which a screening takes an energy for the minimum's.
WITHIN = 0.025


def m3gnet() -> Callable[[Crystal], float]:
    """Energies in eV/atom under M3GNet."""
    calculator = get_calculator("m3gnet", device="cpu")

    def energy(crystal: Crystal) -> float:
        atoms = crystal.to_atoms()
        atoms.calc = calculator
        return float(atoms.get_potential_energy()) / len(atoms)

    return energy


def nequix() -> Callable[[Crystal], float]:
    """Energies in eV/atom under Nequix-OAM-1."""
    import nequix_torch_sim
    import torch_sim

    model = nequix_torch_sim.nequix()

    def energy(crystal: Crystal) -> float:
        atoms = crystal.to_atoms()
        atoms.pbc = True
        return float(model(torch_sim.io.atoms_to_state([atoms], model.device, model.dtype))["energy"]) / len(atoms)

    return energy


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
    given = options(
        __doc__, "potential", *names, potential={"choices": ("m3gnet", "nequix")}, number=number
    ).parse_args()
    predictor = bare(given.model, "cpu")
    labels = "m3gnet" if given.potential == "m3gnet" else "relaxed"
    tests = held_out(given.data, labels, each=given.each, every=given.every)
    ends = ends_of(predictor, tests, given.cache)
    dft, families = tests.pairs.dft.numpy(), groups(tests)
    parts = [mask & label for mask in families.values() for label in (dft, ~dft)]
    index = chosen([part for part in parts if part.any()], given.number)
    tests, ends = tests.take(index), [ends[i] for i in index.tolist()]
    energy = {"m3gnet": m3gnet, "nequix": nequix}[given.potential]()
    starts = tests.starts
    if given.potential == "m3gnet":
        starts = np.array([energy(crystal) for crystal in crystals_of(tests.pairs, "initial")])
    before, after = starts - tests.minima, np.array([energy(end) for end in ends]) - tests.minima
    rows = {name: row(before[mask], after[mask]) for name, mask in groups(tests).items() if mask.any()}
    facts = {"environment": environment(), "model": predictor.model_name, "potential": given.potential}
    write_json(given.json, {**facts, "within": WITHIN, "rows": rows})


if __name__ == "__main__":
    main()
