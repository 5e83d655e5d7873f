"""atomate2's relaxation under a calculator, with FIRE and with the one-shot relaxation in its place.

``pip install "atomate2>=0.1.5"``, then ``python examples/drop_in/atomate2_relax.py``. atomate2 hands over bare atoms
where the cell is to be kept, and a cell filter where it is not: ``DeepRelaxPositions`` does as it says in either case.
"""

from __future__ import annotations

import warnings

from ase.build import bulk

from deeprelax_ase import DeepRelaxPositions

warnings.filterwarnings("ignore")  # of atomate2 and pymatgen, of no concern here

from atomate2.ase.jobs import EmtRelaxMaker  # noqa: E402
from jobflow import JobStore, run_locally  # noqa: E402
from maggma.stores import MemoryStore  # noqa: E402
from pymatgen.io.ase import AseAtomsAdaptor  # noqa: E402

structure = AseAtomsAdaptor.get_structure(bulk("Cu", a=3.9) * (2, 1, 1))

for optimizer in ("FIRE", DeepRelaxPositions):  # the one line that changes
    maker = EmtRelaxMaker(optimizer_kwargs={"optimizer": optimizer}, relax_kwargs={"fmax": 0.01})
    job = maker.make(structure)
    done = run_locally(job, store=JobStore(MemoryStore()), log=False)[job.uuid][1].output.output
    name = optimizer if isinstance(optimizer, str) else optimizer.__name__
    print(f"{name}: {done.n_steps - 1} steps, {done.energy:.4f} eV, {done.structure.volume:.2f} Å³")
