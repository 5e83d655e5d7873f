"""Paths under constraints, and those that there are not."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule, mx2
from ase.constraints import FixAtoms, FixCartesian, FixedPlane, FixSymmetry, Hookean

from deeprelax_ase.errors import (
    ConstraintError,
    MissingCellError,
    NonFiniteError,
    OverlappingAtomsError,
    StructureError,
)
from deeprelax_ase.prediction.paths import PathError, relaxation_path
from tests.prediction.paths_between import (
    exchanged,
    hop,
)


class TestConstraints:
    def test_fixed_atoms_stay_where_they_are(self):
        start, end = hop()
        start.set_constraint(FixAtoms([5, 6, 7]))
        images = relaxation_path(start, end, 5)
        free = relaxation_path(*hop(), 5)
        for image in images:
            assert np.array_equal(image.positions[5:8], start.positions[5:8])
        assert all(image.constraints for image in images[:-1])
        assert not np.array_equal(images[2].positions[8:], free[2].positions[8:])  # the others know of it

    def test_fixed_atoms_stay_also_when_the_cell_changes_and_atoms_are_pushed(self):
        start = bulk("MgO", "rocksalt", a=4.5, cubic=True)
        end = exchanged(start, 0, 1)
        end.set_cell(start.cell.array * 0.98, scale_atoms=True)
        end.positions[6] = start.positions[6]
        end.set_constraint(FixAtoms([6]))
        for image in relaxation_path(start, end, 7):
            np.testing.assert_allclose(image.positions[6], start.positions[6], rtol=0, atol=1e-10)

    def test_fixed_coordinates_stay(self):
        start, end = hop()
        start.set_constraint(FixCartesian([10], mask=(True, False, True)))
        moves = [image.positions[10] - start.positions[10] for image in relaxation_path(start, end, 5)]
        np.testing.assert_allclose(np.array(moves)[:, [0, 2]], 0, rtol=0, atol=1e-12)

    def test_symmetry_stays(self):
        start = bulk("MgO", "rocksalt", a=4.5, cubic=True)
        end = start.copy()
        end.set_cell(start.cell.array * 1.3, scale_atoms=True)  # more than ASE lets a constrained cell change at once
        start.set_constraint(FixSymmetry(start, verbose=False))
        images = relaxation_path(start, end, 4)
        np.testing.assert_allclose(np.diff([np.log(image.cell.volume) for image in images]), np.log(1.3), atol=1e-12)

    def test_ends_that_break_them_are_refused(self):
        start, end = hop()
        start.set_constraint(FixAtoms([0, 3]))
        with pytest.raises(ConstraintError, match=r"FixAtoms holds atoms \[0\]"):
            relaxation_path(start, end)
        start.set_constraint()
        end.set_constraint(FixedPlane([0], (0, 1, 0)))
        with pytest.raises(ConstraintError, match=r"FixedPlane holds atoms \[0\]"):
            relaxation_path(start, end)

    def test_those_that_cannot_be_kept_are_refused(self):
        start, end = hop()
        start.set_constraint(Hookean(0, 1, k=1.0, rt=2.0))
        with pytest.raises(ConstraintError, match=r"Hookean cannot be kept.*FixAtoms, FixSymmetry, FixCartesian"):
            relaxation_path(start, end)
        start.set_constraint(FixCartesian([10]))
        end.set_cell(start.cell.array * 1.01)
        with pytest.raises(ConstraintError, match=r"FixCartesian cannot be kept.*; FixAtoms, FixSymmetry can"):
            relaxation_path(start, end)


class TestErrors:
    @pytest.fixture
    def salt(self) -> Atoms:
        return bulk("NaCl", "rocksalt", a=5.6, cubic=True)

    def test_other_atoms(self, salt):
        for other in (salt[:-1], salt[::-1], bulk("KCl", "rocksalt", a=6.3, cubic=True)):
            with pytest.raises(PathError, match=r"different atoms, Na.*same order"):
                relaxation_path(salt, other)
        assert issubclass(PathError, StructureError)

    @pytest.mark.parametrize("n_images", [1, 0, -3, 2.5])
    def test_too_few_images(self, salt, n_images):
        with pytest.raises(ValueError, match=rf"n_images={n_images} must be a whole number of at least 2"):
            relaxation_path(salt, salt, n_images)

    @pytest.mark.parametrize("clearance", [-0.1, 1.1, np.nan])
    def test_clearance_out_of_range(self, salt, clearance):
        with pytest.raises(ValueError, match=r"clearance.*between 0 and 1"):
            relaxation_path(salt, salt, clearance=clearance)

    @pytest.mark.parametrize("end", [0, 1])
    def test_no_numbers(self, salt, end):
        ends = [salt, salt.copy()]
        ends[end].positions[3, 1] = np.nan
        with pytest.raises(NonFiniteError, match=r"positions of atoms \[3\]"):
            relaxation_path(*ends)

    def test_no_crystals(self, salt):
        with pytest.raises(MissingCellError):
            relaxation_path(salt, molecule("N2"))
        with pytest.raises(TypeError, match="pymatgen Structure is needed, got str"):
            relaxation_path(salt, "CONTCAR")

    def test_overlapping_atoms(self, salt):
        relaxed = salt.copy()
        relaxed.positions[1] = relaxed.positions[0] + 0.1
        with pytest.raises(OverlappingAtomsError, match=r"atom [01] is 0\.173 Å away"):
            relaxation_path(salt, relaxed)

    def test_a_mirrored_cell(self, salt):
        relaxed = salt.copy()
        relaxed.set_cell(salt.cell.array * [[1], [1], [-1]])
        with pytest.raises(PathError, match="right-handed and the other left-handed"):
            relaxation_path(salt, relaxed)


def test_a_layer_without_a_vector_out_of_its_plane():
    start = mx2("MoS2", vacuum=5.0)
    start.cell[2] = 0
    end = start.copy()
    end.set_cell(1.01 * start.cell.array)
    with pytest.raises(PathError, match=r"no volume.*atoms\.center"):
        relaxation_path(start, end, 3)
