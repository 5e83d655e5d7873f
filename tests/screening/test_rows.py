from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms, Hookean
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import INPUT, atoms_of, crystals_of, structures_table
from deeprelax_ase.screening.table_relaxer import TableRelaxer
from tests.screening.conftest import some_crystals


def test_what_goes_in_comes_out_exactly() -> None:
    atoms = [*some_crystals(3), bulk("Cu", cubic=True)]
    table = structures_table(atoms, first_index=10)
    assert table.schema.equals(INPUT)
    assert table.column("index").to_pylist() == [10, 11, 12, 13]
    assert table.column("error").null_count == 4
    for given_one, crystal, again in zip(atoms, crystals_of(table), atoms_of(table), strict=True):
        assert crystal is not None
        for found in (crystal.to_atoms(), again):
            np.testing.assert_array_equal(found.numbers, given_one.numbers)
            np.testing.assert_array_equal(found.positions, given_one.positions)
            np.testing.assert_array_equal(found.cell.array, given_one.cell.array)


@given(st.lists(st.one_of(st.none(), st.integers(1, 5)), max_size=8), st.integers(1, 4))
def test_rows_without_a_structure_keep_their_place(sizes: list[int | None], cut: int) -> None:
    """In tables of several chunks too."""
    errors = StructureFileError("gone")
    structures = [errors if n is None else Crystal.of(bulk("Cu").repeat((n, 1, 1))) for n in sizes]
    table = structures_table(structures)
    table = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    found = crystals_of(table)
    assert [None if c is None else len(c) for c in found] == sizes
    assert [error is not None for error in table.column("error").to_pylist()] == [n is None for n in sizes]


def test_what_cannot_be_relaxed_says_why_and_stays_as_it_is() -> None:
    constrained = bulk("Cu")
    constrained.set_constraint([FixAtoms([0]), Hookean(0, (0, 0, 0), k=1.0, rt=1.0)])
    broken = bulk("NaCl", "rocksalt", a=5.6)
    broken.positions[0] = np.nan
    table = structures_table([Atoms("H2", [[0, 0, 0], [0, 0, 1]]), constrained, broken, 7])  # type: ignore[list-item]
    reasons = table.column("error").to_pylist()
    assert "no periodic cell" in reasons[0]
    assert "constraints (Hookean)" in reasons[1]
    assert "NaN" in reasons[2]
    assert "int" in reasons[3]
    assert table.column("numbers").to_pylist() == [[1, 1], [29], [11, 17], None]
    assert np.isnan(table.column("positions").to_pylist()[2][0])


def test_pymatgen_is_as_ase() -> None:
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = some_crystals(2)
    one = structures_table([AseAtomsAdaptor.get_structure(a) for a in atoms])
    two = structures_table(atoms)
    np.testing.assert_allclose(one.column("positions").to_pylist(), two.column("positions").to_pylist(), atol=1e-12)
    assert one.column("numbers").equals(two.column("numbers"))


def test_names_are_as_many_as_structures() -> None:
    with pytest.raises(ValueError, match="1 ids, but 2 structures"):
        structures_table(some_crystals(2), ids=["a"])
    assert structures_table(some_crystals(2), ids=["a", "a"]).column("id").to_pylist() == ["a", "a"]


def test_sites_that_may_not_move_stay_so() -> None:
    """Those of pymatgen's structures too, as jobflow hands them over."""
    structure = Crystal.of(bulk("NaCl", "rocksalt", a=5.6)).to_structure()
    structure.add_site_property("selective_dynamics", [[True, True, True], [False, False, False]])
    table = structures_table([structure])
    assert table.column("error").to_pylist() == [None]
    (crystal,) = crystals_of(table)
    (held,) = crystal.constraints
    assert isinstance(held, FixAtoms)
    assert held.index.tolist() == [1]


@pytest.mark.parametrize("why", ["elements", "geometry"])
def test_a_refused_slab_is_as_it_was_given(why: str) -> None:
    """And a relaxed one keeps its vector out of the plane: the vacuum that it is relaxed in is nobody's wish."""
    atoms = fcc111("Al", (1, 1, 3), a=4.05)
    atoms.set_pbc((True, True, False))
    atoms.cell[2] = [1.0, 0.0, 3.0]
    fine = atoms.copy()
    if why == "elements":
        atoms.numbers[0] = 118
    else:
        atoms.positions[1] = atoms.positions[0] + [0, 0, 1e-3]
    table = structures_table([atoms, fine])
    assert table.column("pbc").to_pylist() == [[True, True, False]] * 2
    relaxer = TableRelaxer(RelaxOptions(device="cpu", members=1, recycles=1))
    refused, relaxed = relaxer(table).to_pylist()
    assert refused["status"] == "refused"
    assert refused["pbc"] == relaxed["pbc"] == [True, True, False]
    np.testing.assert_array_equal(np.reshape(refused["cell"], (3, 3)), atoms.cell.array)
    assert relaxed["cell"][6:] == [1.0, 0.0, 3.0]


def test_tables_of_former_versions_tell_no_directions() -> None:
    relaxer = TableRelaxer(RelaxOptions(device="cpu", members=1, recycles=1))
    table = relaxer(structures_table(some_crystals(1))).drop_columns(["pbc"])
    (crystal,), (atoms,) = crystals_of(table), atoms_of(table)
    assert crystal is not None
    assert crystal.pbc.all()
    assert atoms.pbc.all()
