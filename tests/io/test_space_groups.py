"""CIFs without operations are read in the setting that they name, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from ase.spacegroup import Spacegroup

from deeprelax_ase.io.frame import Frame
from deeprelax_ase.io.source import open_source, read_frames

CIF = """data_x
_cell_length_a {a}
_cell_length_b {b}
_cell_length_c {c}
_cell_angle_alpha {alpha}
_cell_angle_beta {beta}
_cell_angle_gamma {gamma}
{name}
{number}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 Na 0.1 0.2 0.3
"""
CELLS = {
    "monoclinic": {"a": 5.1, "b": 6.2, "c": 7.3, "alpha": 90, "beta": 100, "gamma": 90},
    "right": {"a": 5.1, "b": 6.2, "c": 7.3, "alpha": 90, "beta": 90, "gamma": 90},
    "hexagonal": {"a": 5.1, "b": 5.1, "c": 7.3, "alpha": 90, "beta": 90, "gamma": 120},
    "rhombohedral": {"a": 5.1, "b": 5.1, "c": 5.1, "alpha": 70, "beta": 70, "gamma": 70},
    "cubic": {"a": 5.1, "b": 5.1, "c": 5.1, "alpha": 90, "beta": 90, "gamma": 90},
}


def read(folder: Path, cell: str, name: str, number: int | None) -> Frame:
    told = f"_symmetry_space_group_name_H-M '{name}'"
    numbered = "" if number is None else f"_symmetry_Int_Tables_number {number}"
    (folder / "x.cif").write_text(CIF.format(**CELLS[cell], name=told, number=numbered))
    (frame,) = read_frames(folder / "x.cif")
    return frame


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("cell", "name", "number"),
    [
        ("monoclinic", "P 1 21/n 1", 14),
        ("monoclinic", "P 21/n", 14),
        ("monoclinic", "P21/a", 14),
        ("monoclinic", "I 2/a", 15),
        ("right", "P b n m", 62),
        ("right", "Pbnm", 62),
        ("right", "P 1 1 21", 4),
        ("cubic", "F d -3 m :2", 227),
        ("cubic", "F d -3 m Z", 227),
        ("rhombohedral", "R -3 m", 166),
        ("rhombohedral", "R -3 m :R", 166),
    ],
)
def test_another_setting_than_the_standard_one(tmp_path: Path, cell: str, name: str, number: int) -> None:
    frame = read(tmp_path, cell, name, number)
    assert frame.atoms is None
    assert f"it names the setting '{name}' of a space group and lists no symmetry operations" in str(frame.error)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("cell", "name", "number"),
    [
        ("monoclinic", "P 1 21/c 1", 14),
        ("monoclinic", "P 21/c", 14),
        ("right", "P n m a", 62),
        ("right", "P 21 21 21", 19),
        ("cubic", "F d -3 m", 227),
        ("cubic", "F d -3 m :1", 227),
        ("cubic", "F d -3 m S", 227),
        ("hexagonal", "R -3 m", 166),
        ("hexagonal", "R -3 m H", 166),
        ("monoclinic", "P 1", 1),
        ("monoclinic", "of our own", 14),
    ],
)
def test_the_standard_setting(tmp_path: Path, cell: str, name: str, number: int | None) -> None:
    frame = read(tmp_path, cell, name, number)
    assert frame.error is None
    assert frame.atoms is not None
    assert len(frame.atoms) == len(Spacegroup(number or 14).equivalent_sites([[0.1, 0.2, 0.3]])[0])


def test_operations_decide_where_they_are_listed(tmp_path: Path) -> None:
    text = CIF.format(
        **CELLS["monoclinic"],
        name="_space_group_name_H-M_alt 'P 1 21/n 1'",
        number="_space_group_IT_number 14\nloop_\n_space_group_symop_operation_xyz\n'x, y, z'\n'-x, -y, -z'",
    )
    (tmp_path / "x.cif").write_text(text)
    (frame,) = open_source(tmp_path / "x.cif").frames()
    assert frame.atoms is not None
    np.testing.assert_allclose(frame.atoms.get_scaled_positions(), [[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]], atol=1e-9)


def test_a_cif_without_a_group(tmp_path: Path) -> None:
    write(tmp_path / "x.cif", Atoms("Po", cell=[3, 3, 3], pbc=True))
    (frame,) = open_source(tmp_path / "x.cif").frames()
    assert frame.error is None
