from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from deeprelax_ase.data import DataError
from deeprelax_ase.data.readers import RawPair, Refused
from deeprelax_ase.data.readers.mpf import ALLOWED, RECORDS, read_mpf

pymatgen = pytest.importorskip("pymatgen.core")

LATTICE = np.array([[4.0, 0.1, 0.2], [0.0, 4.2, 0.3], [0.0, 0.0, 4.5]])
SITES = np.array([[0.01, 0.02, -0.3], [0.5, 1.5, 0.5]])


def structure(species=("Mg", "O"), scale: float = 1.0):
    return pymatgen.Structure(pymatgen.Lattice(scale * LATTICE), list(species), SITES)


def of_2021(made):
    """As a pymatgen of that time pickled it: no periodicity, no labels, no properties, other names."""
    for thing, names in ((made.lattice, ("_pbc",)), (made, ("_properties",)), *((site, ("_label",)) for site in made)):
        for name in names:
            del thing.__dict__[name]
    for site in made:
        site.species.__dict__["_natoms"] = site.species.__dict__.pop("_n_atoms")
    return made


def read(folder: Path, *frames, protocol: int = 4) -> RawPair | Refused:
    content = {"mp-1": {"structure": list(frames), "energy": [np.float64(-1.0)], "force": [np.zeros((2, 3))]}}
    (folder / "block_0.p").write_bytes(pickle.dumps(content, protocol=protocol))
    (found,) = read_mpf(folder, None)
    return found


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("age", [lambda made: made, of_2021], ids=["today", "2021"])
def test_structures_of_any_pymatgen(tmp_path: Path, age, protocol: int) -> None:
    found = read(tmp_path, age(structure()), age(structure(scale=1.5)), age(structure(scale=0.9)), protocol=protocol)
    assert isinstance(found, RawPair)
    assert found.in_order
    for crystal, scale in ((found.initial, 1.0), (found.relaxed, 0.9)):
        assert crystal.numbers.tolist() == [12, 8]
        np.testing.assert_allclose(crystal.cell, scale * LATTICE, rtol=0, atol=1e-12)
        np.testing.assert_allclose(crystal.fractional_positions, SITES, rtol=0, atol=1e-12)


def test_oxidation_states_are_no_hindrance(tmp_path: Path) -> None:
    found = read(tmp_path, structure(("Mg2+", "O2-")), structure(("Mg2+", "O2-")))
    assert isinstance(found, RawPair)
    assert found.relaxed.numbers.tolist() == [12, 8]


def test_shared_sites_are_refused(tmp_path: Path) -> None:
    found = read(tmp_path, structure(({"Mg": 0.5, "Fe": 0.5}, "O")), structure())
    assert isinstance(found, Refused)
    assert "partly occupied" in found.reason


def test_what_lacks_something_is_refused_alone(tmp_path: Path) -> None:
    broken = structure()
    del broken.lattice.__dict__["_matrix"]
    found = read(tmp_path, broken, structure())
    assert isinstance(found, Refused)
    assert "a snapshot cannot be read: KeyError: '_matrix'" in found.reason


def test_cifs_are_read_in_the_setting_that_they_name(tmp_path: Path) -> None:
    told = "_symmetry_space_group_name_H-M '{}'\n_symmetry_Int_Tables_number {}\n_cell_length_a 5\n_cell_length_b 6\n"
    told += "_cell_length_c 7\n_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 90\nloop_\n"
    told += "_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nNa 0.1 0.2 0.3\n"
    plain, other = ("data_x\n" + told.format(*group) for group in (("P 1", 1), ("P b n m", 62)))
    found = read(tmp_path, plain, plain)
    assert isinstance(found, RawPair)
    np.testing.assert_allclose(found.initial.positions, [[0.5, 1.2, 2.1]])
    refused = read(tmp_path, plain, other)
    assert isinstance(refused, Refused)
    assert "names the setting 'P b n m'" in refused.reason


def test_a_damaged_block_costs_itself(tmp_path: Path) -> None:
    (tmp_path / "block_1.p").write_bytes(b"nonsense")
    content = {"mp-1": {"structure": [structure(), structure()]}}
    (tmp_path / "block_0.p").write_bytes(pickle.dumps(content))
    first, second = read_mpf(tmp_path, None)
    assert isinstance(first, RawPair)
    assert isinstance(second, Refused)
    assert "no pickle of relaxations" in second.reason


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.getattr", "pymatgen.core.structure.Molecule"])
def test_whatever_is_not_data_is_named_and_not_looked_up(tmp_path: Path, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    (tmp_path / "block_0.p").write_bytes(f"c{module}\n{attribute}\n.".encode())
    (found,) = read_mpf(tmp_path, None)
    assert isinstance(found, Refused)
    assert f"asks for {name}" in found.reason


def test_nothing_that_is_allowed_runs_what_it_is_given() -> None:
    assert {module.partition(".")[0] for module, _ in ALLOWED} == {
        "builtins",
        "collections",
        "copyreg",
        "_codecs",
        "numpy",
    }
    callers = {"eval", "exec", "getattr", "setattr", "__import__", "open", "compile", "map", "type", "partial"}
    assert not callers & {name for _, name in ALLOWED | RECORDS}


def test_data_errors_name_the_file(tmp_path: Path) -> None:
    from deeprelax_ase.data import PairDataset

    (tmp_path / "block_0.p").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match=f"{tmp_path.name}: there is none such among its 0"):
        PairDataset.read(tmp_path)
