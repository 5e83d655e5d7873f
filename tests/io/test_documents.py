"""JSON in the shapes that structures are kept in; nothing that it names is imported."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import DummySpecies, Lattice, Structure

from deeprelax_ase.errors import DisorderedStructureError, UnsupportedElementError
from deeprelax_ase.io.documents import atoms_of, parsed
from deeprelax_ase.io.frame import Frame
from deeprelax_ase.io.source import open_source


def structure(a: float = 4.2) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def read(path: Path, content: Any) -> list[Frame]:
    path.write_text(json.dumps(content))
    return list(open_source(path).frames())


ONE = structure().as_dict()
SHAPES: dict[str, tuple[Any, list[str]]] = {
    "alone": (ONE, ["set"]),
    "document alone": ({"material_id": "mp-1", "structure": ONE}, ["mp-1"]),
    "list": ([{"material_id": "mp-1", "structure": ONE}, ONE], ["mp-1", "1"]),
    "mapping": ({"a": ONE, "b": {"id": "c", "initial_structure": ONE}}, ["a", "c"]),
    "columns": (
        {"material_id": {"0": "wbm-1", "1": "wbm-2"}, "initial_structure": {"0": ONE, "1": ONE}},
        ["wbm-1", "wbm-2"],
    ),
    "columns by name": ({"initial_structure": {"wbm-1": ONE, "wbm-2": ONE}}, ["wbm-1", "wbm-2"]),
    "name of another encoding": ([{"id": "caf\udce9", "structure": ONE}], ["caf\\udce9"]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(tmp_path: Path, shape: str) -> None:
    content, names = SHAPES[shape]
    frames = read(tmp_path / "set.json", content)
    assert [frame.error for frame in frames] == [None] * len(names)
    assert [frame.name for frame in frames] == names
    assert all(frame.atoms.get_chemical_formula() == "Mg4O4" for frame in frames if frame.atoms)


def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A structure whose site property names a module that ends the process when it is imported."""
    (tmp_path / "evil_module.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    document = structure().as_dict()
    document["sites"][0]["properties"] = {"x": {"@module": "evil_module", "@class": "X"}}
    document["properties"] = {"y": {"@module": "evil_module", "@class": "X"}}
    return document


@pytest.mark.parametrize("ending", ["json", pytest.param("jsonl", marks=pytest.mark.slow), "parquet"])
def test_modules_that_json_names_are_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    document, path = evil(tmp_path, monkeypatch), tmp_path / f"set.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"id": ["a"], "structure": [json.dumps(document)]}), path)
    else:
        path.write_text(json.dumps(document))
    (frame,) = open_source(path).frames()
    assert frame.error is None
    assert "evil_module" not in sys.modules


def test_columns_of_structures_in_parquet(tmp_path: Path) -> None:
    plain = {"lattice": {"matrix": ONE["lattice"]["matrix"]}}
    plain["sites"] = [{"species": site["species"], "abc": site["abc"]} for site in ONE["sites"]]
    pq.write_table(pa.table({"id": ["007"], "structure": [plain]}), tmp_path / "set.parquet")
    (frame,) = open_source(tmp_path / "set.parquet").frames()
    assert frame.error is None
    assert frame.name == "007"


def test_sites_that_are_fixed_stay_so() -> None:
    fixed = structure()
    fixed.add_site_property("selective_dynamics", [[False] * 3, [True, False, True], *[[True] * 3] * 6])
    constraints = atoms_of(fixed.as_dict()).constraints
    assert isinstance(constraints[0], FixAtoms)
    assert constraints[0].index.tolist() == [0]
    assert constraints[1].index.tolist() == [1]
    assert constraints[1].mask.tolist() == [False, True, False]
    assert not atoms_of(structure().as_dict()).constraints


def test_what_is_no_ordered_crystal_of_elements() -> None:
    made_up = Structure(Lattice.cubic(4), [DummySpecies("X")], [[0, 0, 0]])
    with pytest.raises(UnsupportedElementError, match="X0\\+ is no element"):
        atoms_of(made_up.as_dict())
    shared = Structure(Lattice.cubic(4), [{"Mg": 0.5, "Ca": 0.5}], [[0, 0, 0]])
    with pytest.raises(DisorderedStructureError):
        atoms_of(shared.as_dict())


@pytest.mark.parametrize("content", [3, "text", [1], {"a": 1}, [{"structure": None}]])
def test_no_structure(tmp_path: Path, content: Any) -> None:
    (frame,) = read(tmp_path / "set.json", content)
    assert frame.atoms is None
    assert "set.json" in str(frame.error) or "structure" in str(frame.error) or "object" in str(frame.error)


def test_lists_are_read_no_further_than_asked_for() -> None:
    class Stream(io.StringIO):
        def read(self, size: int | None = -1) -> str:
            assert size is not None
            assert 0 < size < 2**22, "read whole"
            return super().read(size)

    size, number = 50_000, 200
    elements = parsed(Stream(json.dumps(["x" * size] * number)))
    assert [len(next(elements)) for _ in range(20)] == [size] * 20


#: Letters that JSON may take for its own; tables of all that there are take seconds.
LETTERS = st.text('a1é"\\[]{},: \n\u2028😀')


@given(
    content=st.lists(st.recursive(st.integers() | st.floats(allow_nan=False) | LETTERS | st.none(), st.lists)),
    indent=st.none() | st.integers(0, 3),
    size=st.integers(1, 9),
)
@settings(max_examples=12)
def test_lists_are_what_json_says(content: list, indent: int | None, size: int) -> None:
    """However the pieces lie that are read."""

    class Stream(io.StringIO):
        def read(self, wanted: int | None = -1) -> str:
            return super().read(size if wanted and wanted > 0 else wanted)

    text = json.dumps(content, indent=indent)
    assert list(parsed(Stream(text))) == content
    for damaged in (text[:-1], f"{text}]", f"{text}{text}"):
        with pytest.raises(ValueError, match="no JSON"):
            list(parsed(Stream(damaged)))


def test_a_document_of_a_relaxation_is_one_structure_that_is_deeper_down(tmp_path: Path) -> None:
    (frame,) = read(tmp_path / "set.json", {"input": {"structure": ONE}, "output": {"structure": ONE}})
    assert "there is no structure" in str(frame.error)
    by_name = read(tmp_path / "set.json", {"input": ONE, "output": ONE})
    assert [frame.name for frame in by_name] == ["input", "output"]
