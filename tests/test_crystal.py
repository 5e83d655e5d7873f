from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.crystal import PUT_VACUUM, Crystal, check_elements, crystal_as_it_is, crystal_or_error, validate
from deeprelax_ase.errors import (
    CoordinateRangeError,
    DeepRelaxError,
    DisorderedStructureError,
    EmptyStructureError,
    MissingCellError,
    NonFiniteError,
    SingularCellError,
    StructureError,
    UnsupportedElementError,
    VacuumError,
)

CUBE = np.eye(3) * 4.0


def salt(**changes) -> Crystal:
    fields = {"numbers": [11, 17], "positions": [[0.1, -5.0, 9.0], [2.0, 2.0, 2.0]], "cell": CUBE} | changes
    return Crystal(**fields)


class TestRecord:
    def test_fields(self) -> None:
        crystal = salt()
        assert len(crystal) == 2
        assert crystal.numbers.dtype == np.int64
        assert crystal.positions.dtype == crystal.cell.dtype == np.float64
        assert crystal.pbc.tolist() == [True] * 3
        assert crystal.volume == pytest.approx(64, abs=1e-12)

    @pytest.mark.parametrize("name", ["numbers", "positions", "cell", "pbc"])
    def test_arrays_are_read_only_copies(self, name: str) -> None:
        given_arrays = {
            "numbers": np.array([11, 17]),
            "positions": np.zeros((2, 3)),
            "cell": np.eye(3),
            "pbc": np.array([True, True, True]),
        }
        crystal = Crystal(**given_arrays)
        with pytest.raises(ValueError, match="read-only"):
            getattr(crystal, name)[0] = 0
        before = getattr(crystal, name).copy()
        given_arrays[name][0] = 0 if name == "pbc" else 7
        np.testing.assert_array_equal(getattr(crystal, name), before)

    def test_attributes_cannot_be_set(self) -> None:
        with pytest.raises(AttributeError):
            salt().cell = np.eye(3)  # type: ignore[misc]

    def test_refuses_arrays_of_different_length(self) -> None:
        with pytest.raises(ValueError, match="2 atomic numbers, but 1 positions"):
            salt(positions=[[0, 0, 0]])

    def test_scaled_positions_are_not_wrapped(self) -> None:
        np.testing.assert_allclose(salt().fractional_positions[0], [0.025, -1.25, 2.25], rtol=0, atol=1e-14)

    @given(st.integers(0, 2**32 - 1))
    def test_scaled_positions_give_the_positions_back(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        cell = np.diag(rng.uniform(2, 9, size=3)) + rng.uniform(-0.5, 0.5, size=(3, 3))
        crystal = Crystal([1] * 4, rng.normal(size=(4, 3)) * 10, cell)
        np.testing.assert_allclose(crystal.fractional_positions @ cell, crystal.positions, rtol=0, atol=1e-12)

    def test_with_geometry(self) -> None:
        crystal = salt()
        moved = crystal.with_geometry(crystal.positions + 1, 2 * CUBE)
        np.testing.assert_array_equal(moved.positions, crystal.positions + 1)
        np.testing.assert_array_equal(moved.cell, 2 * CUBE)
        np.testing.assert_array_equal(moved.numbers, crystal.numbers)
        np.testing.assert_array_equal(crystal.cell, CUBE)


class TestAse:
    def test_round_trip_is_exact(self) -> None:
        crystal = salt()
        atoms = crystal.to_atoms()
        assert atoms.pbc.all()
        assert_same(Crystal.from_atoms(atoms), crystal)

    def test_atoms_are_neither_changed_nor_shared(self) -> None:
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.positions[0] -= 30  # far outside the cell: stays there
        atoms.set_constraint(FixAtoms([0]))
        before = atoms.copy()
        crystal = Crystal.from_atoms(atoms)
        assert atoms == before
        atoms.positions += 1
        np.testing.assert_array_equal(crystal.positions, before.positions)

    def test_full_occupancy_is_order(self) -> None:
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.info["occupancy"] = {"0": {"Na": 1.0}, "1": {"Cl": 1.0}}
        assert len(Crystal.from_atoms(atoms)) == 2

    @pytest.mark.parametrize("site", [{"Na": 0.5, "K": 0.5}, {"Na": 0.9}, {"Na": "?"}, {"Na": None}, {}, 0.5, "half"])
    def test_partial_occupancy_is_refused(self, site: object) -> None:
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.info["occupancy"] = {"0": site, "1": {"Cl": 1.0}}
        with pytest.raises(
            DisorderedStructureError, match=r"site 0 is occupied by .*delete atoms\.info\['occupancy'\]"
        ):
            Crystal.from_atoms(atoms)

    @pytest.mark.parametrize("occupancy", [1.0, np.float64(1.0), {"0": 1.0}])
    def test_one_is_order_whatever_it_belongs_to(self, occupancy: object) -> None:
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.info["occupancy"] = occupancy
        assert len(Crystal.from_atoms(atoms)) == 2

    @pytest.mark.parametrize("occupancy", [0.5, "?", [1.0]])
    def test_an_occupancy_of_another_kind(self, occupancy: object) -> None:
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.info["occupancy"] = occupancy
        with pytest.raises(DisorderedStructureError, match="of all is occupied by"):
            Crystal.from_atoms(atoms)

    @pytest.mark.parametrize("number", [0, 119, 264, 268, -244])
    def test_numbers_of_no_element(self, number: int) -> None:
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.arrays["numbers"][0] = number
        with pytest.raises(UnsupportedElementError, match=f"{number}.* are those of no element"):
            Crystal.from_atoms(atoms)

    @pytest.mark.parametrize("numbers", [[11.5, 17], [np.nan, 17]])
    def test_numbers_are_not_rounded(self, numbers: list[float]) -> None:
        with pytest.raises(UnsupportedElementError, match="atomic numbers must be whole"):
            Crystal(numbers, np.zeros((2, 3)), CUBE)
        assert Crystal([11.0, 17.0], np.zeros((2, 3)), CUBE).numbers.tolist() == [11, 17]


class Broken:
    """An object of another library that can tell nothing of itself."""

    cell = pbc = None

    @property
    def numbers(self) -> None:
        raise RuntimeError("gone")


def broken_arrays(name: str, array: np.ndarray) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.arrays[name] = array
    return atoms


@pytest.mark.parametrize(
    "structure",
    [
        *("POSCAR", None, 3, {}, Broken(), Atoms()),
        broken_arrays("positions", np.zeros((1, 3))),
        broken_arrays("positions", np.zeros((2, 2))),
        broken_arrays("positions", np.array([["x"] * 3] * 2)),
        broken_arrays("numbers", np.array([11.5, 17])),
    ],
)
def test_what_is_no_structure_gives_an_error_and_raises_none(structure: object) -> None:
    assert isinstance(crystal_or_error(structure), StructureError)


def test_what_cannot_be_relaxed_can_still_be_looked_at() -> None:
    flat = bulk("NaCl", "rocksalt", a=5.6)
    flat.cell[:] = 0
    assert len(crystal_as_it_is(flat) or ()) == 2
    assert crystal_as_it_is(Broken()) is None
    assert crystal_as_it_is(broken_arrays("positions", np.zeros((1, 3)))) is None


class TestPymatgen:
    def test_round_trip_keeps_the_images(self) -> None:
        crystal = salt()
        structure = crystal.to_structure()
        assert structure.formula == "Na1 Cl1"
        back = Crystal.from_structure(structure)
        np.testing.assert_array_equal(back.numbers, crystal.numbers)
        np.testing.assert_allclose(back.positions, crystal.positions, rtol=0, atol=1e-12)
        np.testing.assert_allclose(back.cell, crystal.cell, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("third", "made"), [((0, 0, 0), (0, 0, PUT_VACUUM)), ((0.3, 0, 2), (0.3, 0, 2))])
    def test_layers_repeat_as_given(self, third: tuple, made: tuple) -> None:
        """In a cell of three vectors, which pymatgen needs."""
        crystal = Crystal([6], np.zeros((1, 3)), [[2.5, 0, 0], [0, 2.5, 0], third], (True, True, False))
        lattice = crystal.to_structure().lattice
        assert lattice.pbc == (True, True, False)
        np.testing.assert_array_equal(lattice.matrix, [[2.5, 0, 0], [0, 2.5, 0], made])

    def test_oxidation_states_are_no_disorder(self) -> None:
        structure = salt().to_structure()
        structure.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
        assert Crystal.from_structure(structure).numbers.tolist() == [11, 17]

    @pytest.mark.parametrize("species", [{"Na": 0.5, "K": 0.5}, {"Na": 0.9}])
    def test_disorder_is_refused(self, species: dict[str, float]) -> None:
        from pymatgen.core import Structure

        disordered = Structure(CUBE, [species, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        with pytest.raises(DisorderedStructureError, match="OrderDisorderedStructureTransformation"):
            Crystal.from_structure(disordered)

    def test_what_is_no_element_is_refused(self) -> None:
        from pymatgen.core import DummySpecies, Structure

        structure = Structure(CUBE, [DummySpecies("X"), "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        with pytest.raises(UnsupportedElementError, match=r"X.* is no element"):
            Crystal.from_structure(structure)

    def test_a_molecule_has_no_lattice(self) -> None:
        from pymatgen.core import Molecule

        with pytest.raises(MissingCellError, match="Molecule has no lattice"):
            Crystal.from_structure(Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.74]]))


class TestOf:
    def test_takes_all_three(self) -> None:
        crystal = salt()
        assert Crystal.of(crystal) is crystal
        assert_same(Crystal.of(crystal.to_atoms()), crystal)
        assert Crystal.of(crystal.to_structure()).numbers.tolist() == [11, 17]

    def test_validates_a_crystal_too(self) -> None:
        with pytest.raises(NonFiniteError):
            Crystal.of(salt(cell=CUBE * np.nan))

    def test_a_molecule_of_pymatgen_is_refused_as_such(self) -> None:
        from pymatgen.core import Molecule

        with pytest.raises(MissingCellError, match="no lattice"):
            Crystal.of(Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.74]]))

    @pytest.mark.parametrize("other", ["POSCAR", None, 3])
    def test_refuses_other_things(self, other: object) -> None:
        with pytest.raises(TypeError, match=r"got (str|NoneType|int)\. Read a file with ase\.io\.read"):
            Crystal.of(other)  # type: ignore[arg-type]


def test_symbols_are_told_of_any_numbers() -> None:
    assert str(salt().symbols) == "NaCl"
    assert str(salt(numbers=[-244, 268]).symbols) == "X2"


BAD = {
    "empty": (salt(numbers=[], positions=[]), EmptyStructureError, "no atoms; check the file"),
    "nan position": (
        salt(positions=[[0, 0, 0], [np.nan, 0, 0]]),
        NonFiniteError,
        r"NaN or infinity in positions of atoms \[1\].*make it again",
    ),
    "infinite position": (salt(positions=[[0, np.inf, 0], [0, 0, 0]]), NonFiniteError, r"positions of atoms \[0\]"),
    "nan cell": (salt(cell=CUBE * np.nan), NonFiniteError, "NaN or infinity in the cell"),
    "no cell": (
        salt(cell=np.zeros((3, 3))),
        MissingCellError,
        r"no periodic cell.*set atoms\.cell and atoms\.pbc = True",
    ),
    "not periodic": (salt(pbc=False), MissingCellError, "no periodic cell"),
    "wire": (
        salt(pbc=[True, False, False]),
        VacuumError,
        r"pbc=\[True, False, False\].*a wire.*set atoms\.pbc = True",
    ),
    "far away": (salt(positions=[[0, 0, 0], [1e17, 0, 0]]), CoordinateRangeError, r"reach 1e\+17 Å.*atoms\.wrap\(\)"),
    "vast cell": (salt(cell=CUBE * 1e150), CoordinateRangeError, r"reach 4e\+150 Å.*Check their unit"),
    "no element": (salt(numbers=[0, 17]), UnsupportedElementError, r"atomic numbers \[0\].*from 1 to 118"),
    "beyond the elements": (salt(numbers=[268, 264]), UnsupportedElementError, r"\[264, 268\]"),  # 12, 8 as uint8
    "flat cell": (salt(cell=np.diag([4.0, 4.0, 0.0])), SingularCellError, r"linearly dependent.*complete\(\)"),
    "parallel vectors": (
        salt(cell=[[4, 0, 0], [4, 1e-5, 0], [0, 0, 4]]),
        SingularCellError,
        r"lengths \[4\.0, 4\.0, 4\.0\] Å, volume 0\.00016 Å³",
    ),
}


class TestValidate:
    @pytest.mark.parametrize("name", BAD)
    def test_each_bad_input_has_its_own_error(self, name: str) -> None:
        crystal, error, message = BAD[name]
        with pytest.raises(error, match=message) as caught:
            validate(crystal)
        assert isinstance(caught.value, StructureError)
        assert isinstance(caught.value, DeepRelaxError)
        assert isinstance(caught.value, ValueError)

    @pytest.mark.parametrize("name", BAD)
    def test_atoms_are_checked_at_the_door(self, name: str) -> None:
        crystal, error, message = BAD[name]
        with pytest.raises(error, match=message):
            Crystal.from_atoms(crystal.to_atoms())

    def test_a_molecule_of_ase(self) -> None:
        with pytest.raises(MissingCellError, match="relax a molecule with a calculator"):
            Crystal.from_atoms(molecule("H2O"))
        with pytest.raises(MissingCellError):
            Crystal.from_atoms(Atoms("H", pbc=True))

    def test_nothing_is_warned_about(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for crystal, error, _ in BAD.values():
                with pytest.raises(error):
                    validate(crystal)

    def test_sound_crystals_pass(self, sample_crystals: dict[str, Crystal]) -> None:
        for crystal in sample_crystals.values():
            validate(crystal)
            validate(Crystal.from_atoms(crystal.to_atoms()))


class TestCheckElements:
    def test_passes_known_elements(self) -> None:
        check_elements(salt(), [11, 17, 19], "a model")

    def test_names_the_unknown_and_the_model(self) -> None:
        with pytest.raises(UnsupportedElementError, match=r"DeepRelax-X was not trained on Na, Cl.*another model"):
            check_elements(salt(), [8], "DeepRelax-X")

    def test_names_numbers_that_are_no_elements(self) -> None:
        with pytest.raises(UnsupportedElementError, match="Z=-1, Z=200"):
            check_elements(salt(numbers=[200, -1]), [8], "DeepRelax-X")


def assert_same(a: Crystal, b: Crystal) -> None:
    for name in ("numbers", "positions", "cell", "pbc"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_crystal_is_checked_once(sample_crystals) -> None:
    """It cannot change; one that was never checked is checked where it enters."""
    crystal = sample_crystals["triclinic"]
    again = Crystal(crystal.numbers, crystal.positions, crystal.cell)
    assert Crystal.of(again) is again
    broken = Crystal(crystal.numbers, crystal.positions * np.nan, crystal.cell)
    for _ in range(2):
        with pytest.raises(NonFiniteError):
            Crystal.of(broken)
