"""A calculator of DFT for the command line: GPAW, which is compiled when it is installed (``gpaw_siteconfig.py``).

In the repository's folder:

    GPAW_CONFIG=$PWD/examples/gpaw_siteconfig.py pip install -c constraints.txt ".[gpaw]"
    export OMP_NUM_THREADS=1 PYTHONPATH=examples
    deeprelax relax POSCAR --calculator relax_with_dft:make_calculator --finish fast -o CONTCAR

In Python, with the jump and without it: ``docs/gallery/plot_6_dft.py``.
"""

from __future__ import annotations

from typing import Any

from gpaw import GPAW


def make_calculator() -> Any:
    """PBE for crystals of a few light atoms.

    The cell moves while the cutoff of the plane waves stays: one that is too low pulls at the cell (Pulay stress). This
    one serves silicon and phosphorus; carbon, nitrogen, oxygen and fluorine need 700 eV. ``size`` fixes the mesh of
    k-points; a density would change it on the way.
    """
    return GPAW(mode={"name": "pw", "ecut": 400}, xc="PBE", kpts={"size": (3, 3, 3), "gamma": True}, txt=None)
