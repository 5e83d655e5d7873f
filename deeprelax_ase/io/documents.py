"""Structures in JSON: pymatgen's documents in the shapes that they are kept in, decoded without their other content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import StructureFileError

if TYPE_CHECKING:
    from ase import Atoms

#: Keys of documents, and columns, that hold a structure in pymatgen's form.
STRUCTURE_KEYS = ("structure", "initial_structure")

#: Keys by which a document is known whose structures lie deeper down: that of a job, or of a relaxation.
_JOB_KEYS = ("uuid", "task_id", "input", "output", "calcs_reversed")

#: Characters that are read at once.
_READ = 2**20

_SPACE = re.compile(r"[ \t\n\r]*")


def parsed(stream: TextIO) -> Any:
    """The content of JSON; of a list an iterator, which reads on as its elements are asked for.

    Raises:
        ValueError: it is no JSON; of a list where that is so, after the elements before.
    """
    text = stream.read(_READ)
    if text.lstrip().startswith("["):
        return _elements(text.lstrip()[1:].lstrip(), stream)
    return json.loads(text + stream.read())


def _elements(text: str, stream: TextIO) -> Iterator[Any]:
    """The elements of the list that ``text`` and then ``stream`` go on with after its bracket."""
    decode, start, end = json.JSONDecoder().raw_decode, 0, 0
    while not text.startswith("]", end):
        try:
            value, end = decode(text, _SPACE.match(text, start).end())  # type: ignore[union-attr]
            end = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            if not text.startswith((",", "]"), end):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, end)
        except json.JSONDecodeError as error:
            if more := stream.read(max(_READ, len(text) - start)):  # twice as much each time: nothing is read often
                text, start, end = text[start:] + more, 0, 0
                continue
            raise StructureFileError(f"it is no JSON: {error.msg}, not {text[error.pos :][:20]!r}") from None
        yield value
        start = end + 1
    if rest := (text[end + 1 :] + stream.read()).strip():
        raise StructureFileError(f"it is no JSON: its list ends before {rest[:20]!r}")


def documents_in(content: Any) -> Iterator[tuple[str, Any]]:
    """Name and document of each structure in what was parsed: a list, pandas' columns, a mapping, or one alone."""
    if isinstance(content, Iterator):
        yield from ((str(n), document) for n, document in enumerate(content))
    elif not isinstance(content, dict) or "@class" in content or _held(content) is not None or _is_job(content):
        yield "", content
    elif column := next((content[key] for key in STRUCTURE_KEYS if _is_column(content.get(key))), None):
        for row in column:
            yield str(row), {key: values.get(row) for key, values in content.items() if isinstance(values, dict)}
    else:
        yield from content.items()


def _is_job(content: dict[str, Any]) -> bool:
    return any(key in content and _held(content[key]) is not content[key] for key in _JOB_KEYS)


def _is_column(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, dict) and "lattice" in v for v in value.values())


def _held(document: Any) -> Mapping[str, Any] | None:
    """The structure that is in a document, or is it."""
    if not isinstance(document, dict):
        return None
    for held in (*(document.get(key) for key in STRUCTURE_KEYS), document):
        if isinstance(held, dict) and "lattice" in held:
            return held
    return None


def is_ase_database(content: Any) -> bool:
    """Whether JSON is a database of ASE's."""
    return isinstance(content, dict) and "ids" in content and "nextid" in content


def atoms_in(document: Any) -> Atoms:
    """The atoms of a document.

    Raises:
        StructureError: it holds no structure, or one that is no ordered crystal.
    """
    if not isinstance(document, dict):
        raise StructureFileError(f"a JSON object was expected, not a {type(document).__name__}")
    texts = {key: json.loads(document[key]) for key in STRUCTURE_KEYS if isinstance(document.get(key), str)}
    held = _held({**document, **texts})
    if held is None:
        raise StructureFileError("there is no structure of pymatgen's in it, nor under " + ", ".join(STRUCTURE_KEYS))
    return atoms_of(held)


def atoms_of(structure: Mapping[str, Any]) -> Atoms:
    """The atoms of a structure in pymatgen's form, with the constraints that its sites have.

    Lattice, species and these are all that pymatgen is given: it would import the modules that other properties name.

    Raises:
        StructureError: it is no ordered crystal.
    """
    from pymatgen.core import Structure

    sites = []
    for site in structure["sites"]:
        free = (site.get("properties") or {}).get("selective_dynamics")
        held = {"selective_dynamics": [True] * 3 if free is None else free}
        sites.append({"species": site["species"], "abc": site["abc"], "properties": held})
    return Crystal.from_structure(Structure.from_dict({"lattice": structure["lattice"], "sites": sites})).to_atoms()
