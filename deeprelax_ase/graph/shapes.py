"""The shapes of tensors and arrays: one glossary of letters, and the names of what has such a shape.

====== ========================================================
letter stands for
====== ========================================================
N      atoms of all crystals of a batch
G      crystals
E      edges
P      neighbour pairs of a list, or in-cell pairs
D      destinations, atoms whose neighbours are asked for
T      distances that the geometry solver has to meet
M      members of an ensemble; ``*M`` is there or not
F      channels of features
C      components: 3 of a vector, 5 of a symmetric traceless tensor
B      channels of an edge: radial basis and cell offset encoding
S      sizes about which forces are resolved
R      rotations of a space group
n      any number
====== ========================================================

Nothing is checked at run time. The tests import the files that name shapes (networks, graphs, geometry, uncertainty,
M3GNet in torch) through jaxtyping's hook: in the tests of their rooms, and in those with the mark ``shapes``, a tensor
or array of another shape is an error, and a letter stands for one number throughout a call.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if not TYPE_CHECKING and "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Int
else:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Int

# Of atoms.
Numbers = Int[Tensor, "N"]  # atomic numbers
Batch = Int[Tensor, "N"]  # the crystal of each atom, ascending
Positions = Float[Tensor, "N 3"]  # Å; also displacements, and fractional coordinates
AtomStrains = Float[Tensor, "N 6"]  # coefficients that an atom adds to the strain, trace first
AtomScales = Float[Tensor, "N 3"]  # raw: of displacement, volume and shape
AtomFlags = Bool[Tensor, "N"]
Columns = Float[Tensor, "3 N"]  # positions or pulls as the geometry solver lays them out

# Of crystals.
Cell = Float[Tensor, "3 3"]  # Å, lattice vectors in rows
Cells = Float[Tensor, "G 3 3"]
Superbases = Float[Tensor, "G 4 3"]  # lattice vectors that sum up to zero
AtomSuperbases = Float[Tensor, "N 4 3"]
Matrices = Float[Tensor, "G 3 3"]  # strains, deformations, projectors
TensorCoefficients = Float[Tensor, "G 5"]
StrainCoefficients = Float[Tensor, "G 6"]  # trace first
CrystalMeans = Float[Tensor, "G C"]
PerCrystal = Float[Tensor, "G"]
CrystalCounts = Int[Tensor, "G"]
CrystalFlags = Bool[Tensor, "G"]
LatticeIndices = Int[Tensor, "G 3"]  # of planes or directions

# Of edges and pairs.
EdgeIndex = Int[Tensor, "2 E"]  # sources j and destinations i
EdgeAtoms = Int[Tensor, "E"]
EdgeCounts = Int[Tensor, "E"]
EdgeStarts = Int[Tensor, "N+1"]  # where the edges of each atom start
CellOffsets = Int[Tensor, "E 3"]
EdgeFlags = Bool[Tensor, "E"]
EdgeVectors = Float[Tensor, "E 3"]  # from destination to source
Lengths = Float[Tensor, "E"]
EdgeFeatures = Float[Tensor, "E B"]
AngularBasis = Float[Tensor, "E 9"]
PairInts = Int[Tensor, "P"]
PairTable = Int[Tensor, "5 P"]  # destination, source and three offsets
PairOffsets = Int[Tensor, "P 3"]
PairLengths = Float[Tensor, "P"]
PairFlags = Bool[Tensor, "P"]
PairFeatures = Float[Tensor, "P B"]
PairVectors = Float[Tensor, "P 3 B"]
PairTensors = Float[Tensor, "P 5 B"]
Destinations = Int[Tensor, "D"]
Terms = Int[Tensor, "T"]
TermShifts = Float[Tensor, "3 T"]
TermLengths = Float[Tensor, "T"]

# Of features.
AtomFeatures = Float[Tensor, "N B"]
Scalars = Float[Tensor, "N F"]
Vectors = Float[Tensor, "N 3 F"]
Tensors = Float[Tensor, "N 5 F"]
Components = Float[Tensor, "N C F"]
Stacks = Float[Tensor, "N 8 F"]  # vectors, then tensors
SourceScalars = Float[Tensor, "N 3 F"]
Messages = Float[Tensor, "N 9 F"]  # a scalar and a stack
EdgeMessages = Float[Tensor, "E C F"]
RadialWeights = Float[Tensor, "E 5 F"]
Harmonics = Float[Tensor, "E 8"]
FilterWeights = Float[Tensor, "5*F B"]

# Of predictions, with or without members.
MemberPositions = Float[Tensor, "*M N 3"]
MemberCells = Float[Tensor, "*M G 3 3"]
MemberPerAtom = Float[Tensor, "*M N"]
MemberPerCrystal = Float[Tensor, "*M G"]
MemberLengths = Float[Tensor, "*M E"]
MemberPairLengths = Float[Tensor, "*M P"]

# Of any number.
Ints = Int[Tensor, "n"]
Flags = Bool[Tensor, "n"]
Rows = Float[Tensor, "n 3"]
RowValues = Float[Tensor, "n"]
RowMatrices = Float[Tensor, "n 3 3"]
RowComponents = Float[Tensor, "n C"]
Resolved = Float[Tensor, "n C S"]  # each component at S sizes
ResolvedLengths = Float[Tensor, "n S"]
Values = Float[Tensor, "..."]

# NumPy arrays, of one crystal.
CellArray = Float[np.ndarray, "3 3"]  # Å, lattice vectors in rows; also deformations and strains
SquareArray = Float[np.ndarray, "n n"]
PositionArray = Float[np.ndarray, "N 3"]  # Å; also displacements, and fractional coordinates
AtomArray = Int[np.ndarray, "N"]
RotationArray = Int[np.ndarray, "R 3 3"]  # on fractional coordinates in columns
TranslationArray = Float[np.ndarray, "R 3"]
OriginArray = Int[np.ndarray, "R N"]  # an atom for each place, under each rotation
RotatedArray = Float[np.ndarray, "R N 3"]
PathArray = Float[np.ndarray, "n N 3"]  # positions in each image of a path
PathCellArray = Float[np.ndarray, "n 3 3"]
PairArray = Int[np.ndarray, "P 2"]
PairVectorArray = Float[np.ndarray, "P 3"]
PairLengthArray = Float[np.ndarray, "P"]
