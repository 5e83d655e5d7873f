"""Teach the network a calculator's minima for a small chemistry, and count force calls before and after.

The calculator is CHGNet with r2SCAN weights, which its package ships, the chemistry alkali halides and chalcogenides
of Mg, Ca, Sr and Ba. They are relaxed under it, and the last block of the network learns their minima. Crystals of
compounds that are held out are relaxed by FIRE: from where they start, from where the model as it ships jumps to, and
from where the tuned one does. Ten minutes of one core suffice.

    python examples/teach_calculator.py --out taught
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import FIRE
from rich.console import Console
from rich.table import Table

from deeprelax_ase import DeepRelaxOptimizer, Predictor
from deeprelax_ase.calculators import CallCounter, get_calculator
from deeprelax_ase.data import PairDataset, crystals_of
from deeprelax_ase.labelling import LabelOptions, label
from deeprelax_ase.learning import tune

#: Cations and anions of the compounds.
SALTS = (("Li", "Na", "K", "Rb"), ("F", "Cl", "Br", "I")), (("Mg", "Ca", "Sr", "Ba"), ("O", "S", "Se", "Te"))

#: Lattice constant over the distance of neighbours.
PROTOTYPES = {"rocksalt": 2.0, "zincblende": 4 / 3**0.5}

#: Crystals that are made of each compound in each prototype.
COPIES = 2

#: CHGNet with its r2SCAN weights.
CALCULATOR = "chgnet:r2scan"


def compounds() -> list[Atoms]:
    """Each compound in each prototype, at a volume that covalent radii say, strained and rattled."""
    rng, made = np.random.default_rng(0), []
    pairs = [pair for cations, anions in SALTS for pair in product(cations, anions)]
    for (cation, anion), (prototype, ratio), _ in product(pairs, PROTOTYPES.items(), range(COPIES)):
        bond = sum(covalent_radii[atomic_numbers[name]] for name in (cation, anion))
        atoms = bulk(cation + anion, prototype, a=ratio * bond)
        noise = rng.normal(0, 0.03, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (noise + noise.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        made.append(atoms)
    return made


def taught(out: Path) -> tuple[Path, list[Atoms]]:
    """The card of the tuned model, and the crystals that it was not shown; labels and model lie in the folder."""
    out.mkdir(parents=True, exist_ok=True)
    write(out / "candidates.extxyz", compounds())
    options = LabelOptions(CALCULATOR, finish="fast", device="cpu")
    fractions = (0.65, 0.15, 0.2)
    report = label([out / "candidates.extxyz"], out / "labelled", options, workers=0, fractions=fractions)
    print(f"{report.counts['labelled']} labelled: {report.splits}")
    assert report.pairs is not None
    tuned = tune(
        "DeepRelax-PBE",
        report.pairs,
        out / "tuned",
        name="DeepRelax-r2SCAN",
        level="PBE",  # in whose place the labels are learnt
        seed=0,
        freeze="backbone",
        epochs=60,
        changes=["training.validate_every=8"],
    )
    unseen = crystals_of(PairDataset.read(report.pairs).pairs.in_split("test"), "initial")
    return tuned, [crystal.to_atoms() for crystal in unseen]


class Cost(NamedTuple):
    """Means over the relaxations: force calls, and by how much the volume changes yet after the jump."""

    calls: float
    volume_off: float


def force_calls(unseen: list[Atoms], model: Any = None) -> Cost:
    """The cost of FIRE to 0.05 eV/Å after the jump of a ``model``; None jumps nowhere."""
    predictor = None if model is None else Predictor(model, device="cpu")
    calculator, calls, off = get_calculator(CALCULATOR, device="cpu"), [], []
    for start in unseen:
        atoms = start.copy()
        atoms.calc = calculator
        volume = atoms.get_volume()
        with CallCounter(calculator) as counter:
            if predictor is None:
                FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.05, steps=500)
            else:
                optimizer = DeepRelaxOptimizer(atoms, predictor=predictor, logfile=None)
                optimizer.run(fmax=0.05, steps=500)
                if optimizer.prediction:
                    volume = optimizer.prediction.relaxed.volume
        calls.append(counter.calls or 0)
        off.append(abs(volume / atoms.get_volume() - 1))
    return Cost(float(np.mean(calls)), float(np.mean(off)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("taught"), help="folder for labels and model")
    start = time.process_time()
    tuned, unseen = taught(parser.parse_args().out)
    learnt = time.process_time() - start
    table = Table("under CHGNet r2SCAN", "force calls", "volume off", box=None, padding=(0, 2, 0, 0))
    starts = {"FIRE": None, "DeepRelax-PBE, then FIRE": "DeepRelax-PBE", "DeepRelax-r2SCAN, then FIRE": tuned}
    for name, model in starts.items():
        cost = force_calls(unseen, model)
        table.add_row(name, f"{cost.calls:.1f}", f"{cost.volume_off:.1%}")
    Console(width=100, highlight=False).print(table)
    print(f"{len(unseen)} crystals; learning took {learnt:.0f} s of one core, all {time.process_time() - start:.0f} s")


if __name__ == "__main__":
    main()
