"""
Defects and slabs
=================

A vacancy in a supercell, whose cell is kept, and a slab, which the atoms themselves tell by their vacuum.
"""

import matplotlib.pyplot as plt
from ase.build import bulk, surface
from ase.geometry import get_distances

from deeprelax_ase import Predictor

predictor = Predictor()
oxide = bulk("MgO", "rocksalt", a=4.26, cubic=True).repeat(2)  # PBE's lattice constant
vacancy = oxide.positions[1].copy()
print("removed:", oxide.symbols[1])
del oxide[1]
prediction = predictor.predict(oxide, relax_cell=False)
print(prediction)

# %%
# The magnesium next to the vacancy moves most, and the model doubts it most.

distance = get_distances(vacancy, oxide.positions, cell=oxide.cell, pbc=True)[1][0]
moved = (prediction.displacements**2).sum(axis=1) ** 0.5
figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
for axes, values, label in zip(
    panels, (moved, prediction.uncertainty.per_atom), ("moved (Å)", "uncertainty (Å)"), strict=True
):
    for symbol, colour in (("Mg", "tab:green"), ("O", "tab:red")):
        axes.plot(distance[oxide.symbols == symbol], values[oxide.symbols == symbol], "o", color=colour, label=symbol)
    axes.set(xlabel="from the vacancy (Å)", ylabel=label)
panels[0].legend()
# sphinx_gallery_start_ignore
nearest = distance < distance.min() + 0.1
assert set(oxide.symbols[nearest]) == {"Mg"}
assert nearest[moved.argmax()]
assert nearest[prediction.uncertainty.per_atom.argmax()]
# sphinx_gallery_end_ignore

# %%
# A slab keeps its cell unless it is asked to move in its plane; the cell across the vacuum is always kept.

slab = surface(bulk("MgO", "rocksalt", a=4.26, cubic=True), (1, 0, 0), 4, vacuum=8)
slab.pbc = True
slab.rattle(0.05, seed=1)
prediction = predictor.predict(slab)
print(prediction)
print("cell kept:", bool((prediction.to_atoms().cell == slab.cell).all()))

# %%
# What else may be fixed, through every door: :doc:`../freedom`.
