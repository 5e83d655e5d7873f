"""
Your own data
=============

Relaxations of your own teach a model your minima. EMT stands for your calculator here: its lattice constants are not
PBE's, which the model knows.
"""

from itertools import permutations
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter

from deeprelax_ase import Predictor
from deeprelax_ase.optimizers import ModelHessianBFGS
from deeprelax_ase.training import DataSettings, finetune_config, train_model

folder = Path(mkdtemp())


def alloy(host: str, guest: str) -> Atoms:
    """A3B in a cell that fits neither, rattled."""
    atoms = bulk(host, "fcc", a=3.9, cubic=True)
    atoms.symbols[0] = guest
    atoms.rattle(0.1, seed=1)
    return atoms


def relax(atoms: Atoms, trajectory: Path | None = None) -> Atoms:
    """To EMT's minimum; the trajectory is what a model learns from."""
    relaxed = atoms.copy()
    relaxed.calc = EMT()
    ModelHessianBFGS(FrechetCellFilter(relaxed), logfile=None, trajectory=trajectory and str(trajectory)).run(fmax=0.02)
    return relaxed


# %%
# Twenty alloys to learn from, ten to look at afterwards. The first frame of a trajectory and the last one are a pair;
# folders of CIF files, databases and documents of atomate2 hold pairs too.

alloys = {
    f"{host}3{guest}": alloy(host, guest) for host, guest in permutations(("Cu", "Ag", "Au", "Ni", "Pd", "Pt"), 2)
}
names = list(alloys)
kept = names[::3]
(folder / "runs").mkdir()
relaxed = {
    name: relax(atoms, None if name in kept else folder / "runs" / f"{name}.traj") for name, atoms in alloys.items()
}
print(len(names) - len(kept), "pairs;", len(kept), "alloys kept apart:", *kept)

# %%
# A few epochs for the whole network. With hundreds of pairs leave ``max_epochs`` out: training then ends where the
# validation error no longer falls.

run = finetune_config("DeepRelax-PBE", DataSettings((str(folder / "runs"),)), folder / "tuned", members=1, max_epochs=8)
card = train_model(run)
print(card.name)

# %%
# The card is a model's name wherever one is asked for. Of the alloys that were kept apart:

figure, axes = plt.subplots(figsize=(5, 4.2), layout="constrained")
volumes = np.array([relaxed[name].get_volume() for name in kept])
errors = {}
for title, model, mark in (("DeepRelax-PBE", "DeepRelax-PBE", "o"), ("tuned", card, "x")):
    predictions = Predictor(model).predict_many([alloys[name] for name in kept])
    found = np.array([prediction.to_atoms().get_volume() for prediction in predictions])
    errors[title] = np.abs(found / volumes - 1).mean()
    print(f"{title}: volumes off by {errors[title]:.1%} in the mean")
    axes.plot(volumes, found, mark, label=title)
axes.axline((volumes[0], volumes[0]), slope=1, color="0.75", linestyle="--")
axes.set(xlabel="volume relaxed under EMT (Å³)", ylabel="predicted (Å³)")
axes.legend()
# sphinx_gallery_start_ignore
assert errors["tuned"] < errors["DeepRelax-PBE"]
# sphinx_gallery_end_ignore

# %%
# Errors of a tuned model are not calibrated; ``deeprelax calibrate --write`` does it once there are some hundred
# validation pairs. How pairs are checked before they teach anything, and how a tuned model is held against others:
# :doc:`../own-data`.
