"""How to build GPAW where no MPI, BLAS or libxc is installed; `GPAW_CONFIG` points here while pip builds it.

A plain ``pip install gpaw`` compiles its C++ files as C, and fails.
"""

compiler = "g++"
mpi = False
noblas = True
nolibxc = True
