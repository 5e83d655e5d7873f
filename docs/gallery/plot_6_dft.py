"""
Finish with DFT
===============

Hexagonal silicon starts in the cell of wurtzite ZnSe and is relaxed under PBE, by GPAW, with the jump and without it.
Any DFT code with an ASE calculator does the same.
"""

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.units import GPa
from gpaw import GPAW

from deeprelax_ase import DeepRelaxOptimizer
from deeprelax_ase.optimizers import ModelHessianBFGS


def pbe(cutoff: float) -> GPAW:
    """PBE with plane waves to ``cutoff`` (eV), and k-points 0.5/Å apart."""
    return GPAW(mode={"name": "pw", "ecut": cutoff}, xc="PBE", kpts={"size": (4, 4, 2), "gamma": True}, txt=None)


def unrelaxed() -> Atoms:
    """Four atoms of silicon."""
    atoms = bulk("ZnSe", "wurtzite", a=4.00, c=6.54)
    atoms.symbols[:] = "Si"
    atoms.calc = pbe(250)
    return atoms


# %%
# Both ways the same optimizer finishes, ``finish="fast"``: ASE's BFGS whose first Hessian is that of springs between
# neighbours. The energy that belongs to the forces is the ``force_consistent`` one.


def energies(jump: bool) -> list[float]:
    """Energies (eV/atom), one for each call of DFT."""
    atoms = unrelaxed()
    if jump:
        search = DeepRelaxOptimizer(atoms, finish="fast", logfile=None)
    else:
        search = ModelHessianBFGS(FrechetCellFilter(atoms), logfile=None)
    found = []
    search.attach(lambda: found.append(atoms.get_potential_energy(force_consistent=True) / len(atoms)))
    search.run(fmax=0.05, steps=30)
    relaxed.append(atoms)
    print(f"{len(found)} calls of DFT, {found[-1]:.4f} eV/atom, {atoms.get_volume():.2f} Å³")
    return found


relaxed = []
curves = {"without the jump": energies(jump=False), "with it": energies(jump=True)}

# %%
# The first call is of the unrelaxed crystal either way, the second of one step of the optimizer, or of the prediction.

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
lowest = min(map(min, curves.values()))
for name, curve in curves.items():
    calls = range(1, len(curve) + 1)
    axes.plot(calls, [1e3 * (energy - lowest) + 1e-2 for energy in curve], "o-", label=name)
axes.set(yscale="log", xlabel="call of DFT", ylabel="above the lowest energy (meV/atom)")
axes.xaxis.get_major_locator().set_params(integer=True)
axes.legend()
# sphinx_gallery_start_ignore
ends = [curve[-1] for curve in curves.values()]
assert max(ends) - min(ends) < 1e-3
# sphinx_gallery_end_ignore

# %%
# Does the cutoff serve? The cell moves while the cutoff stays, and one that is too low pulls at the cell. The stress at
# the end, once more and with more plane waves:

atoms = relaxed[-1]
for cutoff in (250, 400):
    atoms.calc = pbe(cutoff)
    print(f"{cutoff} eV: largest stress {np.abs(atoms.get_stress()).max() / GPa:.1f} GPa")

# %%
# Two lengths and a height are all that there is to find here, so that little is left to save. What larger crystals
# save, and what to watch for: :doc:`../dft`.
