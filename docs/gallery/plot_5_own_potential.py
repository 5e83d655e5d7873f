"""
Your own potential
==================

Any calculator of ASE finishes a jump. EMT stands for yours here; under EMT's minima, which no model has learnt, a
rattled alloy is relaxed with the jump and without it.
"""

import matplotlib.pyplot as plt
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from deeprelax_ase import DeepRelaxOptimizer


def unrelaxed() -> Atoms:
    """Cu3Au in the cell of copper, rattled."""
    atoms = bulk("Cu", "fcc", a=3.61, cubic=True)
    atoms.symbols[0] = "Au"
    atoms = atoms.repeat((2, 1, 1))
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    return atoms


# %%
# Each optimizer tells its energies by the step, as ASE's do.


def energies(optimizer: str) -> list[float]:
    """Energies (eV/atom) on the way, of FIRE or of the jump with its finish."""
    atoms = unrelaxed()
    if optimizer == "FIRE":
        search = FIRE(FrechetCellFilter(atoms), logfile=None)
    else:
        search = DeepRelaxOptimizer(atoms, finish="fast", logfile=None)
    found = []
    search.attach(lambda: found.append(atoms.get_potential_energy() / len(atoms)))
    search.run(fmax=0.02, steps=200)
    print(f"{optimizer}: {search.nsteps} steps, {found[-1]:.4f} eV/atom")
    return found


figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
curves = {name: energies(name) for name in ("FIRE", "jump, then fast")}
lowest = min(map(min, curves.values()))
for name, curve in curves.items():
    axes.plot([1e3 * (energy - lowest) + 1e-2 for energy in curve], "o-", markersize=4, label=name)
axes.set(yscale="log", xlabel="step", ylabel="above the lowest energy (meV/atom)")
axes.legend()

# %%
# ``--calculator module:factory`` does the same on the command line, and ``deeprelax label`` makes pairs of such
# relaxations that a model learns from: :doc:`../labels`.
