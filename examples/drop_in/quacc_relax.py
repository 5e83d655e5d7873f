"""quacc's runner, with BFGS and with the one-shot relaxation in its place.

``pip install quacc``, then ``python examples/drop_in/quacc_relax.py``. The same goes for quacc's recipes: they hand
``opt_params={"optimizer": DeepRelaxOptimizer}`` on to the runner. It leaves a folder of results for each relaxation.
"""

from __future__ import annotations

import warnings

from ase.build import bulk
from ase.optimize import BFGS
from quacc.runners.ase import Runner

from deeprelax_ase import DeepRelaxOptimizer
from deeprelax_ase.calculators import get_calculator

warnings.filterwarnings("ignore", category=UserWarning, module="chgnet")  # of no concern here

calculator = get_calculator("chgnet")

for optimizer in (BFGS, DeepRelaxOptimizer):  # the one line that changes
    runner = Runner(bulk("MgO", "rocksalt", a=4.5), calculator)
    dynamics = runner.run_opt(relax_cell=True, optimizer=optimizer, fmax=0.05)
    relaxed = dynamics.atoms.atoms  # beneath the filter with which quacc lets the cell move
    energy, volume = relaxed.get_potential_energy(), relaxed.get_volume()
    print(f"{optimizer.__name__}: {dynamics.nsteps} steps, {energy:.4f} eV, {volume:.2f} Å³")
