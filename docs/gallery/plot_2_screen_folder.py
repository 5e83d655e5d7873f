"""
Screen a folder
===============

A folder of CIF files becomes a table with a row for each crystal. A run that is interrupted goes on with the same call.
"""

from itertools import product
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import pyarrow.dataset as ds
from ase.build import bulk

from deeprelax_ase.screening import RelaxOptions, screen

folder = Path(mkdtemp())
(folder / "cifs").mkdir()
for metal, anion in product(("Mg", "Ca", "Sr", "Ba", "Zn", "Cd"), ("O", "S", "Se", "Te")):
    for prototype, a in (("rocksalt", 5.2), ("zincblende", 5.6)):
        bulk(metal + anion, prototype, a=a).write(folder / "cifs" / f"{metal}{anion}-{prototype}.cif")

# %%
# ``workers=0`` computes in this process; by default there is one for each core or GPU.

screen([folder / "cifs"], folder / "screened", RelaxOptions(max_volume_error=0.02), workers=0)
table = ds.dataset(folder / "screened", format="parquet", exclude_invalid_files=True).to_table()
rows = table.sort_by("volume_error").to_pylist()
for row in rows[-4:]:
    print(f"{row['id']:40} {row['volume_error']:.1%} {row['status']}")

# %%
# Which volumes does the model doubt?

figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
colours = {"accepted": "tab:blue", "unchanged": "tab:green", "uncertain": "tab:orange"}
for word, colour in colours.items():
    of = [row for row in rows if row["status"] == word]
    if of:
        moved = [100 * row["volume_change"] for row in of]
        axes.plot(moved, [100 * row["volume_error"] for row in of], "o", color=colour, label=word)
axes.set(xlabel="change of the volume (%)", ylabel="expected error of the volume (%)")
axes.legend()

# %%
# ``deeprelax export`` writes the crystals, ``deeprelax report`` a page to look at: :doc:`../screening`.
