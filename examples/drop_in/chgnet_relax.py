"""CHGNet's StructOptimizer, with FIRE and with the one-shot relaxation: ``python examples/drop_in/chgnet_relax.py``."""

from __future__ import annotations

import warnings

from ase.build import bulk
from chgnet.model import StructOptimizer

from deeprelax_ase import DeepRelaxOptimizer

warnings.filterwarnings("ignore", category=UserWarning, module="chgnet")  # of no concern here
warnings.filterwarnings("ignore", category=DeprecationWarning)  # of torch.jit, beneath CHGNet

for optimizer in ("FIRE", DeepRelaxOptimizer):  # the one line that changes
    relaxer = StructOptimizer(optimizer_class=optimizer, use_device="cpu")
    result = relaxer.relax(bulk("MgO", "rocksalt", a=4.5), fmax=0.05, verbose=False)
    name = optimizer if isinstance(optimizer, str) else optimizer.__name__
    steps, energies = len(result["trajectory"]) - 2, result["trajectory"].energies  # less the start, and a last look
    print(f"{name}: {steps} steps, {energies[-1]:.4f} eV, {result['final_structure'].volume:.2f} Å³")
