"""Crystals before and after with their lattice constants, beside the relaxed ones: figure 3 of the paper.

python benchmarks/structures.py pairs_xmno.npz --out benchmarks/

Of the X-Mn-O test crystals, the first of ten atoms or more with strontium, and with barium, of which an atom moves by a
tenth of an Å and the volume changes by a tenth. They are relaxed by Nequix-OAM-1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from deeprelax_ase import Predictor
from deeprelax_ase.data import crystals_of, load_pairs
from deeprelax_ase.data.groups import displacement_sizes
from deeprelax_ase.report.static import write_structures

#: Name of the file, and the element that the crystal holds.
SHOWN = {"structure-Sr": 38, "structure-Ba": 56}


def main() -> None:
    """Predict and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="npz file of pairs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder (default %(default)s)")
    arguments = parser.parse_args()
    pairs = load_pairs(arguments.data, dtype=torch.float64).in_split("test")
    shown = (displacement_sizes(pairs) > 0.1) & (pairs.counts >= 10)
    pairs = pairs.take(shown.nonzero().squeeze(1))
    ends = list(zip(crystals_of(pairs, "initial"), crystals_of(pairs, "relaxed"), strict=True))
    predictor = Predictor(graph_backend="torch")
    for name, element in SHOWN.items():
        start, end = next((s, e) for s, e in ends if element in s.numbers and abs(s.volume / e.volume - 1) > 0.1)
        for file in write_structures(predictor.predict(start), arguments.out / name, reference=end):
            if file.suffix == ".png":
                file.unlink()  # the page shows the other
        print(name, start.to_atoms().get_chemical_formula("metal"), file)


if __name__ == "__main__":
    main()
