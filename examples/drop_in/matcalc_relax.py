"""MatCalc's RelaxCalc, with FIRE and with the one-shot relaxation in its place.

``pip install matcalc``, then ``python examples/drop_in/matcalc_relax.py``. MatCalc hands over bare atoms where the cell
is to be kept, and a cell filter where it is not: ``DeepRelaxPositions`` does as it says in either case.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

from ase.build import bulk
from ase.io import read

from deeprelax_ase import DeepRelaxPositions
from deeprelax_ase.calculators import get_calculator

os.environ.setdefault("MATGL_BACKEND", "DGL")  # MatCalc imports MatGL where it is installed
warnings.filterwarnings("ignore", category=UserWarning, module="chgnet")  # of no concern here

from matcalc import RelaxCalc  # noqa: E402

calculator = get_calculator("chgnet")

with tempfile.TemporaryDirectory() as folder:
    for optimizer in ("FIRE", DeepRelaxPositions):  # the one line that changes
        file = str(Path(folder) / "relax.traj")
        relaxation = RelaxCalc(calculator, optimizer=optimizer, fmax=0.05, traj_file=file)
        result = relaxation.calc(bulk("MgO", "rocksalt", a=4.5))
        name = optimizer if isinstance(optimizer, str) else optimizer.__name__
        steps = len(read(file, index=":")) - 1
        print(f"{name}: {steps} steps, {result['energy']:.4f} eV, {result['volume']:.2f} Å³")
