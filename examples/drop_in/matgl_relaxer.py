"""MatGL's Relaxer, with FIRE and with the one-shot relaxation: ``python examples/drop_in/matgl_relaxer.py``.

MatGL finds or downloads M3GNet, or the environment variable DEEPRELAX_M3GNET names its folder.
"""

from __future__ import annotations

import warnings

from ase.build import bulk

from deeprelax_ase import DeepRelaxOptimizer
from deeprelax_ase.calculators import get_calculator

potential = get_calculator("m3gnet").potential  # or what matgl.load_model gives
warnings.filterwarnings("ignore", "Please use atoms.calc", FutureWarning)  # in MatGL's own code

from matgl.ext.ase import Relaxer  # noqa: E402  after deeprelax_ase, which has MatGL 2 run on DGL

for optimizer in ("FIRE", DeepRelaxOptimizer):  # the one line that changes
    result = Relaxer(potential, optimizer=optimizer).relax(bulk("MgO", "rocksalt", a=4.5), fmax=0.05)
    name = optimizer if isinstance(optimizer, str) else optimizer.__name__
    steps, energies = len(result["trajectory"]) - 2, result["trajectory"].energies  # less the start, and a last look
    print(f"{name}: {steps} steps, {energies[-1]:.4f} eV, {result['final_structure'].volume:.2f} Å³")
