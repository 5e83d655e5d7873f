"""
Relax one crystal
=================

CaTiO3 in the cell of another perovskite, in one shot: no calculator, no steps.
"""

from pathlib import Path

import chemiscope
import matplotlib.pyplot as plt
from ase.io import read
from ase.visualize.plot import plot_atoms

import deeprelax_ase
from deeprelax_ase import Predictor

examples = Path(deeprelax_ase.__file__).parents[1] / "examples"
atoms = read(examples / "unrelaxed.extxyz", index="7")
prediction = Predictor().predict(atoms)
print(prediction)

# %%
# The prediction as ASE's atoms: calcium and oxygen move, titanium, at a site of inversion, cannot, and the cell hardly
# changes.

relaxed = prediction.to_atoms()
figure, panels = plt.subplots(1, 2, figsize=(7, 4), layout="constrained")
for axes, title, crystal in zip(panels, ("before", "after"), (atoms, relaxed), strict=True):
    plot_atoms(crystal, axes, radii=0.5, rotation="10x,10y,0z")
    axes.set(title=f"{title}: {crystal.get_volume():.1f} Å³")
    axes.axis("off")

# %%
# The same to turn under the mouse: the slider goes from before to after.

chemiscope.show([atoms, relaxed], mode="structure", settings={"structure": [{"unitCell": True}]})

# %%
# How far did each atom go, and how far may it be off? ``per_atom`` is the paper's uncertainty; it shows where
# in the crystal the doubt is. ``error`` is calibrated, of the crystal as a whole.

error = prediction.error
print(f"expected error {error.coordinates:.3f} Å, below {error.coordinates_bound:.3f} Å in nine of ten crystals")
print(f"volume to {error.volume:.1%}; {prediction.judgement.status}")

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
moved = (prediction.displacements**2).sum(axis=1) ** 0.5
axes.bar(range(len(atoms)), moved, yerr=prediction.uncertainty.per_atom, color="tab:blue", ecolor="black", capsize=2)
axes.set_xticks(range(len(atoms)), atoms.get_chemical_symbols())
axes.set(ylabel="displacement (Å)")
